"""What the readers of every data set share: the `Sample` they give, the doors its fields pass.

A sample is one question about one picture file, with its answer. Boxes stand in its texts as
BoxText writes them ("[0.440,0.060,0.650,0.367]", fractions of the displayed picture, as in the
examples of tasks.py), and once more, unrounded, in `boxes`. Nothing moves a box after it was
read: images.to_pixels squashes the whole picture and never crops or flips, so a fraction stays
true. (The published LION code crops and flips region data at random and leaves the boxes.)
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from lion_min import BadInput, check_file, tasks
from lion_min.boxes import MAX_PROMPT, SIDEWAYS, STICK_OUT, Box, check_box, turn_box
from lion_min.images import load_image, stored_frame

TASKS = tasks.TASKS + ("vqa", "chat")            # chat: the tasks of instruction data are unnamed
PLACES = ("", "images", "VG_100K", "VG_100K_2")  # of a picture, inside the folder of pictures
Size = tuple[int, int]                           # width, height in pixels, as displayed
Frame = tuple[Size, int]                         # size as stored, EXIF orientation
_SHORT = reprlib.Repr()
_SHORT.maxlevel = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 4
_SHORT.maxlong = _SHORT.maxstring = _SHORT.maxother = 50


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one picture file. Nothing is opened before `draw()`.

    task: one of TASKS. turns: the (prompt, answer) pairs said before, oldest first.
    boxes: xyxy fractions of the displayed picture, those that the texts name, in reading order:
    turns, prompt, answer. split: the data set's own word for the part it belongs to, or "".
    """

    image: Path
    task: str
    prompt: str
    answer: str
    boxes: tuple[Box, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    split: str = ""

    @property
    def region_level(self) -> bool:
        """True where a box is asked about or asked for: LION's router takes its region row."""
        return bool(self.boxes)

    def draw(self) -> Image.Image:
        """The picture as stored, RGB, upright, of any size."""
        return load_image(self.image)


class Record:
    """One JSON object and its place ("vsr.jsonl line 3"); each field is checked when taken."""

    def __init__(self, raw: object, where: str):
        """raw: a parsed value, or the bytes of one line of JSONL. BadInput if it is no object."""
        self.where = where
        self.fields = _parsed(raw, where) if isinstance(raw, bytes) else raw
        if not isinstance(self.fields, dict):
            raise self.bad(f"a {type(self.fields).__name__}, not a JSON object")

    def bad(self, reason: str) -> BadInput:
        return BadInput(f"{self.where}: {reason}")

    def take(self, name: str, kind: type):
        """The field, which must be a `kind`; true is no number."""
        value = self.fields.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.bad(f"{name} is {show(value)}; a {kind.__name__} is needed")
        return value

    def text(self, name: str) -> str:
        """The field as text without the spaces round it, neither empty nor endless."""
        return self.checked(self.take(name, str), name)

    def checked(self, text: str, name: str) -> str:
        """The text without the spaces round it, or BadInput for one that no model can read."""
        text = text.strip()
        if not text or len(text) > MAX_PROMPT:
            raise self.bad(f"{name} has {len(text)} characters; 1 to {MAX_PROMPT} are needed")
        try:
            text.encode()  # JSON can spell half a surrogate pair
        except UnicodeEncodeError as error:
            raise self.bad(f"{name}: character {error.start + 1} is not valid text") from None
        return text

    def rows(self, name: str) -> Iterator[tuple[str, object]]:
        """(place, value) for every element of a list."""
        word = name.removesuffix("s")
        return ((f"{self.where}, {word} {i}", raw)
                for i, raw in enumerate(self.take(name, list), 1))

    def records(self, name: str) -> list[Record]:
        """A list of objects, at least one."""
        found = [Record(raw, where) for where, raw in self.rows(name)]
        if not found:
            raise self.bad(f"{name} is empty")
        return found

    def follow(self, name: str, others: dict[int, Record], kind: str) -> Record:
        """The other record whose id this field holds."""
        if (key := self.take(name, int)) not in others:
            raise self.bad(f"{name} {show(key)} is not among the {kind}")
        return others[key]


# A reader gives the places and raw values of its records, and what makes samples of one.
Rows = Iterator[tuple[str, object]]
Reading = tuple[Rows, Callable[[Record], list[Sample]]]


def show(value: object) -> str:
    """A value in at most 60 characters: repr() of a small tangled pickle can fill the memory."""
    try:
        return _SHORT.repr(value)[:60]
    except ValueError:  # Python prints no number of more than 4,300 digits
        return f"a huge {type(value).__name__}"


# ---- files ---------------------------------------------------------------------------------------

def json_lines(file: Path) -> Rows:
    """(place, bytes) of every line that is not blank; Record parses them one by one."""
    with _checked(file).open("rb") as lines:  # bytes: a text file would also break at U+2028
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"{file} line {number}", line


def json_file(file: Path) -> object:
    """The one JSON value of a file."""
    return _parsed(_checked(file).read_bytes(), str(file))


def _checked(file: Path) -> Path:
    check_file(file)
    return file


def _parsed(raw: bytes, where: str) -> object:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8 text (byte {error.start}); write it again") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON ({error}); check its commas, quotes and brackets, "
                       "and that the download is whole") from None


# ---- pictures ------------------------------------------------------------------------------------

def find_picture(name: str, folder: Path, where: str) -> Path:
    """The file `name` in the folder of pictures or in one of its PLACES."""
    for place in PLACES:
        try:
            if (path := folder / place / name).is_file():
                return path
        except (OSError, ValueError):  # a name too long, or with a NUL in it
            break
    raise BadInput(f"{where}: picture {show(name)} is not in {folder}; copy it there, or name "
                   "the folder of the pictures")


picture_frame = lru_cache(maxsize=200_000)(stored_frame)  # COCO's boxes stand in no order of pictures


def picture_size(path: Path) -> Size:
    """Width and height as displayed."""
    size, orientation = picture_frame(path)
    return size[::-1] if orientation in SIDEWAYS else size


# ---- boxes ---------------------------------------------------------------------------------------

def pixel_box(x: float, y: float, width: float, height: float, frame: Frame, where: str) -> Box:
    """The field's x, y, width, height in pixels of a frame -> a checked box, upright fractions."""
    if not all(isinstance(v, (int, float)) and abs(v) < 1e6 for v in (x, y, width, height)):
        raise BadInput(f"{where}: box {show([x, y, width, height])} is not made of ordinary "
                       "numbers; x, y, width, height in pixels are needed")
    corners = [x, y, x + width, y + height]
    if max(corners) <= 1.02:  # check_box would take these pixels for fractions
        raise BadInput(f"{where}: box {show(corners)} covers less than a pixel of the picture")
    size, orientation = frame
    return turn_box(check_box(corners, *size, where)[0], orientation)


def fraction_box(numbers: list, size: Size, where: str, orientation: int = 1) -> Box:
    """x1, y1, x2, y2 that must be fractions of a frame -> a checked box, upright fractions."""
    if numbers and all(isinstance(v, (int, float)) for v in numbers) and (
            max(numbers) > 1 + STICK_OUT):  # check_box would take these for pixels
        raise BadInput(f"{where}: box {show(numbers)} is not in fractions of the picture; "
                       "divide by its width and height")
    return turn_box(check_box(numbers, *size, where)[0], orientation)
