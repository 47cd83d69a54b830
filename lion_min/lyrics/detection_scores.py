"""How good boxes and masks are: average precision and mask IoU.

Average precision: all detected boxes of all pictures, by falling score; each takes the true object
of its picture that it overlaps most among those not yet taken, and is right when their IoU
reaches the mark. AP is the area under precision over recall after precision has been made
non-increasing (all points, as VOC since 2010; COCO samples the same curve at 101 recalls).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lion_min.boxes import box_iou, iou
from lion_min.lyrics.detection_loss import scene_masks
from lion_min.lyrics.refiner import Refined, TinyRefiner
from lion_min.scenes import Scene, Thing
from lion_min.tasks import fits

MARKS = tuple(0.5 + 0.05 * i for i in range(10))


@dataclass
class LabelledBoxes:
    """One picture's boxes [n, 4] and labels, detected (then with scores) or true."""

    boxes: Tensor
    labels: list[str]
    scores: Sequence[float] = ()


def average_precision(detected: list[LabelledBoxes], true: list[LabelledBoxes],
                      mark: float = 0.5, with_labels: bool = False) -> float:
    """AP at one IoU mark, class-agnostic or, `with_labels`, right only with the right label.

    detected[i] and true[i] belong to the same picture. Without any true object it is 1 when
    nothing was detected, else 0.
    """
    total = sum(len(t.labels) for t in true)
    ranked = sorted(((score, i, row) for i, d in enumerate(detected)
                     for row, score in enumerate(d.scores)), key=lambda item: -item[0])
    if not total:
        return float(not ranked)
    overlaps = [box_iou(d.boxes, t.boxes).tolist() for d, t in zip(detected, true)]
    free = [set(range(len(t.labels))) for t in true]
    right = []
    for _, i, row in ranked:
        partners = [t for t in free[i] if overlaps[i][row][t] >= mark
                    and (not with_labels or detected[i].labels[row] == true[i].labels[t])]
        right.append(bool(partners))
        if partners:
            free[i].remove(max(partners, key=lambda t: overlaps[i][row][t]))
    hits = torch.tensor(right, dtype=torch.float64)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    best = precision.flip(0).cummax(0).values.flip(0)          # of this rank and all below it
    return float((best * hits).sum() / total)                  # recall moves only at a hit


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boolean masks [..., H, W], [..., H, W] -> [...]; two empty ones score 0."""
    both, either = (a & b).sum((-2, -1)), (a | b).sum((-2, -1))
    return both / either.clamp(min=1)


# ---- a refiner on scenes ------------------------------------------------------------------------

def phrase(thing: Thing, words: tuple[str, ...]) -> str:
    """The label that a refiner of these words should give: 'small striped red circle'."""
    return " ".join(word for word in words if fits(word, thing))


def detected_boxes(refined: Refined) -> list[LabelledBoxes]:
    """The kept boxes of each picture."""
    return [LabelledBoxes(boxes[keep].cpu(), [w for w, k in zip(labels, keep.tolist()) if k],
                          scores[keep].tolist())
            for boxes, scores, labels, keep in zip(refined.boxes, refined.scores, refined.labels,
                                                   refined.mask)]


def true_boxes(scenes: list[Scene], words: tuple[str, ...]) -> list[LabelledBoxes]:
    return [LabelledBoxes(torch.tensor([t.box for t in s.objects]).view(-1, 4),
                          [phrase(t, words) for t in s.objects]) for s in scenes]


def segment_iou(refined: Refined, scenes: list[Scene]) -> float:
    """Mean mask IoU of the true objects with the mask of their best box; 0 for undetected ones."""
    scores = []
    for b, scene in enumerate(scenes):
        count = int(refined.mask[b].sum())
        masks = refined.segments[b, :count].cpu() > 0                         # [K, H, W]
        truth = scene_masks(scene, refined.segments.shape[-1]) > 0.5          # [objects, H, W]
        for thing, mask in zip(scene.objects, truth):
            overlap = iou(refined.boxes[b, :count].cpu(), torch.tensor(thing.box))  # [K]
            good = count and overlap.max() >= 0.5
            scores.append(float(mask_iou(masks[overlap.argmax()], mask)) if good else 0.0)
    return sum(scores) / max(1, len(scores))


def refiner_scores(refiner: TinyRefiner, states: list[Tensor],
                   scenes: list[Scene]) -> dict[str, float]:
    """AP of the kept boxes at .5 and over .5:.95, the same with the label right, mask IoU.

    states: every state of the frozen ViT for the scenes as drawn, each [B, 1+N, Dv].
    """
    refined = refiner.refine(states)
    detected, true = detected_boxes(refined), true_boxes(scenes, refiner.words)
    precisions = {name: [average_precision(detected, true, mark, labels) for mark in MARKS]
                  for name, labels in (("ap", False), ("labelled_ap", True))}
    scores = {f"{name}50": values[0] for name, values in precisions.items()}
    scores |= {name: sum(values) / len(values) for name, values in precisions.items()}
    return scores | ({} if refined.segments is None else
                     {"mask_iou": segment_iou(refined, scenes)})
