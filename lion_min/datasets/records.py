"""What the readers of every data set share: the `Sample` they give, the checks of its fields.

A sample is one question about one picture file, with its answer. Boxes stand in its texts as
BoxText writes them ("[0.440,0.060,0.650,0.367]", fractions of the displayed picture, as in the
examples of tasks.py), and once more, unrounded, in `boxes`. Nothing moves a box after it was
read: images.to_pixels squashes the whole picture and never crops or flips, so a fraction stays
true. (The published LION code crops and flips region data at random and leaves the boxes.)
"""

from __future__ import annotations

import json
import reprlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import Image

from lion_min import BadInput, check_file, tasks
from lion_min.boxes import MAX_PROMPT, SIDEWAYS, STICK_OUT, Box, check_box, turn_box
from lion_min.images import load_image, stored_frame
from lion_min.left_out import UNREADABLE, BadRecord

TASKS = tasks.TASKS + ("vqa", "chat")            # chat: the tasks of instruction data are unnamed
# Folders of pictures inside a data set's own, as COCO, Visual Genome and RefCOCO's code have them.
PARTS_OF_COCO = ("train2017", "val2017", "train2014", "val2014")
PLACES = ("", "images", "VG_100K", "VG_100K_2", *PARTS_OF_COCO,
          *(f"{around}/{part}" for around in ("images", "coco", "images/mscoco/images")
            for part in PARTS_OF_COCO))
BOX_REASONS = {"reversed or empty": "box empty", "leaves the image": "box outside the picture",
               "covers": "box below a pixel"}    # what boxes.check_box says: the reason in short
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

    __slots__ = "where", "fields"

    def __init__(self, raw: object, where: str):
        """raw: a parsed value, or the bytes of one line of JSONL. BadRecord if it is no object."""
        self.where = where
        self.fields = _parsed(raw, where) if isinstance(raw, bytes) else raw
        if not isinstance(self.fields, dict):
            raise self.bad(f"a {type(self.fields).__name__}, not a JSON object", "not an object")

    def bad(self, message: str, reason: str, by_rule: bool = False) -> BadRecord:
        """The error that leaves this record out; see BadRecord."""
        return BadRecord(f"{self.where}: {message}", reason, by_rule)

    def take(self, name: str, kind: type):
        """The field, which must be a `kind`; true is no number."""
        value = self.fields.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.bad(f"{name} is {show(value)}; a {kind.__name__} is needed",
                           f"{name} missing" if value is None else f"{name} malformed")
        return value

    def text(self, name: str) -> str:
        """The field as text without the spaces round it, neither empty nor endless."""
        return self.checked(self.take(name, str), name)

    def checked(self, text: str, name: str) -> str:
        """The text without the spaces round it, or BadInput for one that no model can read."""
        text = text.strip()
        if not text or len(text) > MAX_PROMPT:
            raise self.bad(f"{name} has {len(text)} characters; 1 to {MAX_PROMPT} are needed",
                           f"{name} too long" if text else f"{name} empty")
        try:
            text.encode()  # JSON can spell half a surrogate pair
        except UnicodeEncodeError as error:
            raise self.bad(f"{name}: character {error.start + 1} is not valid text",
                           f"{name} malformed") from None
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
            raise self.bad(f"{name} is empty", f"{name} empty")
        return found

    def follow(self, name: str, others: dict[int, Record], kind: str) -> Record:
        """The other record whose id this field holds."""
        if (key := self.take(name, int)) not in others:
            raise self.bad(f"{name} {show(key)} is not among the {kind}", f"{name} unknown")
        return others[key]


Rows = Iterator[tuple[str, object]]              # places and raw values


@dataclass(frozen=True)
class Part:
    """Records of one kind in an annotation file; a reader returns one part or several.

    kind: what the records are, in the plural. make: makes the samples of one record, or raises
    BadRecord. key: the field whose value no two different records may share; "": records of the
    same content are the same one; None: all are different.
    """

    kind: str
    rows: Rows
    make: Callable[[Record], list[Sample]]
    key: str | None = ""


def came_before(record: Record, key: str | None, seen: dict[object, Record]) -> bool:
    """Whether `seen` has the same record, which is added; BadInput where an id stands for two.

    key: see Part; a record without its id is another one than all others.
    """
    value = hash(str(record.fields)) if key == "" else record.fields.get(key)
    first = seen.setdefault(value, record) if type(value) in (int, str) else record
    if first is not record and not _same(record.fields, first.fields, 6):
        raise BadInput(f"{record.where}: {key} {show(value)} stands twice, with other content at "
                       f"{first.where}; give each its own")
    return first is not record


def _same(a: object, b: object, depth: int) -> bool:
    """Whether two values hold the same; deeper tangles, as pickles may hold, count as different."""
    if a is b or not depth:
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k], depth - 1) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b, [depth - 1] * len(a)))
    return not isinstance(b, (dict, list)) and a == b


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
        raise BadRecord(f"{where}: not UTF-8 text (byte {error.start}); write it again",
                        "not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{where}: not JSON ({error}); check its commas, quotes and brackets, "
                        "and that the download is whole", "not JSON") from None


# ---- pictures ------------------------------------------------------------------------------------

class Pictures:
    """Where the pictures of an annotation file are, and what COCO's annotations say of each.

    images: the folder of the pictures; default: the file's own, and the one around it where that
    is called annotations (COCO) or `around` is true (RefCOCO). A picture may stand in one of the
    PLACES there; those whose name is part of the file's name come first.
    """

    def __init__(self, file: Path, images: Path | None = None, around: bool = False):
        self.folder = images or file.parent
        roots = [self.folder]
        if images is None and (around or file.absolute().parent.name == "annotations"):
            roots.append(file.absolute().parent.parent)
        places = sorted(PLACES, key=lambda place: not place or Path(place).name not in file.stem)
        self.folders = [root / place for place in places for root in roots
                        if (root / place).is_dir()]
        self.annotated: dict[Path, set[str]] = {}  # COCO: every picture, the kinds in it
        self.boxless: dict[Path, set[str]] = defaultdict(set)   # those of crowds and bad boxes
        self.categories: set[str] = set()          # COCO: all kinds of the file
        self._path = cache(self._search)           # COCO names a picture once a box

    def find(self, name: str, where: str) -> Path:
        """The file of that name; BadRecord where there is none."""
        if (path := self._path(name)) is None:
            raise BadRecord(f"{where}: picture {show(name)} is not in {self.folder}; copy it "
                            "there, or name the folder of the pictures (--images DIR)",
                            "picture missing")
        return path

    def _search(self, name: str) -> Path | None:
        try:
            return next((folder / name for folder in self.folders if (folder / name).is_file()),
                        None)
        except (OSError, ValueError):  # a name too long, or with a NUL in it
            return None


@lru_cache(maxsize=200_000)
def picture_frame(path: Path) -> Frame:
    """The size as stored and the orientation; BadRecord for a file that is no picture."""
    try:
        return stored_frame(path)
    except BadInput as error:
        raise BadRecord(str(error), UNREADABLE) from None


def picture_size(path: Path) -> Size:
    """Width and height as displayed."""
    size, orientation = picture_frame(path)
    return size[::-1] if orientation in SIDEWAYS else size


# ---- boxes ---------------------------------------------------------------------------------------

def pixel_box(x: float, y: float, width: float, height: float, frame: Frame, where: str) -> Box:
    """The field's x, y, width, height in pixels of a frame -> a checked box, upright fractions."""
    if not all(isinstance(v, (int, float)) and abs(v) < 1e6 for v in (x, y, width, height)):
        raise BadRecord(f"{where}: box {show([x, y, width, height])} is not made of ordinary "
                        "numbers; x, y, width, height in pixels are needed", "box malformed")
    corners = [x, y, x + width, y + height]
    if max(corners) <= 1.02:  # check_box would take these pixels for fractions
        raise BadRecord(f"{where}: box {show(corners)} covers less than a pixel of the picture",
                        "box empty" if min(width, height) <= 0 else "box below a pixel")
    return _checked_box(corners, frame, where)


def fraction_box(numbers: list, size: Size, where: str, orientation: int = 1) -> Box:
    """x1, y1, x2, y2 that must be fractions of a frame -> a checked box, upright fractions."""
    if numbers and all(isinstance(v, (int, float)) for v in numbers) and (
            max(numbers) > 1 + STICK_OUT):  # check_box would take these for pixels
        raise BadRecord(f"{where}: box {show(numbers)} is not in fractions of the picture; "
                        "divide by its width and height", "box outside the picture")
    return _checked_box(numbers, (size, orientation), where)


def _checked_box(numbers: list, frame: Frame, where: str) -> Box:
    """x1, y1, x2, y2 of a frame, in pixels or fractions -> a checked box, upright fractions."""
    size, orientation = frame
    try:
        return turn_box(check_box(numbers, *size, where)[0], orientation)
    except BadInput as error:
        reason = next((short for words, short in BOX_REASONS.items() if words in str(error)),
                      "box malformed")
        raise BadRecord(str(error), reason) from None
