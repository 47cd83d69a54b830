"""LION's attention maps: the cross-attention of both branches, and the router's mix.

Symbols: S samples, H heads, Q queries, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lion_min.adapters import mixtures
from lion_min.system import Reply, System
from lion_min.boxes import Box
from lion_min.lion.prompt import route


@torch.no_grad()
def explain(system: System, reply: Reply
            ) -> tuple[list[tuple[str, Tensor]], list[tuple[float, float]] | None]:
    """([(title, weights [h, w])], the router's (region, image) shares a layer or None).

    Weights are means over layers and heads, of the patches alone, without CLS.
    """
    model, task = system.model, route(reply.prompt)
    x, maps = system.inputs(reply.features, [reply.prompt], task), []
    if model.settings.mode != "aggregator":
        seen = torch.stack(model.query_tokens(x, maps=True)[1])           # [layers, 1, H, Q, 1+N]
        maps.append(("the Q-Former, led by the question", _square(seen.mean((0, 1, 2, 3)))))
    if model.settings.mode != "qformer":
        seen = torch.stack(model.aggregated_tokens(x, maps=True)[1])      # [blocks, 1, H, 1+N, 1+N]
        boxes, weights = reply.prompt_boxes + reply.boxes, seen.mean((0, 1, 2))  # [1+N, 1+N]
        rows = _inside(boxes, len(weights) - 1) if boxes else [*range(1, len(weights))]
        title = "the aggregator, from the box's patches" if boxes else "the aggregator"
        maps.append((title, _square(weights[rows].mean(0))))
    bars = [(r, i) for r, i in router_mix(model.adapters, task).tolist()] \
        if model.settings.mode == "all" else None
    return maps, bars


@torch.no_grad()
def router_mix(adapters: nn.Module | Iterable[nn.Module], task: int) -> Tensor:
    """How much of each adapter a task takes: mean |G_k^t| over the width, [layers, K]."""
    return torch.stack([torch.ones(1) if m.router is None else
                        m.router[:, task].abs().mean(-1).cpu() for m in mixtures(adapters)])


def _square(weights: Tensor) -> Tensor:
    """[1+N] with CLS first -> [side, side]."""
    side = math.isqrt(len(weights) - 1)
    return weights[1:].view(side, side).cpu()


def _inside(boxes: list[Box], patches: int) -> list[int]:
    """Indices in [CLS, patches] of the patches that any box touches."""
    side = math.isqrt(patches)
    return [1 + row * side + col for row in range(side) for col in range(side)
            if any(x1 * side < col + 1 and col < x2 * side and y1 * side < row + 1
                   and row < y2 * side for x1, y1, x2, y2 in boxes)]
