"""Sheets of tiles: what a system's modules read, look at and return, on the example picture.

Each function that SHEETS names draws one; its docstring is the heading. Letters are SIZE pixels
tall and sheets at most FULL wide, so that they are legible where a page shows them at half size.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from PIL import Image, ImageDraw

from lion_min.cli import LION, LMEYE, LYRICS, PVIT
from lion_min.drawing import (COLOURS, INK, PAPER, box_points, colour_of, draw_grid, font_of,
                              frames, heat_map, sampling_points, write_legend)
from lion_min.explanation import KINDS, Explanation, Token, moved
from lion_min.images import load_image
from lion_min.panel import (DRAWN, GAP, SIZE, Tile, below, panel, refiner_tile, region_tile,
                            scale_bar, scaled, words)
from lion_min.regions import pool_regions
from lion_min.scenes import WORLDS, Thing, make_scene
from lion_min.studies.conditions import PROBES
from lion_min.studies.diagram import KIND_FILLS
from lion_min.studies.example import EXAMPLE, example_scene, names, opened
from lion_min.system import Reply

WIDE, FULL = 512, 1616                     # pixels: of a tile where three fill a sheet, of a sheet
NEAREST = Image.Resampling.NEAREST


@cache
def example() -> tuple[Image.Image, tuple[Thing, ...], dict[Thing, str]]:
    """(the picture, its objects, a name for each that has one of its own)."""
    scene = example_scene()
    return load_image(EXAMPLE), scene.objects, names(scene)


@cache
def shown(name: str, prompt: str) -> tuple[Reply, Explanation]:
    """A system's answer about the example picture and what stands behind it."""
    reply = opened(name).ask(example()[0], prompt)
    return reply, opened(name).explain(reply)


def where() -> list[str]:
    """A question about each object of the example picture, which a map should tell apart."""
    return [f"Where is the {name}?" for name in example()[2].values()]


def describe(thing: Thing) -> str:
    return "describe box [{:.2f},{:.2f},{:.2f},{:.2f}]".format(*thing.box)


def tile(image: Image.Image, boxes=(), colours=(), grid: int = 0, side: int = WIDE) -> Image.Image:
    """A tile's picture with frames, drawn at twice its size; grid: patches a side."""
    picture = scaled(image, 2 * side)
    if grid:
        draw_grid(picture, grid, grid)
    return frames(picture, boxes, colours)


def token_row(tokens: list[Token], width: int) -> Image.Image:
    """The LLM's row as words on the colours of their kinds; a run that is only numbered is one."""
    runs: list[list] = []
    for token in tokens:
        base, _, number = token.text.rpartition(" ")
        if runs and number.isdigit() and runs[-1][0] == base and runs[-1][1] == token.kind:
            runs[-1][2] += 1
        else:
            runs.append([base if number.isdigit() and base else token.text, token.kind, 1])
    font, x, y, chips = font_of(SIZE), GAP, 8, []
    for text, kind, many in runs:
        text = f"{text} x {many}" if many > 1 else text
        wide = round(font.getlength(text)) + 20
        if x + wide > width - GAP:
            x, y = GAP, y + 48
        chips.append((x, y, x + wide, text, kind))
        x += wide + 8
    row = Image.new("RGB", (width, y + 104), PAPER)
    pen = ImageDraw.Draw(row)
    for x, top, right, text, kind in chips:
        pen.rounded_rectangle((x, top, right, top + 38), 8, fill=KIND_FILLS[kind],
                              outline="#8a94a0")
        pen.text((x + 10, top + 19), text, font=font, fill=INK, anchor="lm")
    x = GAP
    for kind in (kind for kind in KINDS if any(token.kind == kind for token in tokens)):
        write_legend(pen, x, y + 56, width, [(KIND_FILLS[kind], kind)], SIZE)
        x += round(font.getlength(kind)) + 70
    return row


def world() -> Image.Image:
    """Drawn worlds: a held-out scene of each, and the truth, words and box of every object"""
    tiles = []
    for one in WORLDS.values():
        drawn = (make_scene(one, "heldout", 7, i) for i in range(100))
        scene = next(s for s in drawn if len(s.objects) == one.objects[1])
        colours = [colour_of(i) for i in range(len(scene.objects))]
        picture = scene.draw(2 * WIDE // one.image)
        tiles.append(Tile(tile(picture, [t.box for t in scene.objects], colours),
                          f"'{one.name}': {one.image} x {one.image} pixels, {len(one.kinds)} kinds",
                          [(colour, "{} [{:.2f},{:.2f},{:.2f},{:.2f}]".format(t.words(), *t.box))
                           for colour, t in zip(colours, scene.objects)]))
    return panel(tiles, side=WIDE)


def roialign() -> Image.Image:
    """RoIAlign: a box of any size becomes the same number of vectors, and nothing is rounded"""
    image, things, _ = example()
    thing = max(things, key=lambda t: t.box[2] - t.box[0])
    found, box = shown(LION, describe(thing))[1], thing.box
    side, bins = found.side, found.bins
    cells = image.resize((side, side), Image.Resampling.BOX)              # a patch's mean colour
    colours = torch.tensor([[cells.getpixel((i % side, i // side)) for i in range(side ** 2)]])
    pooled = pool_regions(colours.float(), torch.tensor([box]), torch.tensor([0]), bins)[0]
    mixed = Image.new("RGB", (bins, bins))
    mixed.putdata([tuple(colour) for colour in pooled.round().int().tolist()])     # [bins^2, 3]
    squares = [(x / bins, y / bins, (x + 1) / bins, (y + 1) / bins)
               for y in range(bins) for x in range(bins)]
    return panel([
        Tile(tile(image, [box], COLOURS, side), "1. a box on the patches", [
            (COLOURS[0], f"it may end anywhere between the {side} x {side} patches")]),
        Tile(sampling_points(cells.resize([2 * WIDE] * 2, NEAREST), box, side, bins),
             "2. bins and points on the map", [
                 (None, "the map: here a patch's mean colour, in the model 128 numbers"),
                 (COLOURS[0], f"{bins} x {bins} bins"),
                 (PAPER, f"{len(box_points(box, side, bins))} points, each a mix of the four "
                         "patches around it, the nearest most")]),
        Tile(tile(mixed.resize([2 * WIDE] * 2, NEAREST), squares, [COLOURS[0]] * len(squares)),
             "3. what is pooled", [
                 (None, f"a bin is the mean of its points: {len(squares)} vectors")]),
    ], side=WIDE)


def compared(name: str, query: str, questions: list[str]) -> Image.Image:
    """The maps of each query of a system's first part, a row a question, on one scale."""
    asked, picture = [shown(name, prompt) for prompt in questions], scaled(example()[0], DRAWN)
    parts = [found.maps[0] for _, found in asked]
    maps = [[replace(part, start=[q]) for q in range(len(part.queries))] for part in parts]
    most, rows = max(float(one.share().max()) for row in maps for one in row), []
    for row, (reply, _) in enumerate(asked):
        notes = [[(None, f"{moved(first, now):.0%} of it has moved")] * bool(row)
                 for first, now in zip(maps[0], maps[row])]
        tiles = [Tile(tile(picture, reply.boxes, COLOURS, side=DRAWN // 2), "the answer")] + [
            Tile(heat_map(picture, one.share(), most), f"{query} {q + 1}", note)
            for q, (one, note) in enumerate(zip(maps[row], notes))]
        rows.append(panel(tiles[len(tiles) > 4:], columns=4, header=[
            f"{reply.prompt}  Answer: {reply.answer}"]))
    return below([*rows, scale_bar(rows[0].width, most, asked[0][1].side)])


def qformer() -> Image.Image:
    """LION's Q-Former: queries look at the picture under the question (mean of layers and heads)"""
    return compared(LION, "query", where()[:2])


def lmeye() -> Image.Image:
    """LMEye: the LLM reads the question, then its requests look at the picture"""
    return compared(LMEYE, "request", where())


def aggregator() -> Image.Image:
    """LION's vision aggregator: patches of the last ViT state look at two earlier states"""
    image, things, _ = example()
    found = shown(LION, describe(things[0]))[1]
    one = next(one for one in found.maps if one.part == "aggregator")
    side, picture = found.side, tile(image)
    patches = [(i % side / side, i // side / side, (i % side + 1) / side, (i // side + 1) / side)
               for i in one.start]
    blocks = [replace(one, weights=block[None]) for block in one.weights]
    last, *earlier = opened(LION).model.settings.depths
    most = max(float(block.share().max()) for block in blocks)
    sheet = panel([Tile(tile(image, patches, [COLOURS[0]] * len(patches), side),
                        f"{len(patches)} patches of an object", [
                            (COLOURS[0], f"their vectors in ViT state {last} ask")])] + [
        Tile(heat_map(picture, block.share(), most), f"block {i}: they look at state {depth}", [
            (None, "mean of those patches and of the heads")])
        for i, (block, depth) in enumerate(zip(blocks, earlier), 1)], side=WIDE)
    return below([sheet, scale_bar(sheet.width, most, side, WIDE)])


def pvit() -> Image.Image:
    """PVIT: what lies in a box becomes one token of the question, and the LLM needs it"""
    image, things, _ = example()
    asked = ["What is in [{:.2f},{:.2f},{:.2f},{:.2f}]?".format(*thing.box) for thing in things]
    boxes, colours = [thing.box for thing in things], [colour_of(i) for i in range(len(things))]
    found = shown(PVIT, asked[0])[1]
    given = [shown(PVIT, prompt)[0].answer for prompt in asked]
    with PROBES["zeroed-region"](opened(PVIT)):
        zeroed = [opened(PVIT).ask(image, prompt).answer for prompt in asked]
    pooled = region_tile(scaled(image, 2 * WIDE), boxes, found)
    sheet = panel([pooled._replace(title="each box is pooled, then projected")] + [
        Tile(tile(image, boxes, colours), title, [*zip(colours, answers)])
        for title, answers in (("answers with that token", given),
                               ("answers with zeros in its place", zeroed))], side=WIDE)
    return below([words(sheet.width, ["The row that the LLM reads:"]),
                  token_row(found.tokens, sheet.width), sheet])


def lyrics() -> Image.Image:
    """Lyrics' visual refiner: first it finds the objects, then the LLM is asked"""
    image, (found, seen) = example()[0], shown(LYRICS, where()[0])[::-1]
    colours, boxes = [colour_of(i) for i in range(len(found.detections))], [
        one.box for one in found.detections]
    segments = refiner_tile(scaled(image, 2 * WIDE), found.detections)
    sheet = panel([
        Tile(tile(image), "1. the tagger says what is there", [(None, ", ".join(found.tags))]),
        Tile(tile(image, boxes, colours), "2. the detector finds it", segments.legend),
        segments._replace(title="3. the segmenter outlines it", legend=[
            (None, "a mask for each box, drawn as its outline")])], side=WIDE)
    return below([sheet, words(sheet.width, [
        "The row that the LLM reads: a line of each object, queries, the question. "
        f"Answer: {seen.answer}"]), token_row(found.tokens, sheet.width)])


SHEETS = {draw.__name__: draw
          for draw in (world, roialign, qformer, aggregator, pvit, lmeye, lyrics)}
