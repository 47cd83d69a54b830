"""PVIT's attention: the cells that RoIAlign reads for each box, and what the LLM attends to.

Symbols: L tokens, N patches, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lion_min.system import Reply, System
from lion_min.pvit.prompt import make_inputs
from lion_min.regions import axis_weights


@torch.no_grad()
def explain(system: System, reply: Reply) -> tuple[list[tuple[str, Tensor]], None]:
    """([(title, weights [side, side])], None): PVIT has no router to draw."""
    model = system.model
    side = model.settings.vision.side
    maps = [(f"RoIAlign reads box {i}" if len(reply.prompt_boxes) > 1 else "RoIAlign reads the box",
             read_cells(box, side, model.regions.settings.bins))
            for i, box in enumerate(reply.prompt_boxes, 1)] if hasattr(model, "regions") else []
    x = make_inputs(model, system.tokenizer, reply.features["states"], [reply.prompt])
    return maps + [("the LLM, before its first word", attended(model, x).view(side, side))], None


def read_cells(box: tuple[float, float, float, float], side: int, bins: int) -> Tensor:
    """How much of each cell all bins of a box take together: [side, side]."""
    corners = torch.tensor(box)[:, None] * side                           # [4, 1]: x1, y1, x2, y2
    columns = axis_weights(corners[0], corners[2], side, bins)[0].sum(0)  # [side]
    rows = axis_weights(corners[1], corners[3], side, bins)[0].sum(0)
    return rows[:, None] * columns


def attended(model, x) -> Tensor:
    """The last prompt token's attention to the image tokens, mean of layers and heads: [N]."""
    text = model.llm.pack(x.prompts)
    seen = torch.cat([model.shared(x), model.words(x, text)], 1)          # [1, N+L, D]
    model.llm.model.set_attn_implementation("eager")                      # fused ones hide it
    out = model.llm.model(inputs_embeds=seen, output_attentions=True)
    weights = torch.stack(out.attentions)[:, 0, :, -1]                    # [layers, H, N+L]
    return weights.mean((0, 1))[:math.prod((model.settings.vision.side,) * 2)].cpu()
