"""What stands behind LMEye's answer: the patches that its requests attend to, and what they bring.

Symbols: n requests, N patches.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lion_min.explanation import (REQUEST, AttentionMap, Explanation, Token, moved, numbered,
                                  other_question, text_tokens, visual_tokens)
from lion_min.lmeye.prompt import make_inputs
from lion_min.system import Reply, System


@torch.no_grad()
def explain(system: System, reply: Reply) -> Explanation:
    """The requests' maps, the static queries' map, and the answer without the request."""
    model, s = system.model, system.model.settings
    x = make_inputs(model, system.tokenizer, reply.features["states"], [reply.prompt],
                    requests=system.stage.requests)
    maps, before, queries = [], None, s.qformer.queries if s.qformer else 0
    if queries:
        static = torch.stack(model.qformer(model.patches(x), return_attention=True)[1])[:, 0].cpu()
        maps = [AttentionMap("static queries", static, numbered("query", queries))]
    if system.stage.requests and s.control == "interactive":
        before = without_request(system, reply)
    if before is not None and s.reads == "patches":       # elsewhere they see no patches
        one, other = (AttentionMap("requests", attention_maps(system, reply.features, prompt)
                                   .flatten(1)[None, None], numbered("request", s.interaction.requests))
                      for prompt in (reply.prompt, other_question(reply.prompt)))
        one.moved = moved(one, other)
        maps = [one, *maps]
    words = text_tokens(system.tokenizer, x.prompts[0], {
        s.request_id: Token("<img-q>", REQUEST), s.slot_id: Token("<img-d>", REQUEST),
        s.img_id: Token("<img>", REQUEST)})
    return Explanation(s.vision.side, visual_tokens("query", queries) + words, maps, before=before)


def without_request(system: System, reply: Reply) -> str:
    """The answer where nothing is returned: the slots stay as they are."""
    settings = system.model.settings
    settings.control, control = "static", settings.control
    try:
        return system.answer(reply.features, [reply.prompt])[0]
    finally:
        settings.control = control


@torch.no_grad()
def attention_maps(system: System, features: dict, prompt: str) -> Tensor:
    """Attention of each request of a prompt: [n, side, side], each sums to 1."""
    x = make_inputs(system.model, system.tokenizer, features["states"], [prompt])
    weights = system.model.attention_maps(x)[0]                           # [n, N]
    side = math.isqrt(weights.shape[1])
    return weights.view(-1, side, side).cpu()
