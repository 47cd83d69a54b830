"""What stands behind LION's answer: the attention of both branches, the tokens, the router's mix.

Symbols: S samples, H heads, Q queries, N patches, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lion_min.adapters import IMAGE, REGION, mixtures, set_task
from lion_min.explanation import (IMAGE as IMAGE_KIND, REGION as REGION_KIND, SOFT, AttentionMap,
                                  Explanation, Token, last_token_attention, moved, numbered,
                                  other_question, patch_names, text_tokens, touched, visual_tokens)
from lion_min.lion.model import LionInputs
from lion_min.lion.prompt import route
from lion_min.system import Reply, System

ROUTES = {REGION: "region", IMAGE: "image"}


@torch.no_grad()
def explain(system: System, reply: Reply) -> Explanation:
    """The Q-Former's map, the aggregator's from the boxes' patches, and the LLM's."""
    model, task = system.model, route(reply.prompt)
    x, other = (system.inputs(reply.features, [prompt], task)
                for prompt in (reply.prompt, other_question(reply.prompt)))
    side, router = model.settings.vision.side, {}
    if model.settings.mode == "all":
        router = {name: [(r, i) for r, i in router_mix(model.adapters, t).tolist()]
                  for t, name in ROUTES.items()}
    maps = [] if model.settings.mode == "aggregator" else [qformer_map(model, x, other)]
    if model.settings.mode != "qformer":
        maps.append(aggregator_map(model, x, reply))
    set_task(model.adapters, task)
    if model.settings.mode != "qformer" and not model.llm.encoder_decoder:
        maps.append(llm_map(model, x))
        maps[-1].moved = moved(maps[-1], llm_map(model, other))
    bins = model.settings.region_bins if hasattr(model, "region_proj") else None
    return Explanation(side, tokens(system, x), maps, bins, router, router and ROUTES[task] or None,
                       (system.stage.tags or system.tags_of) and reply.features["tags"][0] or None)


def qformer_map(model, x: LionInputs, other: LionInputs) -> AttentionMap:
    """Which patches each query attends to."""
    one, two = (AttentionMap("Q-Former", torch.stack(model.query_tokens(q, maps=True)[1])
                             [:, 0, ..., 1:].cpu(), numbered("query", model.settings.qformer.queries))
                for q in (x, other))
    one.moved = moved(one, two)
    return one


def aggregator_map(model, x: LionInputs, reply: Reply) -> AttentionMap:
    """Which patches of the earlier states each patch attends to; at first those of the boxes."""
    weights = torch.stack(model.aggregated_tokens(x, maps=True)[1])[:, 0, :, 1:, 1:].cpu()
    side = model.settings.vision.side
    return AttentionMap("aggregator", weights, patch_names(side),
                        touched(reply.prompt_boxes + reply.boxes, side) or None)


def llm_map(model, x: LionInputs) -> AttentionMap:
    """Which patches the LLM attends to before its first word."""
    (patches, queries), words = model.visual(x), model.words(x, model.llm.pack(x.prompts))
    row = torch.cat([t for t in (patches, queries, words) if t is not None], 1)     # [1, T, D]
    seen = last_token_attention(model.llm, row)[..., 1:patches.shape[1]].cpu()      # [L, H, N]
    return AttentionMap("LLM", seen[:, :, None], ["before its first word"])


def tokens(system: System, x: LionInputs) -> list[Token]:
    """[Z_a | Z_q | text], for an encoder-decoder [Z_q | Z_a | text]."""
    model, s = system.model, system.model.settings
    patches = [Token("CLS", IMAGE_KIND), *visual_tokens("patch", s.vision.side ** 2)] \
        if s.mode != "qformer" else []
    queries = visual_tokens("query", s.qformer.queries) if s.mode != "aggregator" else []
    visual = queries + patches if model.llm.encoder_decoder else patches + queries
    return visual + text_tokens(system.tokenizer, x.prompts[0], {
        s.region_id: Token("region", REGION_KIND), s.hint_id: Token("hint", SOFT)})


@torch.no_grad()
def router_mix(adapters: nn.Module | Iterable[nn.Module], task: int) -> Tensor:
    """How much of each adapter a task takes: mean |G_k^t| over the width, [layers, K]."""
    return torch.stack([torch.ones(1) if m.router is None else
                        m.router[:, task].abs().mean(-1).cpu() for m in mixtures(adapters)])
