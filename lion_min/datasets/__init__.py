"""Annotated pictures from the disk: `Annotations` of every format, `read_scenes` for drawn ones.

    python -m lion_min.datasets check FILE_OR_FOLDER [--format NAME] [--images DIR]

lists every bad record by line and reason, and counts what is there. FORMATS names the formats;
"samples" is the project's own, one JSON object a line:

    {"image": "cat.jpg", "task": "rec", "prompt": "Where is the cat?", "answer": "[12,30,96,88]",
     "turns": [["What is this?", "A sofa."]], "split": "train"}

Boxes are written in the texts as at the command line: fractions when no number exceeds 1, else
pixels of the picture as displayed. `turns` (said before), `split`, `boxes` (unrounded fractions,
as many as the texts name) and `id` (its own for each) may be left out.

A stored scene is a Scene whose picture is a file: it goes wherever a generated scene goes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from PIL import Image

from lion_min import BadInput
from lion_min.boxes import Box, prompt_boxes
from lion_min.cli import MAX_BAD
from lion_min.datasets import formats
from lion_min.datasets.records import (TASKS, Part, Pictures, Record, Sample, came_before,
                                       fraction_box, json_lines, picture_size)
from lion_min.images import load_image
from lion_min.left_out import BadRecord, LeftOut
from lion_min.scenes import Scene, Thing, World

SCENES = "scenes.jsonl"
FIELDS = ("image", "task", "prompt", "answer", "turns", "boxes", "split", "id")


# ---- every format --------------------------------------------------------------------------------

def own(file: Path, pictures: Pictures) -> list[Part]:
    """The project's own JSONL, see the top of this file. A misspelt field is told, not ignored."""
    def make(r: Record) -> list[Sample]:
        if unknown := sorted(set(r.fields) - set(FIELDS)):
            raise r.bad(f"unknown field {unknown[0][:40]!r}; there are {', '.join(FIELDS)}",
                        "unknown field")
        if (task := r.text("task")) not in TASKS:
            raise r.bad(f"task {task[:40]!r} is none of {', '.join(TASKS)}", "unknown task")
        path = pictures.find(r.text("image"), r.where)
        talk = [_with_boxes(text, name, path, r) for name, text in _texts(r)]
        split = r.text("split") if "split" in r.fields else ""
        return formats.answers(path, task, _unrounded(talk, path, r), split)[-1:]
    return [Part("records", json_lines(file), make, "id")]


FORMATS = {"samples": own, "coco": formats.coco, "captions": formats.captions,
           "refcoco": formats.refcoco, "vg": formats.vg, "vsr": formats.vsr, "pope": formats.pope,
           "llava": formats.conversations, "pvit": formats.conversations}
# The annotation files of a data set's folder, as it unpacks, by format; the first that fits is read.
# RefCOCO's folder has COCO's instances, too, so it comes first.
NAMES = {"refcoco": ("refs(unc).p", "refs(umd).p", "refs(google).p", "refs(*).json"),
         "coco": ("instances.json", "annotations/instances_*.json", "instances_*.json",
                  "annotations/lvis_v*.json", "lvis_v*.json"),
         "captions": ("captions.json", "annotations/captions_*.json", "captions_*.json"),
         "samples": ("samples.jsonl",), "vg": ("region_descriptions.json",),
         "vsr": ("all_vsr_validated_data.jsonl",), "pope": ("*pope_*.json",),
         "llava": ("llava_*.json",), "pvit": ("pvit*.json",)}


def files_of(data: Path, form: str | None = None, part: str = "train", lines: str | None = None
             ) -> list[tuple[Path, str]]:
    """(annotation file, format) of `--data`: a file, or all that a data set's folder holds.

    form: one of FORMATS; None: by the file's name. part: files with it in their name come first,
    newer years before older ones. lines: the format of a .jsonl of another name. BadInput where
    nothing fits.
    """
    names = {form: NAMES[form]} if form else NAMES
    if data.is_dir():
        found = [(file, name) for name, patterns in names.items() for pattern in patterns
                 for file in sorted(sorted(data.glob(pattern), reverse=True),
                                    key=lambda file: part not in file.name) if file.is_file()]
        if found:
            return found
        known = ", ".join(pattern for patterns in names.values() for pattern in patterns)
        raise BadInput(f"data {str(data)!r}: holds none of {'' if form else SCENES + ', '}{known}; give "
                       "the annotation file itself and its --format, and --images for its photographs")
    if not data.exists():
        raise BadInput(f"{data}: no such file; check the path")
    fitting = [name for name, patterns in names.items() for pattern in patterns
               if form or fnmatch(data.name, Path(pattern).name)]
    fitting += [lines] if lines and data.suffix == ".jsonl" else []
    if not fitting:
        raise BadInput(f"{data}: say which format it has: --format {'|'.join(FORMATS)}")
    return [(data, fitting[0])]


class Annotations:
    """An annotation file, read record by record: iterate once for its samples, in its order.

    form: one of FORMATS. images: the folder of the pictures; default: the file's own, see
    records.Pictures. on_bad is told of each bad record, which is then left out; default: counted
    alone. BadInput where an id that must be unique is not, or no record gives a sample.
    """

    def __init__(self, file: Path, form: str, images: Path | None = None,
                 on_bad: Callable[[BadRecord], None] = lambda error: None):
        self.file, self.form, self.on_bad = file, form, on_bad
        self.pictures = Pictures(file, images, around=form == "refcoco")
        self.left_out, self.counts = LeftOut(file), Counter()
        self.samples: list[Sample] = []    # filled by `load`

    def __iter__(self) -> Iterator[Sample]:
        count = 0
        for part in FORMATS[self.form](self.file, self.pictures):
            seen: dict[object, Record] = {}
            for where, raw in part.rows:
                self.left_out.total += 1
                self.counts[part.kind] += 1
                try:
                    record = Record(raw, where)
                    if came_before(record, part.key, seen):
                        raise record.bad("stands twice", "repeated", by_rule=True)
                    made = part.make(record)
                except BadRecord as error:
                    self.left_out.add(error)
                    if not error.by_rule:
                        self.on_bad(error)
                else:
                    count += len(made)
                    yield from made
        if not count:
            raise BadInput(f"{self.file}: holds no good record of the format {self.form!r}: "
                           f"{self.left_out.summary() or 'it is empty'}")


def read_samples(file: Path | str, form: str = "samples", images: Path | str | None = None,
                 on_bad: Callable[[BadRecord], None] | None = None) -> Iterator[Sample]:
    """The samples of an annotation file, each made when it is asked for; see Annotations.

    Without on_bad the first bad record raises BadInput, naming file, record and reason.
    """
    def strict(error: BadRecord) -> None:
        raise error
    yield from Annotations(Path(file), form, images and Path(images), on_bad or strict)


def load(data: Path | str, form: str | None = None, images: Path | None = None,
         max_bad: float = MAX_BAD, part: str = "train") -> Annotations:
    """The annotations of a file or of a data set's folder, with their samples.

    What was left out is told in one line on stderr; BadInput where more than the share max_bad of
    the records is bad.
    """
    file, form = files_of(Path(data), form, part)[0]
    annotations = Annotations(file, form, images)
    annotations.samples = list(annotations)
    annotations.left_out.check(max_bad)
    annotations.left_out.tell()
    return annotations


def fingerprint(scenes: list) -> str:
    """A hash of the annotations of photographs or stored scenes: files' names, texts, boxes."""
    digest = hashlib.sha256()
    for scene in scenes:
        samples = [(s.task, s.prompt, s.answer, s.boxes, s.turns, s.split)
                   for s in getattr(scene, "samples", ())]
        digest.update(repr((scene.path.name, scene.objects, samples)).encode())
    return digest.hexdigest()[:16]


def _texts(r: Record) -> list[tuple[str, str]]:
    """(field, text) of the turns, the prompt and the answer, in the order they were said."""
    turns = r.take("turns", list) if "turns" in r.fields else []
    for turn in turns:
        if not isinstance(turn, list) or [type(text) for text in turn] != [str, str]:
            raise r.bad("turns must be a list of [prompt, answer], all text", "turns malformed")
    said = [("turns", text) for turn in turns for text in turn]
    return [(name, r.checked(text, name)) for name, text in said] + [
        (name, r.text(name)) for name in ("prompt", "answer")]


def _with_boxes(text: str, name: str, path: Path, r: Record) -> tuple[str, list[Box]]:
    """The text with its boxes as BoxText writes them, and the boxes."""
    size = picture_size(path)
    try:
        return prompt_boxes(text, *size)[:2]
    except BadInput as error:
        raise r.bad(f"{name}: {str(error).removeprefix('prompt: ')}", "box malformed") from None


def _unrounded(talk: list, path: Path, r: Record) -> list:
    """The boxes of the texts replaced by those of the field `boxes`, where there is one."""
    if "boxes" not in r.fields:
        return talk
    named = sum(len(boxes) for _, boxes in talk)
    if len(given := r.take("boxes", list)) != named:
        raise r.bad(f"boxes holds {len(given)}, but the texts name {named}", "boxes malformed")
    if not all(isinstance(box, list) for box in given):
        raise r.bad("boxes must be a list of [x1, y1, x2, y2]", "boxes malformed")
    exact = iter([fraction_box(box, picture_size(path), r.where) for box in given])
    talk = [(text, [(box, next(exact)) for box in boxes]) for text, boxes in talk]
    if any(abs(a - b) > 0.002 for _, pairs in talk for pair in pairs for a, b in zip(*pair)):
        raise r.bad("boxes are other ones than the texts name, or in another order",
                    "boxes of other texts")
    return [(text, [box for _, box in pairs]) for text, pairs in talk]


# ---- drawn scenes --------------------------------------------------------------------------------

@dataclass(frozen=True)
class StoredScene(Scene):
    """The truth about one picture file. `path` holds the picture that `draw()` gives."""

    path: Path = Path()

    def draw(self) -> Image.Image:
        """The picture as stored, RGB, of any size."""
        return load_image(self.path)


def read_scenes(folder: Path | str, world: World) -> list[StoredScene]:
    """Every scene of FOLDER/scenes.jsonl, in its order.

    One JSON object a line: {"file", "width", "height", "objects": [{"kind", "colour", "size",
    "texture", "box"}]}, boxes xyxy in fractions; other keys are ignored. Raises BadInput, naming
    file and line, for a record that cannot be read, a missing picture, a word that `world` does
    not have, or a box that is none. Pictures are opened only when they are drawn.
    """
    path = Path(folder) / SCENES
    if not path.is_file():
        raise BadInput(f"data {str(folder)!r}: holds no {SCENES}; "
                       "make one with python -m lion_min.scenes")
    scenes = [_scene(Record(line, where), Path(folder), world) for where, line in json_lines(path)]
    if not scenes:
        raise BadInput(f"{path}: holds no scene; make some with python -m lion_min.scenes")
    return scenes


def _scene(r: Record, folder: Path, world: World) -> StoredScene:
    file, objects = r.take("file", str), r.take("objects", list)
    width, height = r.take("width", int), r.take("height", int)
    if min(width, height) < 1:
        raise r.bad(f"{width}x{height} is no size of a picture", "size malformed")
    if not (folder / file).is_file():
        raise r.bad(f"picture {file!r} is not in {folder}; copy it there", "picture missing")
    if not objects:
        raise r.bad("no object; every task asks about one, so leave the line out", "no object")
    things = [_thing(Record(raw, where), width, height, world)
              for where, raw in r.rows("objects")]
    things.sort(key=lambda t: (int(t.centre[1] * 8), int(t.centre[0] * 8)))  # reading order
    return StoredScene(world, tuple(things), file, folder / file)


def _thing(r: Record, width: int, height: int, world: World) -> Thing:
    known = {"kind": world.kinds, "colour": world.colours, "size": tuple(world.sizes),
             "texture": world.textures}
    words = {name: r.take(name, str) for name in known}
    for name, word in words.items():
        if word not in known[name]:
            raise r.bad(f"{name} {word!r} is not of the world {world.name!r}; "
                        f"it has {', '.join(known[name])}", f"unknown {name}")
    return Thing(**words, box=fraction_box(r.take("box", list), (width, height), r.where))
