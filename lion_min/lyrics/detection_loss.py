"""What the tiny refiner learns from: exact matching of queries with objects, and the losses.

A detector says M things about a picture of n objects; which query answers for which object is
the cheapest one-to-one matching (DETR, arXiv 2005.12872). Costs and weights are Grounding-DINO's
(transformers' GroundingDinoConfig): words 1 (loss: 2, as in its training), L1 5, GIoU 2.

Symbols: B images, M queries, T most objects of a picture, G words, H W mask sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lion_min.boxes import area
from lion_min.lyrics.refiner import Detections, TinyRefiner
from lion_min.lyrics.suppression import corners
from lion_min.scenes import Scene, stencil
from lion_min.tasks import fits

WORDS, L1, GIOU = 2.0, 5.0, 2.0        # of the loss and of the matching cost; masks have 1


# ---- the truth about scenes -------------------------------------------------------------------

@dataclass
class Truth:
    """The objects of a batch, padded to T a picture."""

    counts: list[int]
    boxes: Tensor                # [B, T, 4] cxcywh fractions
    words: Tensor                # [B, T, G] 1 where a word names the object
    masks: Tensor | None         # [B, T, H, W] the share of each pixel that is covered


def scene_masks(scene: Scene, size: int) -> Tensor:
    """The share of each pixel that each object covers: [objects, size, size] in 0..1."""
    pages = []
    for thing in scene.objects:
        x1, y1, x2, _ = (round(v * scene.world.image) for v in thing.box)
        page = Image.new("L", (scene.world.image,) * 2)
        page.paste(stencil(thing.kind, x2 - x1), (x1, y1))
        page = page.resize((size, size), Image.Resampling.BOX)
        pages.append(torch.frombuffer(bytearray(page.tobytes()), dtype=torch.uint8))
    return torch.stack(pages).view(-1, size, size) / 255 if pages else torch.zeros(0, size, size)


def truth_of(scenes: list[Scene], vocabulary: tuple[str, ...], mask_size: int | None,
             device) -> Truth:
    """The truth about scenes; mask_size None leaves the masks out."""
    counts = [len(s.objects) for s in scenes]
    most = max([1, *counts])
    boxes = torch.full((len(scenes), most, 4), 0.5)
    words = torch.zeros(len(scenes), most, len(vocabulary))
    masks = torch.zeros(len(scenes), most, mask_size, mask_size) if mask_size else None
    for b, scene in enumerate(scenes):
        for t, thing in enumerate(scene.objects):
            x1, y1, x2, y2 = thing.box
            boxes[b, t] = torch.tensor([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
            words[b, t] = torch.tensor([float(fits(word, thing)) for word in vocabulary])
        if mask_size:
            masks[b, :counts[b]] = scene_masks(scene, mask_size)
    return Truth(counts, boxes.to(device), words.to(device),
                 None if masks is None else masks.to(device))


# ---- matching ---------------------------------------------------------------------------------

def giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of xyxy boxes, -1..1: [..., 4], [..., 4] -> [...] (arXiv 1902.09630).

    IoU less the share of the smallest enclosing box that neither covers, so that boxes which
    do not touch still learn where to go.
    """
    overlap = (torch.minimum(a[..., 2:], b[..., 2:])
               - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = (area(a) + area(b) - overlap).clamp(min=1e-9)
    enclosing = (torch.maximum(a[..., 2:], b[..., 2:])
                 - torch.minimum(a[..., :2], b[..., :2])).prod(-1).clamp(min=1e-9)
    return overlap / union - (enclosing - union) / enclosing


def assign(cost: list[list[float]]) -> list[int]:
    """The cheapest one-to-one assignment: cost [n][m], n <= m -> each row's column.

    The Hungarian method with potentials (Jonker and Volgenant), O(n^2 m). Rows enter one at a
    time; each finds the shortest path, in reduced costs, from itself to a free column through
    the columns already taken, and the path's rows move one column on. A row's and a column's
    potentials never sum to more than the cost and meet it on every assignment, which proves
    the result cheapest. Raises ValueError when there are more rows than columns.
    """
    n, m = len(cost), len(cost[0]) if cost else 0
    if n > m:
        raise ValueError(f"{n} objects cannot have a query each of {m}")
    above, beside = [0.0] * n, [0.0] * (m + 1)     # potentials of rows and columns
    owner: list[int | None] = [None] * m + [0]     # column m is where the new row starts
    for row in range(n):
        owner[m], column = row, m
        shortest, before = [math.inf] * m, [m] * m
        visited = [False] * m + [True]
        while (taker := owner[column]) is not None:
            visited[column], nearest, step = True, m, math.inf
            for c in range(m):
                if not visited[c]:
                    if (reduced := cost[taker][c] - above[taker] - beside[c]) < shortest[c]:
                        shortest[c], before[c] = reduced, column
                    if shortest[c] < step:
                        nearest, step = c, shortest[c]
            for c in range(m + 1):                 # what was visited stays tight
                if visited[c]:
                    above[owner[c]] += step
                    beside[c] -= step
                else:
                    shortest[c] -= step
            column = nearest
        while column != m:                         # the path's rows move one column on
            owner[column], column = owner[before[column]], before[column]
    return [owner.index(row) for row in range(n)]


@torch.no_grad()
def match(guess: Detections, truth: Truth) -> list[list[int]]:
    """For each picture the query of each of its objects."""
    likely = guess.logits.sigmoid()                                           # [B, M, G]
    named = truth.words / truth.words.sum(-1, keepdim=True).clamp(min=1)      # [B, T, G]
    ours, theirs = guess.boxes[:, None], truth.boxes[:, :, None]              # [B, 1 / T, M / 1, 4]
    cost = (L1 * (ours - theirs).abs().sum(-1) - GIOU * giou(corners(ours), corners(theirs))
            - WORDS * torch.einsum("bmg,btg->btm", likely, named)).tolist()
    return [assign(rows[:count]) for rows, count in zip(cost, truth.counts)]


# ---- losses -----------------------------------------------------------------------------------

def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Sigmoid cross-entropy with the easy cases played down, elementwise (arXiv 1708.02002)."""
    likely = logits.sigmoid()
    surprise = (likely - target).abs()
    weight = 0.25 * target + 0.75 * (1 - target)
    return weight * surprise ** 2 * F.binary_cross_entropy_with_logits(logits, target,
                                                                       reduction="none")


def pairs(matched: list[list[int]], device) -> Tensor:
    """(image, query, object) of every match: [3, R], for indexing."""
    rows = [(b, q, t) for b, queries in enumerate(matched) for t, q in enumerate(queries)]
    return torch.tensor(rows, dtype=torch.long, device=device).view(-1, 3).T


def detection_parts(guess: Detections, truth: Truth, matched: list[list[int]]) -> dict[str, Tensor]:
    """Words over all queries, boxes over the matched ones; each a mean an object."""
    image, query, thing = pairs(matched, guess.boxes.device)                  # [R] each
    count = max(1, len(image))
    target = torch.zeros_like(guess.logits)
    target[image, query] = truth.words[image, thing]
    prompted = guess.logits.isfinite()             # a word outside the prompt has no answer
    ours, theirs = guess.boxes[image, query], truth.boxes[image, thing]       # [R, 4]
    return {"words": focal(guess.logits[prompted], target[prompted]).sum() / count,
            "l1": (ours - theirs).abs().sum() / count,
            "giou": (1 - giou(corners(ours), corners(theirs))).sum() / count}


def mask_parts(logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Per-pixel cross-entropy and dice of matched masks: [R, H, W], [R, H, W]."""
    if not len(logits):
        return {"mask": logits.sum(), "dice": logits.sum()}
    likely = logits.sigmoid()
    dice = 1 - (2 * (likely * truth).sum((1, 2)) + 1) / (likely.sum((1, 2)) + truth.sum((1, 2)) + 1)
    return {"mask": F.binary_cross_entropy_with_logits(logits, truth), "dice": dice.mean()}


def refiner_loss(refiner: TinyRefiner, states: list[Tensor],
                 scenes: list[Scene]) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, its named parts) of one batch, for training.run.

    states: every state of the frozen ViT for the scenes' pictures, each [B, 1+N, Dv]. The
    patches' guess and every layer's are matched and scored alike and their losses summed.
    """
    s = refiner.settings
    _, guesses, features = refiner(states)
    truth = truth_of(scenes, refiner.words, s.mask_size if refiner.segmenter else None,
                     features.device)
    matched = [match(guess, truth) for guess in guesses]
    each = [detection_parts(guess, truth, queries) for guess, queries in zip(guesses, matched)]
    parts = {name: sum(part[name] for part in each) for name in each[0]}
    if refiner.segmenter is not None:
        image, query, thing = pairs(matched[-1], features.device)
        logits = refiner.segmenter(states, features)[image, query].float()
        parts |= mask_parts(logits, truth.masks[image, thing])
    weights = {"words": WORDS, "l1": L1, "giou": GIOU}
    loss = sum(weights.get(name, 1.0) * part for name, part in parts.items())
    return loss, {name: part.detach() for name, part in parts.items()}
