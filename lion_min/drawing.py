"""Pictures out: boxes with a legend, attention on the patches, RoIAlign's points.

Boxes are xyxy fractions of the picture, as everywhere, so a picture may be enlarged first. Nothing
covers what a picture shows: words stand below it, and attention is a square in each patch.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lion_min import BadInput
from lion_min.boxes import Box
from lion_min.explanation import bare
from lion_min.regions import axis_points

SHORT_SIDE = 384  # pixels; frames on a smaller picture would be as thick as what they frame
LONG_SIDE = 4096  # a very thin picture grows no further than this
# Okabe and Ito's colours, which colour-blind readers can distinguish, too.
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
INK, PAPER, RULE = "#202020", "#ffffff", "#d0d0d0"
EXTENSIONS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
Entry = tuple[str | None, str]  # of a legend: a swatch's colour or None, and its words


def enlarge(image: Image.Image) -> Image.Image:
    """Scale a small picture up until its short side has SHORT_SIDE pixels; else a plain copy."""
    factor = max(1.0, min(SHORT_SIDE / min(image.size), LONG_SIDE / max(image.size)))
    size = tuple(max(1, round(side * factor)) for side in image.size)
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def colour_of(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


# ---- boxes --------------------------------------------------------------------------------------

def draw_boxes(image: Image.Image, boxes: Sequence[Box], labels: Sequence[str],
               colours: Sequence[str] | None = None) -> Image.Image:
    """Draw boxes (xyxy fractions) on an enlarged copy of the picture, and their labels below it.

    colours: one per box, any of Pillow's colour names; the default goes round COLOURS. An empty
    label is left out. ValueError unless each box has its label.
    """
    colours = colours or [colour_of(i) for i in range(len(boxes))]
    entries = [(colour, label) for _, label, colour in zip(boxes, labels, colours, strict=True)
               if label.strip()]
    return with_legend(frames(image, boxes, colours), entries)


def frames(image: Image.Image, boxes: Sequence[Box], colours: Sequence[str]) -> Image.Image:
    """An enlarged copy with the boxes' frames, each with a dark rim that shows on any background."""
    picture = enlarge(image)
    pen, line = ImageDraw.Draw(picture), max(2, min(picture.size) // 110)
    for box, colour in zip(boxes, colours):
        corners = _corners(box, picture.size)
        pen.rectangle(corners, outline=INK, width=line + 2)
        pen.rectangle([v + d for v, d in zip(corners, (1, 1, -1, -1))], outline=colour, width=line)
    return picture


def _corners(box: Sequence[float], size: tuple[int, int]) -> list[int]:
    """Fractions -> whole pixels, at least 4 apart, so that even a dot is framed."""
    (x1, x2), (y1, y2) = (_side(box[axis], box[axis + 2], size[axis]) for axis in (0, 1))
    return [x1, y1, x2, y2]


def _side(low: float, high: float, length: int) -> tuple[int, int]:
    first = max(0, min(round(low * length), length - 5))
    return first, max(first + 4, min(round(high * length), length) - 1)


def draw_reply(reply) -> Image.Image:
    """The picture with every box of prompt and answer, each with its label."""
    boxes, entries = reply_boxes(reply)
    return draw_boxes(reply.image, boxes, [label for _, label in entries])


def reply_boxes(reply) -> tuple[list[Box], list[Entry]]:
    """(the boxes of prompt and answer, a legend's entry for each)."""
    one = len(reply.prompt_boxes) == 1 and not reply.boxes      # the answer describes that box
    labels = [reply.answer if one else f"box {i} of the question"
              for i in range(1, len(reply.prompt_boxes) + 1)]
    labels += [f"answer to: {bare(reply.prompt)}"] * len(reply.boxes)
    return (reply.prompt_boxes + reply.boxes,
            [(colour_of(i), label) for i, label in enumerate(labels)])


# ---- words --------------------------------------------------------------------------------------

def font_of(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # Pillow's own font: the same on every machine


def fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One line of text no wider than width pixels, an ellipsis where it was cut."""
    text = whole = " ".join(text.split())[:400]
    while text and font.getlength(text if text == whole else text + "…") > width:
        text = text[:-1]
    return text if text == whole else text + "…"


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, most: int = 3) -> list[str]:
    """Lines no wider than width pixels; the last of `most` is cut with an ellipsis."""
    lines, words = [], text.split()
    while words and len(lines) < most - 1:
        count = next((n for n in range(1, len(words) + 1)
                      if font.getlength(" ".join(words[:n + 1])) > width), len(words))
        lines.append(fit(" ".join(words[:count]), font, width))
        words = words[count:]
    return lines + [fit(" ".join(words), font, width)] if words else lines


def legend_lines(entries: Sequence[Entry], size: int,
                 width: int) -> list[tuple[str | None, int, str]]:
    """(colour of a swatch or None, indent, words) of each line: long entries take several."""
    lines = []
    for colour, text in entries:
        indent = round(size * 0.8) + size // 2 if colour else 0
        for i, line in enumerate(wrap(text, font_of(size), width - indent)):
            lines.append((None if i else colour, indent, line))
    return lines


def write_legend(pen: ImageDraw.ImageDraw, left: int, top: int, width: int,
                 entries: Sequence[Entry], size: int) -> None:
    """Write entries below one another, `legend_height` in all."""
    font, swatch = font_of(size), round(size * 0.8)
    for i, (colour, indent, text) in enumerate(legend_lines(entries, size, width)):
        y = top + i * round(size * 1.5)
        if colour:
            pen.rectangle((left, y + size // 6, left + swatch, y + size // 6 + swatch),
                          fill=colour, outline=INK)
        pen.text((left + indent, y), text, font=font, fill=INK)


def legend_height(entries: Sequence[Entry], size: int, width: int) -> int:
    return round(size * 1.5) * len(legend_lines(entries, size, width))


def with_legend(picture: Image.Image, entries: Sequence[Entry]) -> Image.Image:
    """The picture on a sheet that has the entries below it."""
    size = max(15, min(picture.size) // 24)
    if not entries or picture.width < 6 * size:    # a sliver has no space for words
        return picture
    width = picture.width - size // 2
    high = legend_height(entries, size, width) + size // 2
    sheet = Image.new("RGB", (picture.width, picture.height + high), PAPER)
    sheet.paste(picture)
    write_legend(ImageDraw.Draw(sheet), size // 4, picture.height + size // 2, width, entries, size)
    return sheet


# ---- the grid of patches ------------------------------------------------------------------------

def heat_map(image: Image.Image, weights: Tensor, most: float | None = None) -> Image.Image:
    """Lay attention weights [h, w] over an enlarged copy: in each patch a square whose area is its
    weight, so that the objects' colours stay to be seen. most: the weight that fills a patch, the
    same for maps that are to be compared; None: the map's own highest."""
    picture, values = enlarge(image), weights.detach().float().cpu().nan_to_num().clamp(min=0)
    most = most or max(float(values.max()), 1e-12)
    rows, columns = values.shape
    draw_grid(picture, rows, columns)
    pen, (W, H) = ImageDraw.Draw(picture, "RGBA"), picture.size
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            size = math.sqrt(min(1.0, value / most)) * 0.42               # half a side, of a patch
            x, y = (column + 0.5) / columns * W, (row + 0.5) / rows * H
            if size * W / columns >= 1:
                pen.rectangle((x - size * W / columns, y - size * H / rows, x + size * W / columns,
                               y + size * H / rows), fill=(255, 255, 255, 140), outline=INK,
                              width=max(1, min(W, H) // 256))
    return picture


def draw_grid(picture: Image.Image, rows: int, columns: int) -> None:
    """Thin lines between the patches, light and half transparent."""
    pen, (W, H) = ImageDraw.Draw(picture, "RGBA"), picture.size
    style = {"fill": (255, 255, 255, 90), "width": max(1, min(W, H) // SHORT_SIDE)}
    for i in range(1, columns):
        pen.line((i / columns * W, 0, i / columns * W, H), **style)
    for i in range(1, rows):
        pen.line((0, i / rows * H, W, i / rows * H), **style)


def sampling_points(image: Image.Image, box: Sequence[float], cells: int, bins: int,
                    colour: str = COLOURS[0], grid: bool = True) -> Image.Image:
    """An enlarged copy with the map's cells, a box (xyxy fractions), its bins, and every point
    of RoIAlign as a dot. The map has cells x cells, the crop bins x bins. grid: draw the cells."""
    picture = enlarge(image)
    if grid:
        draw_grid(picture, cells, cells)
    pen, (W, H) = ImageDraw.Draw(picture), picture.size
    line = max(1, min(W, H) // 256)
    x1, y1, x2, y2 = _corners(box, picture.size)
    for x, y in ((x1 + s / bins * (x2 - x1), y1 + s / bins * (y2 - y1)) for s in range(1, bins)):
        pen.line((x, y1, x, y2), fill=colour, width=line)
        pen.line((x1, y, x2, y), fill=colour, width=line)
    pen.rectangle((x1, y1, x2, y2), outline=colour, width=2 + line)
    for x, y in box_points(box, cells, bins):
        pen.ellipse((x * W - 3 - line, y * H - 3 - line, x * W + 3 + line, y * H + 3 + line),
                    fill=PAPER, outline=INK, width=line)
    return picture


def box_points(box: Sequence[float], cells: int, bins: int) -> list[tuple[float, float]]:
    """Every point that RoIAlign reads for a box, as fractions of the picture."""
    points, _ = axis_points(*torch.tensor([*box]).view(2, 2) * cells, bins)     # [x and y, S, G]
    xs, ys = (axis[axis.isfinite()].add(0.5).div(cells).tolist() for axis in points)
    return [(x, y) for y in ys for x in xs]


def draw_outline(picture: Image.Image, mask: Tensor, colour: str) -> None:
    """Draw the rim of what a mask [h, w] of the whole picture has above one half."""
    inside = torch.nn.functional.pad(mask > 0.5, (1, 1, 1, 1)).tolist()   # [h+2][w+2]
    (high, wide), pen = mask.shape, ImageDraw.Draw(picture)
    W, H, line = picture.width / wide, picture.height / high, max(2, min(picture.size) // 192)
    for y, x in (mask > 0.5).nonzero().tolist():
        sides = {(y, x + 1): (x, y, x + 1, y), (y + 2, x + 1): (x, y + 1, x + 1, y + 1),
                 (y + 1, x): (x, y, x, y + 1), (y + 1, x + 2): (x + 1, y, x + 1, y + 1)}
        for (row, column), (x1, y1, x2, y2) in sides.items():     # a neighbour: the side between
            if not inside[row][column]:
                pen.line((x1 * W, y1 * H, x2 * W, y2 * H), fill=colour, width=line)


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
        paletted = kind == "PNG" and image.mode == "P"
        (image if paletted else image.convert("RGB")).save(draft, format=kind, optimize=paletted)
        os.replace(draft, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error  # the path stands there already
        raise BadInput(f"output {str(path)!r}: could not be written ({reason}); "
                       "free some space or choose another place") from None
    finally:
        draft.unlink(missing_ok=True)
