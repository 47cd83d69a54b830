"""What Lyrics found and where it looked: the refiner's boxes and masks, the queries' attention.

Symbols: H heads, Qi and Qo image and object queries, N patches, M objects, P pixels a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lion_min.asking import Reply
from lion_min.boxes import Box
from lion_min.lyrics.answering import LyricsSystem
from lion_min.lyrics.prompt import kept, make_inputs

SIDE = 96                                  # P of a drawn box; a mask is enlarged to it


@torch.no_grad()
def explain(system: LyricsSystem, reply: Reply) -> tuple[list[tuple[str, Tensor]], None]:
    """([(title, weights [h, w])], None): what the refiner found, then what the queries read."""
    x = make_inputs(system.model, system.tokenizer, reply.features["states"],
                    reply.features["objects"], [reply.prompt])
    maps = system.model.query_tokens(x, maps=True)[1]
    pairs = maps if system.model.refiner is not None else [(m, None) for m in maps]
    seen = torch.stack([image for image, _ in pairs]).mean((0, 1, 2, 3))   # [N]
    side = math.isqrt(len(seen))
    tiles = [("image queries, led by the question", seen.view(side, side).cpu())]
    if system.model.refiner is None:
        return tiles, None
    found = torch.stack([objects for _, objects in pairs]).mean((0, 1, 2, 3)).cpu()   # [M]
    refined = reply.features["refined"]
    boxes = refined.boxes[0].tolist()
    weighted = sum((w * inside(box) for w, box in zip(found.tolist(), boxes)),
                   torch.zeros(SIDE, SIDE))
    tiles += [("object queries, led by the question", weighted)]
    return refiner_tiles(refined) + tiles, None


def refiner_tiles(refined) -> list[tuple[str, Tensor]]:
    """The tags with every box, then each object's mask in its box: [P, P] each."""
    objects = kept(refined, 0)
    frames = torch.stack([frame(box) for _, box in objects]).amax(0) if objects \
        else torch.zeros(SIDE, SIDE)
    tiles = [("tags: " + (", ".join(refined.tags[0]) or "none"), frames)]
    rows = [m for m, (keep, label) in enumerate(zip(refined.mask[0].tolist(), refined.labels[0]))
            if keep and label]
    for row, (label, box) in zip(rows, objects):
        drawn = frame(box)
        if refined.segments is not None:
            mask = refined.segments[0, row].sigmoid().cpu()[None, None]   # [1, 1, H, W]
            drawn = torch.maximum(drawn, torch.nn.functional.interpolate(
                mask, (SIDE, SIDE), mode="nearest")[0, 0])
        tiles.append((f"{label}, {float(refined.scores[0, row]):.2f}", drawn))
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
