"""Annotated pictures from the disk: `read_samples` for every format, `read_scenes` for drawn ones.

    python -m lion_min.datasets check FILE [--format NAME] [--images DIR]

lists every bad record by line and reason, or counts what is there. FORMATS names the formats;
"samples" is the project's own, one JSON object a line:

    {"image": "cat.jpg", "task": "rec", "prompt": "Where is the cat?", "answer": "[12,30,96,88]",
     "turns": [["What is this?", "A sofa."]], "split": "train"}

Boxes are written in the texts as at the command line: fractions when no number exceeds 1, else
pixels of the picture as displayed. `turns` (said before), `split`, `boxes` (unrounded fractions,
as many as the texts name) and `id` may be left out.

A stored scene is a Scene whose picture is a file: it goes wherever a generated scene goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lion_min import BadInput
from lion_min.boxes import Box, prompt_boxes
from lion_min.datasets import formats
from lion_min.images import load_image
from lion_min.datasets.records import (TASKS, Reading, Record, Sample, find_picture, fraction_box,
                              json_lines, picture_size)
from lion_min.scenes import Scene, Thing, World

SCENES = "scenes.jsonl"
FIELDS = ("image", "task", "prompt", "answer", "turns", "boxes", "split", "id")


# ---- every format --------------------------------------------------------------------------------

def own(file: Path, pictures: Path) -> Reading:
    """The project's own JSONL, see the top of this file. A misspelt field is told, not ignored."""
    def make(r: Record) -> list[Sample]:
        if unknown := sorted(set(r.fields) - set(FIELDS)):
            raise r.bad(f"unknown field {unknown[0][:40]!r}; there are {', '.join(FIELDS)}")
        if (task := r.text("task")) not in TASKS:
            raise r.bad(f"task {task[:40]!r} is none of {', '.join(TASKS)}")
        path = find_picture(r.text("image"), pictures, r.where)
        talk = [_with_boxes(text, name, path, r) for name, text in _texts(r)]
        split = r.text("split") if "split" in r.fields else ""
        return formats.answers(path, task, _unrounded(talk, path, r), split)[-1:]
    return json_lines(file), make


FORMATS = {"samples": own, "coco": formats.coco, "captions": formats.captions,
           "refcoco": formats.refcoco, "vg": formats.vg, "vsr": formats.vsr, "pope": formats.pope,
           "llava": formats.conversations, "pvit": formats.conversations}


def read_samples(file: Path | str, form: str = "samples", images: Path | str | None = None,
                 on_bad: Callable[[BadInput], None] | None = None) -> Iterator[Sample]:
    """The samples of an annotation file, in its order, each made when it is asked for.

    form: one of FORMATS. images: the folder of the pictures; default: the file's own. A picture
    may also stand in that folder's images/, VG_100K/ or VG_100K_2/.
    on_bad: is told of each bad record, which is then left out; without it the first one raises
    BadInput, naming file, record and reason. A file without one good record raises BadInput.
    """
    path = Path(file)
    rows, make = FORMATS[form](path, path.parent if images is None else Path(images))
    count = 0
    for where, raw in rows:
        try:
            made = make(Record(raw, where))
        except BadInput as error:
            if on_bad is None:
                raise
            on_bad(error)
        else:
            count += len(made)
            yield from made
    if not count:
        raise BadInput(f"{path}: holds no good record of the format {form!r}")


def _texts(r: Record) -> list[tuple[str, str]]:
    """(field, text) of the turns, the prompt and the answer, in the order they were said."""
    turns = r.take("turns", list) if "turns" in r.fields else []
    for turn in turns:
        if not isinstance(turn, list) or [type(text) for text in turn] != [str, str]:
            raise r.bad("turns must be a list of [prompt, answer], all text")
    said = [("turns", text) for turn in turns for text in turn]
    return [(name, r.checked(text, name)) for name, text in said] + [
        (name, r.text(name)) for name in ("prompt", "answer")]


def _with_boxes(text: str, name: str, path: Path, r: Record) -> tuple[str, list[Box]]:
    """The text with its boxes as BoxText writes them, and the boxes."""
    try:
        return prompt_boxes(text, *picture_size(path))[:2]
    except BadInput as error:
        raise r.bad(f"{name}: {str(error).removeprefix('prompt: ')}") from None


def _unrounded(talk: list, path: Path, r: Record) -> list:
    """The boxes of the texts replaced by those of the field `boxes`, where there is one."""
    if "boxes" not in r.fields:
        return talk
    named = sum(len(boxes) for _, boxes in talk)
    if len(given := r.take("boxes", list)) != named:
        raise r.bad(f"boxes holds {len(given)}, but the texts name {named}")
    if not all(isinstance(box, list) for box in given):
        raise r.bad("boxes must be a list of [x1, y1, x2, y2]")
    exact = iter([fraction_box(box, picture_size(path), r.where) for box in given])
    talk = [(text, [(box, next(exact)) for box in boxes]) for text, boxes in talk]
    if any(abs(a - b) > 0.002 for _, pairs in talk for pair in pairs for a, b in zip(*pair)):
        raise r.bad("boxes are other ones than the texts name, or in another order")
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
        raise r.bad(f"{width}x{height} is no size of a picture")
    if not (folder / file).is_file():
        raise r.bad(f"picture {file!r} is not in {folder}; copy it there")
    if not objects:
        raise r.bad("no object; every task asks about one, so leave the line out")
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
                        f"it has {', '.join(known[name])}")
    return Thing(**words, box=fraction_box(r.take("box", list), (width, height), r.where))
