"""Readers of annotated pictures from the disk. So far: what `python -m lion_min.scenes` writes.

A stored scene is a Scene whose picture is a file: it goes wherever a generated scene goes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lion_min import BadInput
from lion_min.boxes import check_box
from lion_min.images import load_image
from lion_min.scenes import Scene, Thing, World

SCENES = "scenes.jsonl"


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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text (byte {error.start}); write it again") from None
    scenes = [_scene(line, f"{path} line {number}", Path(folder), world)
              for number, line in enumerate(lines, 1) if line.strip()]
    if not scenes:
        raise BadInput(f"{path}: holds no scene; make some with python -m lion_min.scenes")
    return scenes


def _scene(line: str, where: str, folder: Path, world: World) -> StoredScene:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({error}); one object a line is needed") from None
    if not isinstance(record, dict):
        raise BadInput(f"{where}: a {type(record).__name__}, not a JSON object")
    file, objects = (_field(record, name, kind, where)
                     for name, kind in (("file", str), ("objects", list)))
    width, height = (_field(record, name, int, where) for name in ("width", "height"))
    if min(width, height) < 1:
        raise BadInput(f"{where}: {width}x{height} is no size of a picture")
    if not (folder / file).is_file():
        raise BadInput(f"{where}: picture {file!r} is not in {folder}; copy it there")
    if not objects:
        raise BadInput(f"{where}: no object; every task asks about one, so leave the line out")
    things = [_thing(o, width, height, f"{where}, object {i}", world)
              for i, o in enumerate(objects, 1)]
    things.sort(key=lambda t: (int(t.centre[1] * 8), int(t.centre[0] * 8)))  # reading order
    return StoredScene(world, tuple(things), file, folder / file)


def _thing(record: object, width: int, height: int, where: str, world: World) -> Thing:
    if not isinstance(record, dict):
        raise BadInput(f"{where}: a {type(record).__name__}, not a JSON object")
    known = {"kind": world.kinds, "colour": world.colours, "size": tuple(world.sizes),
             "texture": world.textures}
    words = {name: _field(record, name, str, where) for name in known}
    for name, word in words.items():
        if word not in known[name]:
            raise BadInput(f"{where}: {name} {word!r} is not of the world {world.name!r}; "
                           f"it has {', '.join(known[name])}")
    numbers = _field(record, "box", list, where)
    if numbers and all(isinstance(v, (int, float)) for v in numbers) and max(numbers) > 1.01:
        raise BadInput(f"{where}: box {numbers} is not in fractions of the picture; "
                       "divide by its width and height")  # pixels would pass the door below
    return Thing(**words, box=check_box(numbers, width, height, where)[0])


def _field(record: dict, name: str, kind: type, where: str):
    if not isinstance(record.get(name), kind) or isinstance(record[name], bool):
        raise BadInput(f"{where}: {name} is {record.get(name)!r:.40}; a {kind.__name__} is needed")
    return record[name]
