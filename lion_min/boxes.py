"""Box arithmetic, the check of every box from outside, and the formatter of boxes as text.

The frame, everywhere in the code: a box is float32 xyxy in fractions of the original
(EXIF-rotated) image, 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1. Pictures are squashed to the
encoder's square, so a fraction stays true after resizing and no box is ever recomputed.

    (0,0) ---- x --->        a box [0.25,0.50,0.75,1.00] is the middle half of the
      |   +-------+          width and the lower half of the height, whatever the
      y   |       |          picture's size in pixels
      v   +-------+ (1,1)

A camera may store a picture turned or mirrored, with its EXIF orientation beside it. The model
sees the upright picture, and a box that a user types is of the upright picture as seen. Boxes of
annotation files are of the stored frame, as COCO's tools read it, and `turn_box` turns them; where
the file gives a width and height that fit the upright picture alone, its boxes are upright.

Symbols: N, M boxes.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lion_min import BadInput

if TYPE_CHECKING:                          # torch would make --help of the readers slow
    from torch import Tensor

Box = tuple[float, float, float, float]

MAX_PROMPT = 20_000  # characters; far above any question, far below what stalls a tokenizer
STICK_OUT = 0.01     # of the image's side: a box this far outside is clipped, not refused
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations of a picture stored with width and height exchanged
ROUNDING = 1e-6      # slack for the fractions that arithmetic leaves behind

# Brackets hold no brackets, so the search is linear in the text even on "[[[[[[".
BRACKETS = re.compile(r"\[([^\[\]]*)\]")
BOX_LITERAL = re.compile(r"\[[0-9., ]*\]")
SEPARATOR = re.compile(r"\s*,\s*|\s+")
# Spelt out because float() also takes "1_000" and digits of other scripts.
NUMBER = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf(?:inity)?)",
                    re.IGNORECASE | re.ASCII)

# What users type for a box: any brackets, full-width signs, other separators, names, per cent.
OPEN, CLOSE = r"[(\[{<（［｛＜【〔〈《⟨]", r"[)\]}>）］｝＞】〕〉》⟩]"
GROUP = f"{OPEN}([^{OPEN[1:-1]}{CLOSE[1:-1]}]*){CLOSE}"
NEAR_BOX = re.compile(GROUP)
TWO_CORNERS = re.compile(rf"(?:{OPEN} ?)?{GROUP} ?(?:[,;–-]|to)? ?{GROUP}(?: ?{CLOSE})?")
FIELD = re.compile(rf"(?:([a-z]+\d?)=)?({NUMBER.pattern})(%|px)?", NUMBER.flags)
NAMES = ("x1 y1 x2 y2", "xmin ymin xmax ymax", "left top right bottom")
LONGEST = 200        # characters between the brackets of a box
DIGITS = re.compile(r"\d+(?:\.\d+)?")
ABOUT_A_BOX = re.compile(r"\b(describe|in|inside|within|does)\s+((the|this|that)\s+)?"
                         r"(box|region)\b", re.IGNORECASE)


# ---- arithmetic ---------------------------------------------------------------------------------

def area(boxes: Tensor) -> Tensor:
    """Area of xyxy boxes [..., 4] -> [...]; a reversed or empty box has area 0."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)  # [...]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes, element by element: [..., 4], [..., 4] -> [...].

    The two broadcast. Any unit, as long as both share it. Two empty boxes score 0, never NaN.
    """
    corners = a[..., :2].maximum(b[..., :2]), a[..., 2:].minimum(b[..., 2:])
    overlap = (corners[1] - corners[0]).clamp(min=0).prod(-1)  # [...]
    union = area(a) + area(b) - overlap
    return (overlap / union.clamp(min=1e-12)).where(union > 0, overlap.new_zeros(()))


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Every box of a against every box of b: [N, 4], [M, 4] -> [N, M]."""
    return iou(a[:, None], b[None])


def turn_box(box: Box, orientation: int) -> Box:
    """Turn a box of the stored picture (xyxy, fractions) into one of the upright picture.

    orientation: EXIF's, 1 to 8 (CIPA DC-008, tag 0x0112); any other value means 1, as in Pillow's
    exif_transpose: 2, 4 mirror; 3, 6, 8 turn; 5 and 7 exchange x and y along a diagonal.
    """
    x1, y1, x2, y2 = box
    if orientation in SIDEWAYS:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if orientation in (2, 3, 6, 7):
        x1, x2 = 1 - x2, 1 - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = 1 - y2, 1 - y1
    return x1, y1, x2, y2


# ---- checks -------------------------------------------------------------------------------------

def check_box(numbers: Sequence[float], width: int, height: int,
              where: str = "prompt") -> tuple[Box, str]:
    """Turn a user's four numbers into a box in fractions, or refuse them with BadInput.

    numbers: x1, y1, x2, y2; fractions when none exceeds 1, else pixels of the displayed image.
    width, height: the displayed (EXIF-rotated) image, in pixels.
    where: what the error names: "prompt", "photos.json line 7", ...
    Returns (box, note): the note is "" or one line saying that the box was clipped.
    """
    try:
        numbers = [float(v) for v in numbers]
    except (TypeError, ValueError, OverflowError):  # words or None in an annotation file
        raise BadInput(f"{where}: box {str(numbers)[:60]} is not made of numbers; "
                       "four are needed, [x1,y1,x2,y2]") from None
    start = f"{where}: box [{','.join(f'{v:g}' for v in numbers[:8])}]"
    if len(numbers) != 4:
        raise BadInput(f"{start} has {len(numbers)} numbers; a box needs four, [x1,y1,x2,y2]")
    if not all(map(math.isfinite, numbers)):
        raise BadInput(f"{start} is not finite; give four ordinary numbers, [x1,y1,x2,y2]")
    # 1.004 is a fraction that sticks out a little; as pixels it would name a single dot.
    fractions = max(numbers) <= 1 + STICK_OUT + ROUNDING
    sides = (1, 1, 1, 1) if fractions else (width, height, width, height)
    raw = [v / side for v, side in zip(numbers, sides)]
    if raw[0] >= raw[2] or raw[1] >= raw[3]:
        raise BadInput(f"{start} is reversed or empty; x1 < x2 and y1 < y2 are needed")
    if min(raw) < -STICK_OUT - ROUNDING or max(raw) > 1 + STICK_OUT + ROUNDING:
        limits = "fractions 0 to 1" if fractions else f"{width}x{height} pixels"
        raise BadInput(f"{start} leaves the image; keep it within {limits}")
    box = tuple(min(max(v, 0.0), 1.0) for v in raw)
    pixels = (box[2] - box[0]) * width, (box[3] - box[1]) * height
    if min(pixels) < 1 - 1e-3:
        raise BadInput(f"{start} covers {pixels[0]:.2g}x{pixels[1]:.2g} pixels of the "
                       f"{width}x{height} image; at least one pixel each side is needed")
    clipped = any(abs(v - w) > ROUNDING for v, w in zip(raw, box))
    return box, f"{start} stuck out of the image and was clipped to its edge" if clipped else ""


def check_prompt(prompt: str) -> str:
    """Return the prompt unchanged, or refuse an empty, endless or undecodable one."""
    if not prompt.strip():
        raise BadInput('prompt: it is empty; ask something, such as "what is in the picture?"')
    if len(prompt) > MAX_PROMPT:
        raise BadInput(f"prompt: {len(prompt)} characters; shorten it to {MAX_PROMPT} or fewer")
    try:
        prompt.encode()  # an undecodable byte on the command line arrives as half a surrogate pair
    except UnicodeEncodeError as error:
        raise BadInput(f"prompt: character {error.start + 1} is not valid text; "
                       "give the prompt as UTF-8") from None
    return prompt


# ---- boxes as text ------------------------------------------------------------------------------

class BoxText:
    """Formats a box as text and parses it: LION's "[0.440,0.060,0.650,0.367]".

    Fractions with three decimals and no spaces (lion.md 3.3). A system whose paper writes boxes
    differently has another class with the same two methods.
    """

    def format(self, box: Sequence[float]) -> str:
        """A checked box (fractions, x1 < x2, y1 < y2) -> its text.

        A side thinner than the printed precision is widened to 0.001, so that what is written
        is always a box when it is parsed. Anything that is no box raises BadInput.
        """
        x1, y1, x2, y2 = (float(v) for v in box)
        if not (x1 < x2 and y1 < y2 and min(x1, y1) > -5e-4 and max(x2, y2) < 1 + 5e-4):
            raise BadInput(f"box {[x1, y1, x2, y2]}: cannot be written; fractions are needed, "
                           "0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1")
        (left, right), (top, bottom) = _thousandths(x1, x2), _thousandths(y1, y2)
        return "[" + ",".join(f"{v / 1000:.3f}" for v in (left, top, right, bottom)) + "]"

    def parse(self, text: str) -> list[Box]:
        """Every well-formed box in a text, in reading order; for what a model wrote.

        Never raises. A literal that is not four fractions with x1 < x2 and y1 < y2 is left
        out: exchanging its corners would hide a model's mistake from the score.
        """
        numbers = (_numbers(match[1]) for match in BRACKETS.finditer(text))
        return [tuple(n) for n in numbers if n and len(n) == 4 and _is_box(*n)]


def _thousandths(low: float, high: float) -> tuple[int, int]:
    """One side in whole thousandths, at least one apart."""
    low, high = round(low * 1000), round(high * 1000)
    return (low, high) if low < high else (min(low, 999), min(low, 999) + 1)


def _is_box(x1: float, y1: float, x2: float, y2: float) -> bool:
    return 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1  # false for NaN, too


def _numbers(inside: str) -> list[float] | None:
    """The numbers between two brackets; [] for a list with a gap, None for words."""
    fields = SEPARATOR.split(inside.strip())
    if not any(fields) or not all(NUMBER.fullmatch(field) for field in fields if field):
        return None
    return [float(field) for field in fields] if all(fields) else []


def prompt_boxes(prompt: str, width: int, height: int,
                 box_text: BoxText = BoxText()) -> tuple[str, list[Box], list[str]]:
    """Check every box literal of a user's prompt and rewrite it as the model's own box text.

    A literal is a bracket group of nothing but numbers, commas and spaces (nan, inf and
    exponents count as numbers, so that they are refused and not overlooked); brackets with
    words in them, braces, newlines and emoji pass untouched.
    Returns (prompt in the model's text, boxes as fractions in reading order, notes on clipping).
    Raises BadInput for a literal that is no box of this image, and for what check_prompt refuses.
    """
    boxes, notes = [], []

    def rewrite(match: re.Match) -> str:
        numbers = _numbers(match[1])
        if numbers is None:
            return match[0]
        if not numbers:
            raise BadInput(f"prompt: box {' '.join(match[0].split())[:60]} has an empty place; "
                           "a box needs four numbers, [x1,y1,x2,y2]")
        box, note = check_box(numbers, width, height)
        boxes.append(box)
        notes.extend([note] if note else [])
        return box_text.format(box)

    return BRACKETS.sub(rewrite, check_prompt(prompt)), boxes, notes


def typed_boxes(prompt: str, width: int, height: int) -> tuple[str, list[Box], list[str]]:
    """Read a user's prompt as `prompt_boxes` does, and what is nearly a box literal besides.

    Four numbers in other brackets, full-width, between semicolons, bars or spaces, with names
    ("x1=12"), per cent or px, and two corners "(12,8),(30,26)" are read, with a note; one note
    tells of numbers that may mean a box and were not read. The picture is the upright one, as seen.
    """
    notes = []

    def rewrite(match: re.Match) -> str:
        if match[0][0] == "[" and match.re is NEAR_BOX and _numbers(match[1]) is not None:
            return match[0]                # a literal, or a mistake in one that is refused
        numbers = [_typed_numbers(inside) for inside in match.groups()]
        if [len(n) for n in numbers] not in ([4], [2, 2]):
            return match[0]
        literal = "[" + ",".join(f"{v:.10g}" for v in sum(numbers, [])) + "]"
        told = " ".join(match[0].split())
        try:
            check_box(sum(numbers, []), width, height)
        except BadInput as error:
            notes.append(f"{told} was not read as a box: {str(error).removeprefix('prompt: ')}")
            return match[0]
        notes.append(f"{told} was read as the box {literal}")
        return literal

    prompt = NEAR_BOX.sub(rewrite, TWO_CORNERS.sub(rewrite, check_prompt(prompt)))
    text, boxes, clipped = prompt_boxes(prompt, width, height)
    left = BOX_LITERAL.sub("", text)
    if not any("not read" in note for note in notes) and (
            len(DIGITS.findall(left)) >= 4
            or any(len(DIGITS.findall(group)) >= 3 for group in NEAR_BOX.findall(left))):
        notes.append("no box was read from these numbers; a box is written [x1,y1,x2,y2], in "
                     "fractions or pixels of the picture")
    return text, boxes, notes + clipped


def parse_prompt(prompt: str, width: int, height: int) -> tuple[str, list[Box], list[str]]:
    """As `typed_boxes`; BadInput also for a prompt that asks about a box and holds none."""
    text, boxes, notes = typed_boxes(prompt, width, height)
    if ABOUT_A_BOX.search(text) and not boxes:
        raise BadInput("; ".join(['prompt: it needs a box, such as "describe box [x1,y1,x2,y2]" '
                                  "with fractions or pixels of the picture", *notes]))
    return text, boxes, notes


def _typed_numbers(inside: str) -> list[float]:
    """The numbers between two brackets of a user's; [] where their meaning is not plain."""
    if len(inside) > LONGEST:
        return []
    inside = re.sub(r"[\"'`\\]", "", unicodedata.normalize("NFKC", inside)).replace("、", ",")
    inside = re.sub(r"\s+(?=%|px)|(?<=[=:])\s+|\s+(?=[=:])", "", inside).replace(":", "=")
    fields = [FIELD.fullmatch(word) for word in re.split(r"\s*[,;|]\s*|\s+", inside.strip())]
    if not all(fields):
        return []
    names, numbers, units = zip(*(field.groups() for field in fields))
    order = " ".join(name or "" for name in names).lower()
    if len(set(units)) > 1 or (any(names) and not any(n.startswith(order) for n in NAMES)):
        return []
    return [float(v) / (100 if units[0] == "%" else 1) for v in numbers]


def in_pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels of the displayed picture, at least one apart."""
    (x1, x2), (y1, y2) = (_side(box[i], box[i + 2], n) for i, n in ((0, width), (1, height)))
    return x1, y1, x2, y2


def _side(low: float, high: float, length: int) -> tuple[int, int]:
    first = min(round(low * length), length - 1)
    return first, max(first + 1, round(high * length))
