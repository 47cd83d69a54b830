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
                              sampling_points, wrap, write_legend)
from lion_min.explanation import Detection, Explanation

SIDE = 384                                 # pixels of a tile
DRAWN = 2 * SIDE                           # at least, before scaling: 12 times a drawn scene
GAP, SIZE = 16, 15                         # between tiles; of a legend's letters


class Tile(NamedTuple):
    """A picture of a panel, its title above it and a legend below it."""

    picture: Image.Image
    title: str
    legend: Sequence[Entry] = ()


def panel(tiles: Sequence[tuple], columns: int | None = None, header: Sequence[str] = ()
          ) -> Image.Image:
    """Tiles (a picture, a title, perhaps a legend) in rows below a header; `columns` a row, by
    default as few as make rows of at most five."""
    tiles = [tile._replace(picture=scaled(tile.picture, SIDE)) for tile in (Tile(*t) for t in tiles)]
    columns = max(1, min(columns or -(-len(tiles) // -(-len(tiles) // 5)), len(tiles)))
    width = columns * (SIDE + GAP) + GAP
    lines = [line for text in header for line in wrap(text, font_of(18), width - 2 * GAP)]
    head = Image.new("RGB", (width, GAP + 26 * len(lines)), PAPER)
    for i, line in enumerate(lines):
        ImageDraw.Draw(head).text((GAP, GAP + 26 * i), line, font=font_of(18), fill=INK)
    return below([head, *(row_of(tiles[i:i + columns], width)
                          for i in range(0, len(tiles), columns))])


def row_of(tiles: Sequence[Tile], width: int) -> Image.Image:
    """Tiles side by side, each under its title and above its legend."""
    tall = max(tile.picture.height for tile in tiles)
    words = max(legend_height(tile.legend, SIZE) for tile in tiles)
    row = Image.new("RGB", (width, 28 + tall + 6 + words + GAP), PAPER)
    pen = ImageDraw.Draw(row)
    for i, tile in enumerate(tiles):
        left = GAP + i * (SIDE + GAP)
        pen.text((left, 4), fit(tile.title, font_of(16), SIDE), font=font_of(16), fill=INK)
        row.paste(tile.picture, (left, 28))
        write_legend(pen, left, 28 + tall + 6, SIDE, tile.legend, SIZE)
    return row


def scaled(picture: Image.Image, side: int) -> Image.Image:
    """The picture with `side` pixels along its longer side."""
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
    parts = [sheet] + [scale_bar(sheet.width, most, found.side)] * bool(shares)
    parts += [router_chart(sheet.width, found)] if found.router else []
    return below(parts)


def region_tile(image: Image.Image, boxes: Sequence[Box], found: Explanation) -> Tile:
    """What RoIAlign reads for all boxes of the question."""
    points = sum(len(box_points(box, found.side, found.bins)) for box in boxes)
    for i, box in enumerate(boxes):
        image = sampling_points(image, box, found.side, found.bins, colour_of(i))
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

def scale_bar(width: int, most: float, side: int) -> Image.Image:
    """The squares' legend: all maps of a sheet have one scale."""
    bar = Image.new("RGB", (width, 48), PAPER)
    pen, x, cell = ImageDraw.Draw(bar), GAP, SIDE / side
    for share in (1, 1 / 4, 1 / 16):
        half = share ** 0.5 * 0.42 * cell
        pen.rectangle((x, 22 - half, x + 2 * half, 22 + half), fill=RULE, outline=INK)
        text = f"{share * most:.1%}"
        pen.text((x + 2 * half + 6, 22), text, font=font_of(SIZE), fill=INK, anchor="lm")
        x += 2 * half + 6 + font_of(SIZE).getlength(text) + 20
    text = f"of the attention to the patches ({side} a side); one scale for all maps"
    pen.text((x, 22), fit(text, font_of(SIZE), width - int(x) - GAP), font=font_of(SIZE), fill=INK,
             anchor="lm")
    return bar


def router_chart(width: int, found: Explanation) -> Image.Image:
    """Both routes side by side: in each layer the shares of the region and the image adapter."""
    chart = Image.new("RGB", (width, 150), PAPER)
    pen, half, high = ImageDraw.Draw(chart), (width - GAP) // 2, 70
    longest = max([1.0, *(v for pairs in found.router.values() for pair in pairs for v in pair)])
    for i, (route, pairs) in enumerate(found.router.items()):
        left, step = GAP + i * half, min(40, (half - 2 * GAP) / len(pairs))
        taken = "taken by this question" if route == found.route else "not taken"
        pen.text((left, 6), fit(f"router, {route} route: {taken}", font_of(SIZE), half - GAP),
                 font=font_of(SIZE), fill=INK)
        for layer, pair in enumerate(pairs):
            for k, share in enumerate(pair):
                x, tall = left + layer * step + k * step * 0.4, max(0.0, share) / longest * high
                pen.rectangle((x, 32 + high - tall, x + step * 0.4 - 1, 32 + high), fill=COLOURS[k])
        pen.line((left, 33 + high, left + step * len(pairs), 33 + high), fill=RULE)
        means = [sum(pair[k] for pair in pairs) / len(pairs) for k in (0, 1)]
        names = [f"{mean:.2f} of the {name} adapter" for mean, name in zip(means, found.router)]
        beside = int(left + step * len(pairs) + GAP)
        write_legend(pen, beside, 44, left + half - GAP - beside, [*zip(COLOURS, names)], SIZE)
        pen.text((left, 40 + high), f"layers 1 to {len(pairs)}", font=font_of(12), fill=INK)
    return chart


def below(parts: Sequence[Image.Image]) -> Image.Image:
    """Strips of one width, one below the other."""
    sheet = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet
