"""Lmeye's controls, and what is shown to the frozen LLM."""

from dataclasses import replace

import pytest
import torch
from random_lmeye import ASK, FORMS, QUESTIONS, SLOT, VOCAB, build, gradients, inputs, trained
from torch import nn

from lion_min.language import LanguageModel
from lion_min.lmeye.model import CONTROLS, Lmeye, LmeyeInputs, tiny
from lion_min.lmeye.prompt import make_inputs
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import VisionEncoder, VisionSettings


# ---- controls ---------------------------------------------------------------------------------

def losses(model: Lmeye, x: LmeyeInputs) -> dict[str, float]:
    with torch.no_grad():
        out = {}
        for model.settings.control in CONTROLS:
            out[model.settings.control] = model(x)[0].item()
    return out


@pytest.mark.parametrize("form", FORMS)
def test_controls_have_the_same_parameters_and_tokens(form):
    """A control row that loses by being smaller, or that is the same model under another name."""
    parameters = [{n: p.shape for n, p in build(form, control=c).named_parameters()} for c in CONTROLS]
    assert all(p == parameters[0] for p in parameters)
    model, read = build(form, second_pass="full"), []
    model.llm.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["inputs_embeds"].shape), with_kwargs=True)
    assert len(set(losses(model, inputs(model)).values())) == 4
    assert read.count(max(read)) == 4                                 # [S, L, D] of the last pass


@torch.no_grad()
def requests_of(model: Lmeye, x: LmeyeInputs) -> torch.Tensor:
    """The states that reach the interaction, [S, D]."""
    seen = []
    keep = model.interaction.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(x)
    keep.remove()
    return seen[0]


@pytest.mark.parametrize("form", FORMS)
def test_foreign_is_the_request_of_another_sample(form):
    """A 'foreign' request that is one's own: the control would equal what it controls."""
    model = build(form)
    own = requests_of(model, inputs(model))
    model.settings.control = "foreign"
    foreign = requests_of(model, inputs(model))
    torch.testing.assert_close(foreign, own[[5, 0, 1, 2, 3, 4]])
    assert (foreign - own).abs().amax(-1).min() > 0.01
    x = inputs(model, [0], answers=False)
    with pytest.raises(ValueError, match="two samples or more"):
        model.generate(x)


def test_zeroed_and_static_ask_nothing():
    """A request that still reaches the interaction; a static row whose slots receive something
    after all."""
    model = build(control="zeroed")
    assert not requests_of(model, inputs(model)).any()
    x = inputs(model, answers=False)
    maps = model.attention_maps(x)
    torch.testing.assert_close(maps[0], maps[1])
    model.settings.control = "interactive"
    assert (model.attention_maps(x)[0] - model.attention_maps(x)[1]).abs().max() > 1e-3
    model.settings.control = "static"
    before = model(inputs(model))[0].item()
    nn.init.normal_(model.interaction.transmit.weight)
    assert model(inputs(model))[0].item() == before
    with pytest.raises(ValueError, match="no requests"):
        model.attention_maps(inputs(model, answers=False))


# ---- what the LLM is shown --------------------------------------------------------------------

def test_placeholders_have_no_rows_and_are_counted():
    """An id without a row handed to the embedding, or given another word's row; a request too few,
    a slot too many, or slots of one sample counted for another."""
    model = build()
    x = inputs(model)
    text = model.llm.pack(x.prompts)
    words = model.words(x, text)
    assert torch.equal(words[text.ids == ASK], model.e_imgq.expand(6, -1))
    assert torch.equal(words[text.ids == SLOT], model.e_imgd.expand(18, -1))
    plain = text.ids < VOCAB
    assert torch.equal(words[plain], model.llm.embed(text.ids[plain]))
    for prompts in ([[5, SLOT, SLOT, SLOT]], [[5, ASK, SLOT, SLOT]], [[5, ASK, ASK] + [SLOT] * 3],
                    [[5, ASK, SLOT, 4, SLOT, SLOT]],
                    [[5, ASK, *[SLOT] * 4], [5, ASK, SLOT, SLOT]],
                    [[5, *[SLOT] * 3, ASK]], [[5, ASK, ASK] + [SLOT] * 3, [5] + [SLOT] * 3]):
        with pytest.raises(ValueError, match="behind it 3 slots"):
            model.generate(LmeyeInputs(inputs(model).states, prompts))


def test_prompts_without_a_request_are_read_once():
    """Stage 1 trains on captions: no slots, no second pass, no interaction."""
    model = build()
    x = replace(inputs(model), prompts=QUESTIONS)
    _, found = gradients(model, x)
    assert {n.split(".")[0] for n, g in found.items() if g.any()} == {"ln_vision", "qformer", "query_proj"}
    assert model.generate(x, max_new_tokens=3).shape[0] == 6


@torch.no_grad()
def test_maps_follow_the_question_and_sum_to_one():
    """The map of another sample or image; a map that no question moves."""
    model = build()
    maps = model.attention_maps(inputs(model, answers=False))
    assert maps.shape == (6, 3, 16)
    torch.testing.assert_close(maps.sum(-1), torch.ones(6, 3))
    for i in range(6):
        alone = model.attention_maps(inputs(model, [i], answers=False))
        torch.testing.assert_close(alone[0], maps[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [dict(control="none"), dict(second_pass="half"),
                                     dict(reads="image"), dict(static="none")])
def test_unknown_settings_raise(changes):
    """A typing error that silently runs another control."""
    with pytest.raises(ValueError, match="unknown"):
        build(**changes)


def test_a_static_token_says_where_it_looked():
    """Places of another token or layer, or none: then no static token tells where its object is."""
    model = build()
    x, places = inputs(model), model.cells()                             # [N, D]
    with torch.no_grad():
        static = model.static_tokens(x)                                   # [B, Q, D]
        queries, maps = model.qformer(model.patches(x), return_attention=True)
    where = torch.einsum("bhqn,nd->bqd", maps[-1], places) / maps[-1].shape[1]
    assert where.abs().max() > 1e-3
    torch.testing.assert_close(static, model.query_proj(queries) + where, atol=1e-5, rtol=1e-5)
    x.blind = True                                                        # what it is: hidden
    torch.testing.assert_close(model.static_tokens(x), where, atol=1e-5, rtol=1e-5)
    x.blind, model.settings.first_cell_id = False, None                   # the published forms
    assert model.cells() is None
    assert not torch.allclose(model.static_tokens(x), static, atol=1e-3)


def test_the_prompt_of_the_tiny_preset():
    """The preset's size creeping up; a prompt without its request, slots or repeated question."""
    tokenizer, vision = TinyTokenizer(), VisionSettings()
    s = tiny(vision, len(tokenizer))
    model = Lmeye(s, VisionEncoder(vision), LanguageModel(s.language))
    assert 400_000 < sum(p.numel() for p in trained(model).values()) < 900_000
    states = [torch.randn(2, 65, 128) for _ in range(5)]
    prompts = ["What colour is the circle?", "Find the red square."]
    x = make_inputs(model, tokenizer, states, prompts, ["red", "[0.1,0.1,0.5,0.5]"])
    ids = tokenizer.encode(prompts[0])
    assert x.prompts[0] == ids + [s.request_id] + [s.slot_id] * 2 + ids
    assert s.request_id == len(tokenizer) and s.slot_id == len(tokenizer) + 1
    assert make_inputs(model, tokenizer, states, prompts, requests=False).prompts[0] == ids
