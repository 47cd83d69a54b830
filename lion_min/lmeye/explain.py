"""LMEye's attention maps: for each request, the patches that the interaction attends to.

Symbols: n requests, N patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lion_min.lmeye.prompt import OTHER, make_inputs
from lion_min.system import Reply, System


@torch.no_grad()
def explain(system: System, reply: Reply) -> tuple[list[tuple[str, Tensor]], None]:
    """([(title, weights [side, side])], None): a map a request, and all of them for OTHER."""
    if not system.stage.requests:
        return [], None
    weights, other = (attention_maps(system, reply.features, prompt) for prompt in (reply.prompt, OTHER))
    maps = [("all requests together", weights.mean(0))]
    maps += [(f"request {i}", one) for i, one in enumerate(weights, 1)]
    return maps + [(f"asked instead: {OTHER}", other.mean(0))], None


@torch.no_grad()
def attention_maps(system: System, features: dict, prompt: str) -> Tensor:
    """Attention of each request of a prompt: [n, side, side], each sums to 1."""
    x = make_inputs(system.model, system.tokenizer, features["states"], [prompt])
    weights = system.model.attention_maps(x)[0]                           # [n, N]
    side = math.isqrt(weights.shape[1])
    return weights.view(-1, side, side).cpu()
