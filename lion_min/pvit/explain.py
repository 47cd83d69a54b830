"""What stands behind PVIT's answer: the region's tokens, and what the LLM attended to.

Symbols: N patches, L layers, H heads.
"""

from __future__ import annotations

import torch

from lion_min.explanation import (REGION, AttentionMap, Explanation, Token, last_token_attention,
                                  moved, other_question, text_tokens, visual_tokens)
from lion_min.pvit.model import Pvit, PvitInputs
from lion_min.pvit.prompt import make_inputs
from lion_min.system import Reply, System


@torch.no_grad()
def explain(system: System, reply: Reply) -> Explanation:
    """The LLM's map where it reads the image, and RoIAlign's bins where boxes become features."""
    model, s = system.model, system.model.settings
    maps = reply.features.get("pictures")
    x, other = (make_inputs(model, system.tokenizer, reply.features["states"], [prompt], maps=maps)
                for prompt in (reply.prompt, other_question(reply.prompt)))
    seen, patches = [], s.vision.side ** 2 * model.sees_image
    if model.sees_image:
        seen = [llm_map(model, x)]
        seen[0].moved = moved(seen[0], llm_map(model, other))
    words = text_tokens(system.tokenizer, x.prompts[0], {
        s.open_id: Token("<Region>", REGION), s.close_id: Token("</Region>", REGION),
        s.region_id: Token("feature" if s.representation == "feature" else "location", REGION)})
    bins = getattr(model.regions.settings, "bins", None) if hasattr(model, "regions") else None
    return Explanation(s.vision.side, visual_tokens("patch", patches) + words, seen, bins)


def llm_map(model: Pvit, x: PvitInputs) -> AttentionMap:
    """Which patches the LLM attends to before its first word."""
    text = model.llm.pack(x.prompts)
    row = torch.cat([model.shared(x), model.words(x, text)], 1)     # [1, N+L, D]
    seen = last_token_attention(model.llm, row)[..., :model.settings.vision.side ** 2].cpu()
    return AttentionMap("LLM", seen[:, :, None], ["before its first word"])   # [L, H, 1, N]
