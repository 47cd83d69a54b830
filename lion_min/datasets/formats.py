"""The field's data formats, one reader each: a file -> samples (records.py).

A reader takes the annotation file and the folder of its pictures, and returns the file's records
with their places, and a function that makes the samples of one record or raises BadInput with
the record's place; datasets.read_samples runs the two. The fields are those that the data sets'
own pages and code name, given with each reader; other fields are ignored. Prompts come from the
templates of tasks.py in turn, so that the same file always gives the same samples.

    REG: what is in this box?     REC: where is this thing?
"""

from __future__ import annotations

import re
from itertools import cycle
from pathlib import Path

from lion_min.boxes import Box
from lion_min.datasets.pickles import read_plain_pickle
from lion_min.datasets.records import (Frame, Reading, Record, Rows, Sample, find_picture,
                                       fraction_box, json_file, json_lines, picture_frame,
                                       picture_size, pixel_box)
from lion_min.tasks import BOX, TEMPLATES


# ---- COCO and RefCOCO ----------------------------------------------------------------------------

def coco(file: Path, pictures: Path) -> Reading:
    """COCO instances -> REG, one sample an object, answered by its category's name.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"image_id", "category_id", "bbox": [x, y, width, height], "iscrowd"}]},
    boxes in pixels (cocodataset.org, format-data). Crowds (iscrowd 1) are left out: their box
    holds no one object.
    """
    data, prompts = Record(json_file(file), str(file)), cycle(TEMPLATES["reg"])
    images, kinds = _by_id(data, "images"), _by_id(data, "categories")

    def make(r: Record) -> list[Sample]:
        if r.fields.get("iscrowd"):
            return []
        path, frame = _coco_picture(r.follow("image_id", images, "images"), pictures)
        kind = r.follow("category_id", kinds, "categories").text("name")
        return [_reg(path, _coco_box(r, frame), kind, next(prompts))]
    return data.rows("annotations"), make


def captions(file: Path, pictures: Path) -> Reading:
    """COCO captions -> one sample a caption; a picture has about five, in as many samples.

    {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}.
    """
    data, prompts = Record(json_file(file), str(file)), cycle(TEMPLATES["caption"])
    images = _by_id(data, "images")

    def make(r: Record) -> list[Sample]:
        image = r.follow("image_id", images, "images")
        path = find_picture(image.text("file_name"), pictures, r.where)
        return [Sample(path, "caption", next(prompts), r.text("caption"))]
    return data.rows("annotations"), make


def refcoco(file: Path, pictures: Path) -> Reading:
    """RefCOCO, RefCOCO+ and RefCOCOg -> REC, one sample an expression, `split` as the file says.

    file: refs(unc).p, refs(google).p, refs(umd).p, or the same list as .json: [{"ann_id",
    "image_id", "split": "train"|"val"|"test"|"testA"|"testB", "sentences": [{"sent"}]}].
    instances.json beside it, in COCO's form, has the boxes and the pictures' names: a ref's own
    file_name is to be ignored (github.com/lichengunc/refer).
    """
    refs = json_file(file) if file.suffix == ".json" else read_plain_pickle(file)
    beside = file.with_name("instances.json")
    data, prompts = Record(json_file(beside), str(beside)), cycle(TEMPLATES["rec"])
    images, things = _by_id(data, "images"), _by_id(data, "annotations")

    def make(r: Record) -> list[Sample]:
        thing = r.follow("ann_id", things, "annotations of instances.json")
        if r.take("image_id", int) != thing.take("image_id", int):
            raise r.bad("image_id is another one than its annotation's; instances.json must "
                        "come from the same download")
        path, frame = _coco_picture(r.follow("image_id", images, "images"), pictures)
        box, split = _coco_box(thing, frame), r.text("split")
        said = [sentence.text("sent") for sentence in r.records("sentences")]
        return [Sample(path, "rec", _capital(next(prompts).format(words)), BOX.format(box),
                       (box,), split=split) for words in said]
    return _elements(refs, file), make


def _by_id(data: Record, name: str) -> dict[int, Record]:
    """A list of objects by id; one without an id is told where something needs it."""
    return {raw["id"]: Record(raw, where) for where, raw in data.rows(name)
            if isinstance(raw, dict) and isinstance(raw.get("id"), int)}


def _coco_picture(image: Record, pictures: Path) -> tuple[Path, Frame]:
    """The picture and the frame of its boxes: as stored, or upright where only that size fits."""
    path = find_picture(image.text("file_name"), pictures, image.where)
    size = image.take("width", int), image.take("height", int)
    if size == picture_frame(path)[0]:
        return path, picture_frame(path)
    if size != picture_size(path):  # a wrong folder
        raise image.bad(f"{size[0]}x{size[1]} pixels, but {path} shows {picture_size(path)[0]}x"
                        f"{picture_size(path)[1]}: its boxes are of another frame")
    return path, (size, 1)


def _coco_box(thing: Record, frame: Frame) -> Box:
    if len(numbers := thing.take("bbox", list)) != 4:
        raise thing.bad(f"bbox has {len(numbers)} numbers; x, y, width, height are needed")
    return pixel_box(*numbers, frame, thing.where)


# ---- Visual Genome, VSR, POPE --------------------------------------------------------------------

def vg(file: Path, pictures: Path) -> Reading:
    """Visual Genome region descriptions -> REG, one sample a region, answered by its phrase.

    [{"id", "regions": [{"image_id", "x", "y", "width", "height", "phrase"}]}], boxes in pixels;
    the picture is IMAGE_ID.jpg, of VG_100K or VG_100K_2 (visualgenome.org, region_descriptions).
    Many of its boxes leave the picture, some are empty: expect bad records.
    """
    prompts = cycle(TEMPLATES["reg"])

    def rows() -> Rows:
        for where, raw in _elements(json_file(file), file):
            regions = raw.get("regions") if isinstance(raw, dict) else None
            if isinstance(regions, list):
                yield from Record(raw, where).rows("regions")
            else:
                yield f"{where}, regions", regions  # told when it is made into a sample

    def make(r: Record) -> list[Sample]:
        path = find_picture(f"{r.take('image_id', int)}.jpg", pictures, r.where)
        numbers = [r.fields.get(name) for name in ("x", "y", "width", "height")]
        box = pixel_box(*numbers, picture_frame(path), r.where)
        return [_reg(path, box, r.text("phrase"), next(prompts))]
    return rows(), make


def vsr(file: Path, pictures: Path) -> Reading:
    """Visual Spatial Reasoning -> true or false.

    JSONL {"image", "caption", "label": 0|1, "relation"} (github.com/cambridgeltl/
    visual-spatial-reasoning, data/README.md).
    """
    def make(r: Record) -> list[Sample]:
        if r.take("label", int) not in (0, 1):
            raise r.bad(f"label is {r.fields['label']}; 0 (false) or 1 (true) is needed")
        path = find_picture(r.text("image"), pictures, r.where)
        answer = "true" if r.fields["label"] else "false"
        return [Sample(path, "relation", f"{r.text('caption')} True or false?", answer)]
    return json_lines(file), make


def pope(file: Path, pictures: Path) -> Reading:
    """POPE -> yes or no. JSONL {"question_id", "image", "text", "label": "yes"|"no"}, in files
    that are named .json (github.com/RUCAIBox/POPE, README)."""
    def make(r: Record) -> list[Sample]:
        if (answer := r.text("label").lower()) not in ("yes", "no"):
            raise r.bad(f"label is {answer[:40]!r}; yes or no is needed")
        path = find_picture(r.text("image"), pictures, r.where)
        return [Sample(path, "existence", r.text("text"), answer)]
    return json_lines(file), make


def _reg(path: Path, box: Box, answer: str, prompt: str) -> Sample:
    return Sample(path, "reg", _capital(prompt.format(BOX.format(box))), answer, (box,))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _elements(raw: object, file: Path) -> Rows:
    """(place, element) of the list that a whole file is."""
    wrapped = Record({"records": raw}, str(file))
    return wrapped.rows("records")


# ---- conversations -------------------------------------------------------------------------------

REGION = re.compile(r"<Region>(.*?)</Region>", re.DOTALL)
LOCATIONS = re.compile(r"\s*".join([r"<L(\d{1,4})>"] * 4))


def conversations(file: Path, pictures: Path) -> Reading:
    """LLaVA's and PVIT's conversations -> one sample an answer, what was said before as turns.

    [{"id", "image", "conversations": [{"from": "human"|"gpt", "value"}]}]; human begins, a gpt
    before it is dropped, as in LLaVA's own reader (github.com/haotian-liu/LLaVA,
    docs/Finetune_Custom_Data.md). "<image>" is taken out of the texts.
    PVIT's regions, "<Region><L204><L469><L810><L960></Region>" in thousandths or
    "<Region>[0.204, 0.469, 0.810, 0.960]</Region>" (PVIT spec 3.2), become box text. Numbers
    outside a region stay mere text: LLaVA 1.5 counts those in fractions of the padded square.
    """
    def make(r: Record) -> list[Sample]:
        path, talk = find_picture(r.text("image"), pictures, r.where), r.records("conversations")
        talk = talk[1:] if talk[0].fields.get("from") == "gpt" else talk
        if not talk or len(talk) % 2:
            raise r.bad(f"{len(talk)} texts; each of human needs one of gpt behind it")
        for turn, speaker in zip(talk, cycle(("human", "gpt"))):
            if turn.fields.get("from") != speaker:
                raise turn.bad(f"from is {str(turn.fields.get('from'))[:40]!r}; {speaker!r} is "
                               "needed, the two take turns")
        return answers(path, "chat", [_regions(turn, path) for turn in talk])
    return _elements(json_file(file), file), make


def _regions(turn: Record, path: Path) -> tuple[str, list[Box]]:
    """The turn's text with box text for its regions, and their boxes."""
    boxes: list[Box] = []

    def rewrite(match: re.Match) -> str:
        if inside := LOCATIONS.fullmatch(match[1].strip()):
            numbers = [int(v) / 1000 for v in inside.groups()]
        else:
            try:
                numbers = [float(v) for v in match[1].strip().strip("[]").split(",")]
            except ValueError:
                raise turn.bad(f"region {match[0][:60]!r} has no four numbers") from None
        size, orientation = picture_frame(path)
        boxes.append(fraction_box(numbers, size, turn.where, orientation))
        return BOX.format(boxes[-1])

    text = REGION.sub(rewrite, turn.take("value", str).replace("<image>", ""))
    if "<Region>" in text or "</Region>" in text:
        raise turn.bad("a <Region> without its </Region>, or the other way round")
    return turn.checked(text, "value"), boxes


def answers(path: Path, task: str, talk: list[tuple[str, list[Box]]],
            split: str = "") -> list[Sample]:
    """Texts in turn, prompt and answer, each with its boxes -> one sample an answer."""
    made, turns, boxes = [], (), ()
    for (prompt, asked), (answer, told) in zip(talk[::2], talk[1::2]):
        boxes += (*asked, *told)
        made.append(Sample(path, task, prompt, answer, boxes, turns, split))
        turns += ((prompt, answer),)
    return made
