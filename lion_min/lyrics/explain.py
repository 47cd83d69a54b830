"""What stands behind Lyrics' answer: the refiner's objects, the queries' attention; attention masks.

Symbols: H heads, Qi and Qo image and object queries, N patches, M objects, P pixels a side.
"""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lion_min.drawing import COLOURS, INK, PAPER, RULE, SHORT_SIDE
from lion_min.explanation import (REGION, AttentionMap, Detection, Explanation, Token, coverage,
                                  moved, numbered, other_question, text_tokens, visual_tokens)
from lion_min.lyrics.refiner import Refined
from lion_min.system import Reply, System

MARGIN = 60                                # pixels for the groups' names beside a matrix


@torch.no_grad()
def explain(system: System, reply: Reply) -> Explanation:
    """The refiner's tags, boxes and segments, and what both kinds of queries attend to."""
    model = system.model
    refined = model.refiner and system.refined(reply.features["states"], [reply.image])
    (x, maps), (_, others) = (query_maps(system, reply, prompt, refined)
                              for prompt in (reply.prompt, other_question(reply.prompt)))
    for one, other in zip(maps, others):
        one.moved = moved(one, other)
    s, found = model.settings, detections(refined) if refined else None
    lines = [Token(system.tokenizer.decode([i for i in row if i]), REGION)
             for row in x.objects.lines[0].tolist() if any(row)] \
        if refined and s.object_lines else []
    of_image = s.mqformer.queries - s.mqformer.object_queries
    tokens = [*lines, *visual_tokens("image query", of_image),
              *visual_tokens("object query", s.mqformer.object_queries, REGION),
              *text_tokens(system.tokenizer, x.prompts[0], {})]
    return Explanation(s.vision.side, tokens, maps, tags=refined and refined.tags[0],
                       detections=found)


def query_maps(system: System, reply: Reply, prompt: str, refined: Refined | None):
    """(inputs, maps) of a prompt. An object query's attention to an object is spread over the
    object's box, so that both kinds can be drawn on the patches."""
    model, s = system.model, system.model.settings
    x = system.inputs(reply.features, [prompt])
    layers = model.query_tokens(x, maps=True)[1]
    image = [m if refined is None else m[0] for m in layers]              # [1, H, Qi, N] a layer
    maps = [AttentionMap("image queries", torch.stack(image)[:, 0].cpu(),
                         numbered("query", image[0].shape[2]))]
    if refined is not None:
        seen = torch.stack([m[1] for m in layers])[:, 0].cpu()            # [L, H, Qo, M]
        boxes = coverage(refined.boxes[0].tolist(), s.vision.side)        # [M, N]
        boxes = boxes / boxes.sum(1, keepdim=True).clamp(min=1e-6)
        maps.append(AttentionMap("object queries", seen @ boxes, numbered("query", seen.shape[2])))
    return x, maps


def detections(refined: Refined) -> list[Detection]:
    """The kept objects of the first picture that have a label, the surest first."""
    found = []
    for m, (keep, label) in enumerate(zip(refined.mask[0].tolist(), refined.labels[0])):
        if keep and label:
            mask = None if refined.segments is None else refined.segments[0, m].sigmoid().cpu()
            found.append(Detection(label, float(refined.scores[0, m]),
                                   tuple(refined.boxes[0, m].tolist()), mask))
    return found


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
