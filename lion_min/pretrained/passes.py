"""One training pass through each system's model, as shapes alone, for cost.py.

The models' own `forward` counts placeholders and cuts boxes out of pictures, that is, it reads
values, and tensors on the meta device have none. So `step` calls the same modules in the same
order with tensors of the shapes that `forward` would give them, on the device that
`with torch.device(..)` names. One sample is one picture with one question and one region.

Symbols: B samples of a batch (as many pictures), N patches, Q queries, D LLM width, V words.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lion_min.adapters import REGION, set_task
from lion_min.language import LanguageModel, Prefix, additive
from lion_min.stage import Stage

DETECTIONS = 900                           # objects that Grounding-DINO gives Lyrics' queries
Part = Callable[[str], AbstractContextManager]


@dataclass(frozen=True)
class Text:
    """Tokens of a sample's text; </s> is one of the answer's."""

    prompt: int = 64
    answer: int = 32


def step(system: str, model: nn.Module, stage: Stage, batch: int, text: Text,
         part: Part) -> tuple[Tensor, int]:
    """(loss of a batch, tokens of a sample that the LLM reads); `part(name)` is entered around
    each part of the model."""
    pooled = system == "lmeye" and model.settings.reads == "pooled"
    with part("vision"):
        side = model.settings.vision.image
        states = [new(model, batch, 1, model.settings.interaction.image_width)] if pooled else \
            model.vision(new(model, batch, 3, side, side))
    if system == "lyrics" and stage.number == 1:
        return _alignment(model, states, batch, text, part)
    if system == "lmeye":
        return _lmeye(model, states, batch, text, part, stage.asks)
    return {"lion": _lion, "pvit": _pvit, "lyrics": _lyrics}[system](
        model, states, batch, text, part)


def new(model: nn.Module, *shape: int) -> Tensor:
    """Numbers in the model's precision."""
    return torch.empty(shape, dtype=next(model.parameters()).dtype)


def ids(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


def _lion(m, states: list[Tensor], batch: int, text: Text, part: Part):
    words = ids(batch, text.prompt)
    x = SimpleNamespace(states=states, question_ids=words, question_mask=words == 0)
    set_task(m.adapters, REGION)
    own = shared = None
    if m.settings.mode != "aggregator":
        with part("qformer"):
            own = m.query_tokens(x)                                       # [B, Q, D]
    if m.settings.mode != "qformer":
        with part("aggregator"):
            shared = m.aggregated_tokens(x)                               # [B, 1+N, D]
    with part("llm"):
        words = ids(batch, text.prompt + text.answer)
        embeds = m.soft_prompt(m.llm.embed(words), words, m.settings.hint_id)
        if hasattr(m, "region_proj"):
            region = m.region_proj(new(m, batch, *m.region_proj.norm.normalized_shape),
                                   new(m, batch, 4))
            embeds = torch.cat([region[:, None], embeds[:, 1:]], 1)
        return _answer(m.llm, embeds, text, shared, own)


def _pvit(m, states: list[Tensor], batch: int, text: Text, part: Part):
    with part("regions"):
        feature = _region_feature(m.regions, batch).to(states[0].dtype)   # [B, F]
    with part("projections"):
        tokens = m.image_tokens(SimpleNamespace(states=states))           # [B, N, D]
        region = m.prompt_projector(feature)
        if m.settings.box_embedding:
            region = region + m.bbox_fc(new(m, batch, 4))
    with part("llm"):
        embeds = m.llm.embed(ids(batch, text.prompt + text.answer))
        opens, closes = m.markers[:, None].expand(-1, batch, -1)
        embeds = torch.cat([torch.stack([opens, region, closes], 1), embeds[:, 3:]], 1)
        if m.settings.image_id is None:
            return _answer(m.llm, embeds, text, tokens)
        return _answer(m.llm, torch.cat([tokens, embeds], 1), text)


def _region_feature(regions: nn.Module, batch: int) -> Tensor:
    """RegionCLIP looks at a second, larger picture; a 4:3 one here. It stays in float32."""
    if not hasattr(regions, "res4"):
        return torch.empty(batch, regions.width)
    s, regions = regions.settings, regions.float()
    regions.res4(torch.empty(batch, 3, s.shortest, s.shortest * 4 // 3))
    crops = torch.empty(batch, 16 * s.width, s.roi, s.roi)
    return regions.attnpool(regions.layer4(crops))


def _lmeye(m, states: list[Tensor], batch: int, text: Text, part: Part, asks: bool):
    s, llm, x = m.settings, m.llm, SimpleNamespace(states=states, blind=False)
    with part("static"):
        shared = m.static_tokens(x)                                       # [B, Q, D] or None
        embeds = llm.embed(ids(batch, text.prompt + text.answer))
        if s.static == "pooled":
            seen = m.img_proj(states[-1][:, 0]) + m.e_img
            embeds = torch.cat([embeds[:, :1] + seen[:, None], embeds[:, 1:]], 1)
    if not asks:
        with part("llm"):
            return _answer(llm, embeds, text, shared)
    slots = s.interaction.returned
    first = text.prompt - slots            # the slots are the last of the prompt
    cached = s.second_pass == "cached" and not llm.encoder_decoder
    embeds = embeds + m.e_imgd + (0 if s.request_id is None else m.e_imgq)
    with part("first pass"):
        if llm.encoder_decoder:
            hidden = _encode(llm, embeds[:, :first], shared)
        else:
            prefix = llm.prefix(shared, batch, embeds.dtype)
            hidden = _read(llm, embeds[:, :first], prefix)
    with part("interaction"):
        told = embeds[:, first:text.prompt] + m.ask(x, hidden[:, -1])     # [B, slots, D]
        told = torch.cat([told, embeds[:, text.prompt:]], 1)
    with part("llm"):
        if not cached:
            return _answer(llm, torch.cat([embeds[:, :first], told], 1), text, shared)
        logits = llm.model.lm_head(_read(llm, told, prefix)[:, -1 - text.answer:-1])
        return _cross_entropy(logits), prefix.mask.shape[1]


def _objects(m, batch: int) -> SimpleNamespace | None:
    if m.settings.refiner is None:
        return None
    count = getattr(m.settings.refiner, "queries", DETECTIONS)
    return SimpleNamespace(features=new(m, batch, count, m.settings.mqformer.object_width),
                           mask=ids(batch, count) == 0, lines=ids(batch, count, 10))


def _alignment(m, states: list[Tensor], batch: int, text: Text, part: Part):
    """Four objectives on one text: queries alone, text alone, both for 3B pairs, two on the
    cache. The prompt's tokens are the objects', the answer's the caption's."""
    q, heads, sources = m.mqformer, m.heads, m.sources(states, _objects(m, batch))
    words = ids(batch, text.prompt + text.answer)
    three = words.repeat(3, 1)
    with part("mqformer"):
        Z, cache = q.look(sources)
        told = q.read(words, words == 0)
        joint = q(sources.pick(ids(3 * batch)), three, three == 0)
        icg = q.read(words, words == 0, None, cache, causal=True)[:, -text.answer:]
        masked = max(1, int(heads.settings.mask_share * text.prompt))
        msp = q.read(words, words == 0, None, cache)[:, :masked]
    with part("heads"):
        spoken = heads.words(torch.cat([icg, msp], 1), q.words)
        loss = _cross_entropy(spoken) + heads.match(joint).sum() + torch.einsum(
            "iqe,te->itq", heads.look(Z), heads.read(told)).sum()
    return loss, 0


def _lyrics(m, states: list[Tensor], batch: int, text: Text, part: Part):
    words = ids(batch, text.prompt)
    x = SimpleNamespace(states=states, objects=_objects(m, batch),
                        text=SimpleNamespace(ids=words, mask=words == 0))
    with part("mqformer"):
        own = m.query_tokens(x)                                           # [B, Q, D]
    with part("llm"):
        embeds = m.llm.embed(ids(batch, text.prompt + text.answer))
        return _answer(m.llm, embeds, text, m.lines(x), own)


# ---- the LLM -----------------------------------------------------------------------------------

def _read(llm: LanguageModel, embeds: Tensor, prefix: Prefix) -> Tensor:
    return llm.states(embeds, torch.ones(embeds.shape[:2]) > 0, prefix)


def _encode(llm: LanguageModel, embeds: Tensor, *before: Tensor | None) -> Tensor:
    """An encoder's states of all that stands before the text, and the text: [B, T, D]."""
    x = torch.cat([*(t for t in before if t is not None), embeds], 1)
    return llm.model.encoder(inputs_embeds=x, attention_mask=_seen(x)).last_hidden_state


def _seen(x: Tensor) -> Tensor:
    """[B, 1, 1, T]: everything is; in a form of which transformers asks no values."""
    return additive(torch.ones(len(x), 1, 1, x.shape[1]) > 0, x.dtype)


def _answer(llm: LanguageModel, embeds: Tensor, text: Text, shared: Tensor | None = None,
            own: Tensor | None = None) -> tuple[Tensor, int]:
    """LanguageModel.loss of embeds [B, T, D] whose last tokens are the answer."""
    if llm.encoder_decoder:
        x = _encode(llm, embeds[:, :-text.answer], own, shared)
        told = llm.model(encoder_outputs=(x,), attention_mask=_seen(x), use_cache=False,
                         decoder_input_ids=ids(len(x), text.answer))
        return _cross_entropy(told.logits), x.shape[1] + text.answer
    x = embeds if own is None else torch.cat([own, embeds], 1)
    prefix = llm.prefix(shared, len(x), x.dtype)
    states = _read(llm, x, prefix)[:, -1 - text.answer:-1]
    return _cross_entropy(llm.model.lm_head(states)), prefix.mask.shape[1]


def _cross_entropy(logits: Tensor) -> Tensor:
    flat = logits.flatten(0, 1).float()                                   # [tokens, V]
    return F.cross_entropy(flat, ids(len(flat)))
