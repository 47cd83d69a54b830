"""Pictures out: boxes with labels, attention maps, and the panel of `infer.py --show`.

Boxes are xyxy fractions of the picture, as everywhere, so a picture may be enlarged first.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from lion_min import BadInput
from lion_min.boxes import BOX_LITERAL
from lion_min.regions import axis_points

SHORT_SIDE = 384  # pixels; below it a label covers what it names
LONG_SIDE = 4096  # a very thin picture grows no further than this
# Okabe and Ito's colours, which colour-blind readers can distinguish, too.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
INK, PAPER, RULE = "#202020", "#ffffff", "#d0d0d0"
EXTENSIONS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}


def enlarge(image: Image.Image) -> Image.Image:
    """Scale a small picture up until its short side has SHORT_SIDE pixels; else a plain copy."""
    factor = max(1.0, min(SHORT_SIDE / min(image.size), LONG_SIDE / max(image.size)))
    size = tuple(max(1, round(side * factor)) for side in image.size)
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


# ---- boxes --------------------------------------------------------------------------------------

def draw_boxes(image: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[str],
               colours: Sequence[str] | None = None) -> Image.Image:
    """Draw boxes (xyxy fractions) and one label each on an enlarged copy of the picture.

    A label stands above its box where there is space, else at the next free position; it never
    leaves the picture, and is cut with an ellipsis when it is wider than the picture.
    colours: one per box, any of Pillow's colour names; the default goes round COLOURS.
    """
    picture = enlarge(image)
    pen, taken = ImageDraw.Draw(picture), []
    colours = colours or [COLOURS[i % len(COLOURS)] for i in range(len(boxes))]
    line = max(2, min(picture.size) // 160)
    corners = [_corners(box, picture.size) for box in boxes]
    for box, colour in zip(corners, colours):  # all boxes first: no line crosses a label
        pen.rectangle(box, outline=INK, width=line + 2)  # a dark rim shows on any background
        pen.rectangle([v + d for v, d in zip(box, (1, 1, -1, -1))], outline=colour, width=line)
    for box, label, colour in zip(corners, labels, colours, strict=True):
        if label.strip():
            taken.append(_label(pen, picture.size, box, label, colour, taken))
    return picture


def _corners(box: Sequence[float], size: tuple[int, int]) -> list[int]:
    """Fractions -> whole pixels, at least 4 apart, so that even a dot is framed."""
    (x1, x2), (y1, y2) = (_side(box[axis], box[axis + 2], size[axis]) for axis in (0, 1))
    return [x1, y1, x2, y2]


def _side(low: float, high: float, length: int) -> tuple[int, int]:
    first = max(0, min(round(low * length), length - 5))
    return first, max(first + 4, min(round(high * length), length) - 1)


def _label(pen: ImageDraw.ImageDraw, size: tuple[int, int], box: list[int], label: str,
           colour: str, taken: list[list[int]]) -> list[int]:
    """Write one label on a patch of its colour; returns the patch's corners."""
    font = _font(max(15, min(size) // 24))
    text = _fit(label, font, size[0] - 8)
    wide, high = math.ceil(font.getlength(text)) + 8, sum(font.getmetrics()) + 2
    if wide > size[0] or high > size[1]:  # a very thin picture has no space for words
        return [0, 0, 0, 0]
    left = max(0, min(box[0], size[0] - wide))
    # Above the box, inside its top, inside its bottom, below: the first that hides no label.
    tops = [box[1] - high, box[1], box[3] - high, box[3]]
    patches = [[left, top, left + wide, top + high] for top in tops if 0 <= top <= size[1] - high]
    patches = patches or [[left, 0, left + wide, high]]
    patch = next((p for p in patches if not any(_overlap(p, t) for t in taken)), patches[0])
    pen.rectangle([patch[0], patch[1], patch[2] - 1, patch[3] - 1], fill=colour)
    pen.text((patch[0] + 4, patch[1] + 1), text, font=font, fill=_contrast(colour))
    return patch


def _overlap(a: list[int], b: list[int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _contrast(colour: str) -> str:
    """Dark ink on a light patch, light ink on a dark one."""
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return INK if 299 * red + 587 * green + 114 * blue > 128_000 else PAPER


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # Pillow's own font: the same on every machine


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One line of text no wider than width pixels, an ellipsis where it was cut."""
    text = whole = " ".join(text.split())[:200]
    while text and font.getlength(text if text == whole else text + "…") > width:
        text = text[:-1]
    return text if text == whole else text + "…"


# ---- attention maps -----------------------------------------------------------------------------

def heat_map(image: Image.Image, weights: Tensor) -> Image.Image:
    """Lay attention weights [h, w] over an enlarged grey copy of the picture.

    Scaled to the map's lowest and highest weight: dark blue is the least attention, yellow the
    most. A flat map stays blue.
    """
    picture = enlarge(image)
    values = weights.detach().float().cpu().nan_to_num()  # [h, w]
    values = values - values.min()
    levels = (values / values.max().clamp(min=1e-12) * 255).round().byte()  # [h, w]
    small = Image.frombytes("L", levels.shape[::-1], bytes(levels.flatten().tolist()))
    large = small.resize(picture.size, Image.Resampling.BICUBIC)
    heat = ImageOps.colorize(large, black="#101060", mid="#d02050", white="#ffe060")
    return Image.blend(ImageOps.grayscale(picture).convert("RGB"), heat, 0.55)


# ---- the points of RoIAlign ----------------------------------------------------------------------

def sampling_points(image: Image.Image, box: Sequence[float], cells: int, bins: int) -> Image.Image:
    """An enlarged copy with the map's cells, a box (xyxy fractions), its bins, and every point
    of RoIAlign as a dot. The map has cells x cells, the crop bins x bins."""
    picture = enlarge(image)
    pen, (W, H) = ImageDraw.Draw(picture), picture.size
    x1, y1, x2, y2 = _corners(box, picture.size)
    for i in range(1, cells):
        pen.line((i / cells * W, 0, i / cells * W, H), fill=RULE)
        pen.line((0, i / cells * H, W, i / cells * H), fill=RULE)
    for x, y in ((x1 + s / bins * (x2 - x1), y1 + s / bins * (y2 - y1)) for s in range(1, bins)):
        pen.line((x, y1, x, y2), fill=COLOURS[0])
        pen.line((x1, y, x2, y), fill=COLOURS[0])
    pen.rectangle((x1, y1, x2, y2), outline=COLOURS[0], width=3)
    points, _ = axis_points(*torch.tensor([*box]).view(2, 2) * cells, bins)     # [x and y, S, G]
    xs, ys = (axis[axis.isfinite()].add(0.5).div(cells).tolist() for axis in points)
    for x, y in ((x * W, y * H) for y in ys for x in xs):
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=PAPER, outline=INK)
    return picture


# ---- the panel of --show ------------------------------------------------------------------------

def panel(images_with_titles: Sequence[tuple[Image.Image, str]],
          bars: Sequence[tuple[float, float]] | None = None, columns: int = 3) -> Image.Image:
    """Tiles side by side, `columns` a row, each under its title; the router's mix as the last tile.

    bars: per layer, first layer first, how much of the region adapter and of the image adapter
    the router mixes in (LION's mixture of adapters).
    """
    tile, title, gap = SHORT_SIDE, 30, 12
    tiles = [(ImageOps.pad(enlarge(picture), (tile, tile), color=PAPER), text)
             for picture, text in images_with_titles]
    if bars:
        tiles.append((_bar_chart(bars, tile), "the router's mix per layer"))
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    step = tile + gap, tile + title + gap
    sheet = Image.new("RGB", (columns * step[0] + gap, rows * step[1] + gap), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(tiles):
        left, top = gap + i % columns * step[0], gap + i // columns * step[1]
        pen.text((left, top + 4), _fit(text, _font(16), tile), font=_font(16), fill=INK)
        sheet.paste(picture, (left, top + title))
    return sheet


def _bar_chart(bars: Sequence[tuple[float, float]], side: int) -> Image.Image:
    """Rows are layers; two bars each, region adapter above image adapter."""
    chart = Image.new("RGB", (side, side), PAPER)
    pen, names = ImageDraw.Draw(chart), ("region adapter", "image adapter")
    for i, name in enumerate(names):
        pen.rectangle([60 + 150 * i, 6, 72 + 150 * i, 18], fill=COLOURS[i])
        pen.text((78 + 150 * i, 4), name, font=_font(14), fill=INK)
    row = (side - 30) / len(bars)
    longest = max([1.0, *(abs(value) for pair in bars for value in pair)])
    thick = max(1, min(int(row * 0.36), 24))
    font, every = _font(max(11, min(14, int(row * 0.45)))), math.ceil(13 / row)
    for layer, pair in enumerate(bars):
        middle = 30 + (layer + 0.5) * row
        if layer % every == 0:  # many layers: name every second or third, so that all are legible
            pen.text((4, middle), f"layer {layer + 1}", font=font, fill=INK, anchor="lm")
        for i, value in enumerate(pair):
            top = middle - thick if i == 0 else middle + 1
            length = max(0.0, value) / longest * (side - 120)  # a negative share has no length
            pen.rectangle([60, top, 60 + length, top + thick - 1], fill=COLOURS[i])
            if row >= 24:  # space for the two numbers
                pen.text((66 + length, top + thick / 2), f"{value:.2f}", font=font, fill=INK, anchor="lm")
    pen.line([59, 30, 59, side], fill=RULE, width=1)
    return chart


# ---- to the disk --------------------------------------------------------------------------------

def check_output(path: str | Path) -> str:
    """The picture format a path asks for; BadInput when nothing can be written there.

    Call it before the work whose picture is to be saved.
    """
    path = Path(path)
    kind = EXTENSIONS.get(path.suffix.lower())
    if kind is None:
        raise BadInput(f"output {str(path)!r}: unknown picture type {path.suffix!r}; "
                       f"end it in {', '.join(EXTENSIONS)}")
    if not os.path.isdir(path.parent):
        raise BadInput(f"output {str(path)!r}: its folder does not exist; create it first")
    if os.path.islink(path):
        raise BadInput(f"output {str(path)!r}: is a link to {os.readlink(path)!r}; give another name")
    taken = os.path.exists(path)
    if taken and not os.path.isfile(path):
        raise BadInput(f"output {str(path)!r}: is not a file; give the name of a picture")
    if not os.access(path if taken else path.parent, os.W_OK):
        raise BadInput(f"output {str(path)!r}: may not be written; choose another place")
    return kind


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write a picture whole or not at all: a failure leaves an earlier file as it was.

    The type follows the extension (EXTENSIONS). Raises BadInput where it cannot be written.
    """
    kind, path = check_output(path), Path(path)
    draft = path.parent / f".lion_min-{os.getpid()}{path.suffix}"  # same disk: rename is atomic
    try:
        image.convert("RGB").save(draft, format=kind)
        os.replace(draft, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # the path stands there already
        raise BadInput(f"output {str(path)!r}: could not be written ({reason}); "
                       "free some space or choose another place") from None
    finally:
        draft.unlink(missing_ok=True)


def draw_reply(reply) -> Image.Image:
    """The picture with every box of prompt and answer, each with its label."""
    one = len(reply.prompt_boxes) == 1 and not reply.boxes      # the answer describes that box
    labels = [reply.answer if one else f"box {i}" for i in range(1, len(reply.prompt_boxes) + 1)]
    question = " ".join(BOX_LITERAL.sub("", reply.prompt).split())
    return draw_boxes(reply.image, reply.prompt_boxes + reply.boxes, labels + [question] * len(reply.boxes))


def draw_panel(system, reply) -> Image.Image:
    """The panel of --show: the picture with its boxes, the system's attention maps, the router."""
    maps, bars = system.explain(reply)
    tiles = [(draw_reply(reply), reply.answer)]
    return panel(tiles + [(heat_map(reply.image, m), title) for title, m in maps], bars)
