"""The panel of `infer.py --show`: an answer and what stands behind it, as tiles on one sheet.

Every tile is drawn at DRAWN pixels and then halved, so that frames and squares are sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from lion_min.boxes import Box
from lion_min.cli import TITLES
from lion_min.drawing import (COLOURS, INK, PAPER, RULE, Entry, box_points, colour_of, draw_outline,
                              fit, font_of, frames, heat_map, legend_height, reply_boxes,
                              sampling_points, write_legend)
from lion_min.explanation import Detection, Explanation

SIDE = 384                                 # pixels of a tile
DRAWN = 2 * SIDE                           # at least, before scaling: 12 times a drawn scene
GAP, SIZE = 16, 24                         # between tiles; of letters, legible at half the size
MOST = 4                                   # tiles a row: a sheet is shown at half its size or above


class Tile(NamedTuple):
    """A picture of a panel, its title above it and a legend below it."""

    picture: Image.Image
    title: str
    legend: Sequence[Entry] = ()


def panel(tiles: Sequence[tuple], columns: int | None = None, header: Sequence[str] = (),
          side: int = SIDE) -> Image.Image:
    """Tiles (a picture, a title, perhaps a legend) in rows below a header; `columns` a row, by
    default as few as make rows of at most MOST; side: of a tile."""
    tiles = [tile._replace(picture=scaled(tile.picture, side)) for tile in (Tile(*t) for t in tiles)]
    columns = max(1, min(columns or -(-len(tiles) // -(-len(tiles) // MOST)), len(tiles)))
    width = columns * (side + GAP) + GAP
    return below([*([words(width, header)] if header else ()), *(
        row_of(tiles[i:i + columns], width, side) for i in range(0, len(tiles), columns))])


def words(width: int, lines: Sequence[str], size: int = SIZE + 4) -> Image.Image:
    """A strip of lines of text, long ones wrapped."""
    entries, room = [(None, line) for line in lines], width - 2 * GAP
    strip = Image.new("RGB", (width, GAP + legend_height(entries, size, room)), PAPER)
    write_legend(ImageDraw.Draw(strip), GAP, GAP // 2, room, entries, size)
    return strip


def row_of(tiles: Sequence[Tile], width: int, side: int) -> Image.Image:
    """Tiles side by side, each under its title and above its legend."""
    tall = max(tile.picture.height for tile in tiles)
    legends = max(legend_height(tile.legend, SIZE, side) for tile in tiles)
    row = Image.new("RGB", (width, 40 + tall + 8 + legends + GAP), PAPER)
    pen, font = ImageDraw.Draw(row), font_of(SIZE + 2)
    for i, tile in enumerate(tiles):
        left = GAP + i * (side + GAP)
        pen.text((left, 4), fit(tile.title, font, side), font=font, fill=INK)
        row.paste(tile.picture, (left, 40))
        write_legend(pen, left, 40 + tall + 8, side, tile.legend, SIZE)
    return row


def scaled(picture: Image.Image, side: int) -> Image.Image:
    """The picture with `side` pixels along its longer side."""
    if max(picture.size) == 2 * side:      # no blur: the grain of a drawn scene stays as it is
        return picture.convert("RGB").reduce(2)
    size = tuple(max(1, round(v * side / max(picture.size))) for v in picture.size)
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def draw_panel(system, reply) -> Image.Image:
    """The panel of a reply of a system (system.System)."""
    return draw_explanation(TITLES[system.name], reply, system.explain(reply))


def draw_explanation(name: str, reply, found: Explanation) -> Image.Image:
    """The sheet of one reply (system.Reply) of the system called `name`."""
    image, (boxes, entries) = scaled(reply.image, DRAWN), reply_boxes(reply)
    tiles = [Tile(frames(image, boxes, [colour for colour, _ in entries]),
                  "the answer" if boxes else "the picture", entries)]
    if found.bins and reply.prompt_boxes:
        tiles.append(region_tile(image, reply.prompt_boxes, found))
    if found.detections is not None:
        tiles.append(refiner_tile(image, found.detections))
    shares = [one.share() for one in found.maps]
    most = max([float(share.max()) for share in shares], default=0)
    tiles += [Tile(heat_map(image, share, most), one.part, [(None, one.says())] + (
        [(None, "from the patches of the boxes")] if one.start else []))
        for one, share in zip(found.maps, shares)]
    header = [f"{name}: {reply.prompt}", f"answer: {reply.answer}"]
    if found.before is not None:
        header.append(f"without the request: {found.before}")
    sheet = panel(tiles, header=header)
    parts = [sheet] + ([scale_bar(sheet.width, most, found.side)] if shares else [])
    parts += [router_chart(sheet.width, found)] if found.router else []
    return below(parts)


def region_tile(image: Image.Image, boxes: Sequence[Box], found: Explanation) -> Tile:
    """What RoIAlign reads for all boxes of the question."""
    points = sum(len(box_points(box, found.side, found.bins)) for box in boxes)
    for i, box in enumerate(boxes):
        image = sampling_points(image, box, found.side, found.bins, colour_of(i), grid=i == 0)
    return Tile(image, "RoIAlign", [
        (COLOURS[0], f"{found.bins} x {found.bins} bins of a box, a vector each"),
        (PAPER, f"the {points} points that are read")])


def refiner_tile(image: Image.Image, found: Sequence[Detection]) -> Tile:
    """Boxes and outlines of the segments, and their labels and scores below."""
    colours = [colour_of(i) for i in range(len(found))]
    picture = frames(image, [one.box for one in found], colours)
    for one, colour in zip(found, colours):
        if one.mask is not None:
            draw_outline(picture, one.mask, colour)
    return Tile(picture, "the refiner's boxes and segments", [
        (colour, f"{one.label}, {one.score:.2f}")
        for one, colour in zip(found, colours)] or [(None, "nothing was found")])


# ---- what is the same for all tiles --------------------------------------------------------------

def scale_bar(width: int, most: float, side: int, tile: int = SIDE) -> Image.Image:
    """The squares' legend: all maps of a sheet have one scale; tile: a tile's pixels a side."""
    cell = tile / side
    bar = Image.new("RGB", (width, max(40, round(cell))), PAPER)
    pen, x, middle = ImageDraw.Draw(bar), GAP, bar.height // 2
    for share in (1, 1 / 4, 1 / 16):
        half = share ** 0.5 * 0.42 * cell
        pen.rectangle((x, middle - half, x + 2 * half, middle + half), fill=RULE, outline=INK)
        text = f"{share * most:.1%}"
        pen.text((x + 2 * half + 8, middle), text, font=font_of(SIZE), fill=INK, anchor="lm")
        x += 2 * half + 8 + font_of(SIZE).getlength(text) + 24
    return below([bar, words(width, [f"of the attention to the patches ({side} a side); one scale "
                                     "for all maps"], SIZE)])


def router_chart(width: int, found: Explanation) -> Image.Image:
    """Both routes side by side: a row a layer, the shares of the region and the image adapter."""
    half, count = (width - GAP) // 2, max(map(len, found.router.values()))
    step = max(12.0, min(40.0, 480 / count))                   # numbers where rows have the height
    chart, head = Image.new("RGB", (width, round(96 + step * count + GAP)), PAPER), 88
    pen, column = ImageDraw.Draw(chart), (half - GAP - 100) // 2
    longest = max([1.0, *(v for pairs in found.router.values() for pair in pairs for v in pair)])
    for i, (route, pairs) in enumerate(found.router.items()):
        left = GAP + i * half
        title = f"router, {route} route: {'taken' if route == found.route else 'not taken'}"
        pen.text((left, 6), fit(title, font_of(SIZE), half - GAP), font=font_of(SIZE), fill=INK)
        for k, name in enumerate(found.router):
            x = left + 100 + k * column
            write_legend(pen, x, 48, column, [(COLOURS[k], f"{name} adapter"[:column // 14])], SIZE)
            for layer, pair in enumerate(pairs):
                y, share = head + layer * step, max(0.0, pair[k])
                end = x + share / longest * (column - 80)
                pen.rectangle((x, y, end, y + step * 0.7), fill=COLOURS[k])
                if step >= SIZE:
                    pen.text((end + 8, y + step * 0.35), f"{pair[k]:.2f}", font=font_of(SIZE),
                             fill=INK, anchor="lm")
            pen.line((x - 1, head, x - 1, head + step * len(pairs)), fill=INK)
        for layer in range(len(pairs)):
            if step >= SIZE or layer in (0, len(pairs) - 1):
                pen.text((left, head + (layer + 0.35) * step), f"layer {layer + 1}",
                         font=font_of(SIZE), fill=INK, anchor="lm")
    return chart


def below(parts: Sequence[Image.Image]) -> Image.Image:
    """Strips of one width, one below the other."""
    sheet = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet
