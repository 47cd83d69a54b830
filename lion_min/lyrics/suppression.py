"""Which detected boxes are kept, and in which order: those above a threshold, less duplicates.

Shared by the tiny refiner and the published one. Symbols: B images, M boxes, X more of them.
"""

import torch
from torch import Tensor

from lion_min.boxes import area, box_iou


def corners(boxes: Tensor) -> Tensor:
    """cxcywh -> xyxy, clamped to the picture: [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1).clamp(0, 1)


def suppress(boxes: Tensor, scores: Tensor, overlap: float) -> list[int]:
    """Class-agnostic non-maximum suppression of boxes [M, 4] xyxy with scores [M]: the rows that
    stay, by falling score. A box goes when a better one stays at an IoU above `overlap`."""
    close = (box_iou(boxes, boxes) > overlap).tolist()
    stay: list[int] = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        if not any(close[row][other] for other in stay):
            stay.append(row)
    return stay


def choose(boxes: Tensor, scores: Tensor, threshold: float,
           overlap: float) -> tuple[Tensor, Tensor]:
    """(order [B, M]: kept rows first, then the others, by falling score; mask [B, M])."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for b, score in enumerate(scores):
        rows = ((score > threshold) & (area(boxes[b]) > 0)).nonzero()[:, 0]
        mask[b, rows[suppress(boxes[b, rows], score[rows], overlap)]] = True
    falling = scores.argsort(descending=True, stable=True)                    # [B, M]
    first = mask.gather(1, falling).byte().argsort(descending=True, stable=True)
    order = falling.gather(1, first)                                          # [B, M]
    return order, mask.gather(1, order)


def rows_of(values: Tensor, order: Tensor) -> Tensor:
    """Rows [B, M] of [B, X, ...]: [B, M, ...]."""
    return values[torch.arange(len(values), device=values.device)[:, None], order]
