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
    x, other = (make_inputs(model, system.tokenizer, reply.features["states"], [prompt],
                            maps=reply.features.get("maps"))
                for prompt in (reply.prompt, other_question(reply.prompt)))
    seen, patches = [], s.vision.side ** 2 * model.sees_image
    if model.sees_image:
        seen = [llm_map(model, x)]
        seen[0].moved = moved(seen[0], llm_map(model, other))
    start, end = picture_span(model, x)
    text = x.prompts[0] if s.image_id is None else x.prompts[0][:start] + x.prompts[0][end:]
    words = text_tokens(system.tokenizer, text, {
        s.open_id: Token("<Region>", REGION), s.close_id: Token("</Region>", REGION),
        s.region_id: Token("feature" if s.representation == "feature" else "location", REGION)})
    bins = getattr(model.regions.settings, "bins", None) if hasattr(model, "regions") else None
    return Explanation(s.vision.side, visual_tokens("patch", patches) + words, seen, bins)


def llm_map(model: Pvit, x: PvitInputs) -> AttentionMap:
    """Which patches the LLM attends to before its first word."""
    text, (start, end) = model.llm.pack(x.prompts), picture_span(model, x)
    row = [part for part in (model.shared(x), model.words(x, text)) if part is not None]
    row = torch.cat(row, 1)                                               # [1, N+L, D]
    seen = last_token_attention(model.llm, row)[..., start:end].cpu()
    return AttentionMap("LLM", seen[:, :, None], ["before its first word"])   # [L, H, 1, N]


def picture_span(model: Pvit, x: PvitInputs) -> tuple[int, int]:
    """Where the picture's tokens begin and end in the LLM's row."""
    start = 0 if model.settings.image_id is None else x.prompts[0].index(model.settings.image_id)
    return start, start + model.settings.vision.side ** 2
