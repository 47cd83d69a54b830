"""Pictures of the refiner's boxes and masks, of the queries' attention, of an attention mask.

Symbols: H heads, Qi and Qo image and object queries, N patches, M objects, P pixels a side.
"""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lion_min.system import Reply, System
from lion_min.boxes import Box
from lion_min.drawing import COLOURS, INK, PAPER, RULE, SHORT_SIDE
from lion_min.lyrics.prompt import make_inputs

SIDE = 96                                  # P of a drawn box; a mask is enlarged to it
MARGIN = 60                                # pixels for the groups' names beside a matrix


@torch.no_grad()
def explain(system: System, reply: Reply) -> tuple[list[tuple[str, Tensor]], None]:
    """([(title, weights [h, w])], None): the refiner's boxes, then the queries' attention."""
    x = make_inputs(system.model, system.tokenizer, reply.features["states"],
                    reply.features["objects"], [reply.prompt])
    maps = system.model.query_tokens(x, maps=True)[1]
    pairs = maps if system.model.refiner is not None else [(m, None) for m in maps]
    weights = torch.stack([image for image, _ in pairs]).mean((0, 1, 2, 3))   # [N]
    side = math.isqrt(len(weights))
    tiles = [("image queries, led by the question", weights.view(side, side).cpu())]
    if system.model.refiner is None:
        return tiles, None
    weights = torch.stack([objects for _, objects in pairs]).mean((0, 1, 2, 3)).cpu()   # [M]
    refined = system.model.refiner.refine(reply.features["states"])
    boxes = refined.boxes[0].tolist()
    weighted = sum((w * inside(box) for w, box in zip(weights.tolist(), boxes)),
                   torch.zeros(SIDE, SIDE))
    tiles += [("object queries, led by the question", weighted)]
    return refiner_tiles(refined) + tiles, None


def refiner_tiles(refined) -> list[tuple[str, Tensor]]:
    """The tags with every box, then each object's mask in its box: [P, P] each."""
    boxes, none = refined.boxes[0].tolist(), torch.zeros(SIDE, SIDE)
    rows = [m for m, (keep, label) in enumerate(zip(refined.mask[0].tolist(), refined.labels[0]))
            if keep and label]
    frames = torch.stack([none, *(frame(boxes[m]) for m in rows)]).amax(0)
    tiles = [("tags: " + (", ".join(refined.tags[0]) or "none"), frames)]
    for m in rows:
        drawn = frame(boxes[m])
        if refined.segments is not None:
            mask = refined.segments[0, m].sigmoid().cpu()[None, None]     # [1, 1, H, W]
            drawn = torch.maximum(drawn, torch.nn.functional.interpolate(
                mask, (SIDE, SIDE), mode="nearest")[0, 0])
        tiles.append((f"{refined.labels[0][m]}, {float(refined.scores[0, m]):.2f}", drawn))
    return tiles


def inside(box: Box) -> Tensor:
    """1 inside of a box, 0 outside: [P, P]."""
    centre = (torch.arange(SIDE) + 0.5) / SIDE
    x1, y1, x2, y2 = box
    return (((centre >= y1) & (centre < y2))[:, None]
            & ((centre >= x1) & (centre < x2))[None]).float()


def frame(box: Box, line: float = 1.5 / SIDE) -> Tensor:
    """A box's rim: [P, P]."""
    x1, y1, x2, y2 = box
    return inside(box) - inside((x1 + line, y1 + line, x2 - line, y2 - line))


def matrix(mask: Tensor, groups: dict[str, int]) -> Image.Image:
    """An attention mask [n, n] as a picture: row i attends to column j where the cell is black.

    groups: what rows and columns are, name -> how many, in order; each begins at a line.
    """
    picture = Image.new("RGB", (SHORT_SIDE, SHORT_SIDE), PAPER)
    pen, font, side = ImageDraw.Draw(picture), ImageFont.load_default(15), SHORT_SIDE - MARGIN - 2
    edges = [MARGIN + i * side // len(mask) for i in range(len(mask) + 1)]   # pixels, both axes
    for i, row in enumerate(mask.tolist()):
        for j, allowed in enumerate(row):
            pen.rectangle((edges[j], edges[i], edges[j + 1], edges[i + 1]), outline=RULE,
                          fill=INK if allowed else PAPER)
    start = 0
    for name, size in groups.items():
        middle = (edges[start] + edges[start + size]) // 2
        pen.text((middle, MARGIN - 6), name, font=font, fill=INK, anchor="ms")
        pen.text((MARGIN - 6, middle), name, font=font, fill=INK, anchor="rm")
        for line in ((edges[start], 0, edges[start], SHORT_SIDE),
                     (0, edges[start], SHORT_SIDE, edges[start])):
            pen.line(line, fill=COLOURS[5], width=2)
        start += size
    return picture
