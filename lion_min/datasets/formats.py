"""The field's data formats, one reader each: a file -> samples (records.py).

A reader takes the annotation file and its Pictures, and returns the file's records in parts, each
with a function that makes the samples of one record or raises BadRecord with the record's place
and a reason; datasets.Annotations runs them. The fields are those that the data sets' own pages
and code name, given with each reader; other fields are ignored. Prompts come from the templates
of tasks.py in turn, so that the same file always gives the same samples.

    REG: what is in this box?     REC: where is this thing?
"""

from __future__ import annotations

import re
from itertools import cycle
from pathlib import Path

from lion_min.boxes import Box
from lion_min.datasets.pickles import read_plain_pickle
from lion_min.datasets.records import (Frame, Part, Pictures, Record, Rows, Sample, came_before,
                                       fraction_box, json_file, json_lines, picture_frame,
                                       picture_size, pixel_box, show)
from lion_min.left_out import BadRecord
from lion_min.tasks import BOX, TEMPLATES


# ---- COCO and RefCOCO ----------------------------------------------------------------------------

def coco(file: Path, pictures: Pictures) -> list[Part]:
    """COCO instances -> REG, one sample an object, answered by its category's name.

    {"images": [{"id", "file_name", "width", "height"}], "categories": [{"id", "name"}],
     "annotations": [{"id", "image_id", "category_id", "bbox": [x, y, width, height], "iscrowd"}]},
    boxes in pixels (cocodataset.org, format-data); LVIS, with coco_url in the place of file_name
    (lvisdataset.org, dataset). Crowds (iscrowd 1) are left out: their box holds no one object.
    Fills pictures.annotated: pictures without an object are part of the set.
    """
    data, prompts = Record(json_file(file), str(file)), cycle(TEMPLATES["reg"])
    kinds = _by_id(data, "categories")
    pictures.categories |= {str(kind.fields.get("name")).strip() for kind in kinds.values()}
    images: dict[int, tuple[Path, Frame] | None] = {}            # None: left out

    def make_image(r: Record) -> list[Sample]:
        key = r.take("id", int)
        images[key] = None
        images[key] = _coco_picture(r, pictures)
        pictures.annotated.setdefault(images[key][0], set())
        return []

    def make(r: Record) -> list[Sample]:
        if (found := r.follow("image_id", images, "images")) is None:
            raise r.bad(f"image_id {show(r.fields['image_id'])}: that picture is left out",
                        "of a picture left out")
        path, frame = found
        kind = r.follow("category_id", kinds, "categories").text("name")
        pictures.annotated[path].add(kind)
        try:
            if r.fields.get("iscrowd"):
                raise r.bad("a crowd", "crowd", by_rule=True)
            box = _coco_box(r, frame)
        except BadRecord:
            pictures.boxless[path].add(kind)
            raise
        return [_reg(path, box, kind, next(prompts))]
    return [Part("pictures", data.rows("images"), make_image, "id"),
            Part("annotations", data.rows("annotations"), make, "id")]


def captions(file: Path, pictures: Pictures) -> list[Part]:
    """COCO captions -> one sample a caption; a picture has about five, in as many samples.

    {"images": [{"id", "file_name"}], "annotations": [{"id", "image_id", "caption"}]}.
    """
    data, prompts = Record(json_file(file), str(file)), cycle(TEMPLATES["caption"])
    images = _by_id(data, "images")

    def make(r: Record) -> list[Sample]:
        image = r.follow("image_id", images, "images")
        path = pictures.find(image.text("file_name"), r.where)
        return [Sample(path, "caption", next(prompts), r.text("caption"))]
    return [Part("captions", data.rows("annotations"), make, "id")]


def refcoco(file: Path, pictures: Pictures) -> list[Part]:
    """RefCOCO, RefCOCO+ and RefCOCOg -> REC, one sample an expression, `split` as the file says.

    file: refs(unc).p, refs(google).p, refs(umd).p, or the same list as .json: [{"ref_id", "ann_id",
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
                        "come from the same download", "image_id of another picture")
        path, frame = _coco_picture(r.follow("image_id", images, "images"), pictures)
        box, split = _coco_box(thing, frame), r.text("split")
        said = [sentence.text("sent") for sentence in r.records("sentences")]
        return [Sample(path, "rec", _capital(next(prompts).format(words)), BOX.format(box),
                       (box,), split=split) for words in said]
    return [Part("references", _elements(refs, file), make, "ref_id")]


def _by_id(data: Record, name: str) -> dict[int, Record]:
    """A list of objects by id; one without an id is told where something needs it."""
    seen: dict[object, Record] = {}
    for where, raw in data.rows(name):
        if isinstance(raw, dict):
            came_before(Record(raw, where), "id", seen)
    return {key: record for key, record in seen.items() if isinstance(key, int)}


def _coco_picture(image: Record, pictures: Pictures) -> tuple[Path, Frame]:
    """The picture and the frame of its boxes: as stored, or upright where only that size fits."""
    if "file_name" in image.fields or "coco_url" not in image.fields:
        name = image.text("file_name")
    else:                                          # "http://.../train2017/000000391895.jpg"
        name = "/".join(image.text("coco_url").split("/")[-2:])
    path = pictures.find(name, image.where)
    size = image.take("width", int), image.take("height", int)
    if size == picture_frame(path)[0]:
        return path, picture_frame(path)
    if size != picture_size(path):  # a wrong folder
        raise image.bad(f"{size[0]}x{size[1]} pixels, but {path} shows {picture_size(path)[0]}x"
                        f"{picture_size(path)[1]}: its boxes are of another frame",
                        "picture of another size")
    return path, (size, 1)


def _coco_box(thing: Record, frame: Frame) -> Box:
    if len(numbers := thing.take("bbox", list)) != 4:
        raise thing.bad(f"bbox has {len(numbers)} numbers; x, y, width, height are needed",
                        "box malformed")
    return pixel_box(*numbers, frame, thing.where)


# ---- Visual Genome, VSR, POPE --------------------------------------------------------------------

def vg(file: Path, pictures: Pictures) -> list[Part]:
    """Visual Genome region descriptions -> REG, one sample a region, answered by its phrase.

    [{"id", "regions": [{"image_id", "x", "y", "width", "height", "phrase"}]}], boxes in pixels;
    the picture is IMAGE_ID.jpg, of VG_100K or VG_100K_2 (visualgenome.org, region_descriptions).
    Some thousands of its boxes leave the picture, some are empty: expect bad records.
    """
    prompts, found = cycle(TEMPLATES["reg"]), []

    def make_image(r: Record) -> list[Sample]:
        found.append(r.rows("regions"))
        return []

    def make(r: Record) -> list[Sample]:
        path = pictures.find(f"{r.take('image_id', int)}.jpg", r.where)
        numbers = [r.fields.get(name) for name in ("x", "y", "width", "height")]
        box = pixel_box(*numbers, picture_frame(path), r.where)
        return [_reg(path, box, r.text("phrase"), next(prompts))]
    return [Part("pictures", _elements(json_file(file), file), make_image, None),
            Part("regions", (row for rows in found for row in rows), make)]


def vsr(file: Path, pictures: Pictures) -> list[Part]:
    """Visual Spatial Reasoning -> true or false.

    JSONL {"image", "caption", "label": 0|1, "relation"} (github.com/cambridgeltl/
    visual-spatial-reasoning, data/README.md).
    """
    def make(r: Record) -> list[Sample]:
        if r.take("label", int) not in (0, 1):
            raise r.bad(f"label is {show(r.fields['label'])}; 0 (false) or 1 (true) is needed",
                        "label malformed")
        path = pictures.find(r.text("image"), r.where)
        answer = "true" if r.fields["label"] else "false"
        return [Sample(path, "relation", f"{r.text('caption')} True or false?", answer)]
    return [Part("statements", json_lines(file), make)]


def pope(file: Path, pictures: Pictures) -> list[Part]:
    """POPE -> yes or no. JSONL {"question_id", "image", "text", "label": "yes"|"no"}, in files
    that are named .json (github.com/RUCAIBox/POPE, README)."""
    def make(r: Record) -> list[Sample]:
        if (answer := r.text("label").lower()) not in ("yes", "no"):
            raise r.bad(f"label is {answer[:40]!r}; yes or no is needed", "label malformed")
        path = pictures.find(r.text("image"), r.where)
        return [Sample(path, "existence", r.text("text"), answer)]
    return [Part("questions", json_lines(file), make, "question_id")]


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


def conversations(file: Path, pictures: Pictures) -> list[Part]:
    """LLaVA's and PVIT's conversations -> one sample an answer, what was said before as turns.

    [{"id", "image", "conversations": [{"from": "human"|"gpt", "value"}]}]; human begins, a gpt
    before it is dropped, as in LLaVA's own reader (github.com/haotian-liu/LLaVA,
    docs/Finetune_Custom_Data.md). "<image>" is taken out of the texts. A conversation without
    an image (LLaVA 1.5's mix has 40,000 of ShareGPT) is left out.
    PVIT's regions, "<Region><L204><L469><L810><L960></Region>" in thousandths or
    "<Region>[0.204, 0.469, 0.810, 0.960]</Region>" (PVIT spec 3.2), become box text. Numbers
    outside a region stay mere text: LLaVA 1.5 counts those in fractions of the padded square.
    """
    def make(r: Record) -> list[Sample]:
        if "image" not in r.fields:
            raise r.bad("it has no image", "text-only conversation", by_rule=True)
        path, talk = pictures.find(r.text("image"), r.where), r.records("conversations")
        talk = talk[1:] if talk[0].fields.get("from") == "gpt" else talk
        if not talk or len(talk) % 2:
            raise r.bad(f"{len(talk)} texts; each of human needs one of gpt behind it",
                        "conversation without its answer")
        for turn, speaker in zip(talk, cycle(("human", "gpt"))):
            if turn.fields.get("from") != speaker:
                raise turn.bad(f"from is {show(turn.fields.get('from'))}; {speaker!r} is "
                               "needed, the two take turns", "conversation out of turn")
        return answers(path, "chat", [_regions(turn, path) for turn in talk])
    return [Part("conversations", _elements(json_file(file), file), make)]


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
                raise turn.bad(f"region {match[0][:60]!r} has no four numbers",
                               "box malformed") from None
        size, orientation = picture_frame(path)
        boxes.append(fraction_box(numbers, size, turn.where, orientation))
        return BOX.format(boxes[-1])

    text = REGION.sub(rewrite, turn.take("value", str).replace("<image>", ""))
    if "<Region>" in text or "</Region>" in text:
        raise turn.bad("a <Region> without its </Region>, or the other way round",
                       "box malformed")
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
