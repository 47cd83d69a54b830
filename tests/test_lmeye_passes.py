"""Lmeye's two passes at the price of one: the cached second pass is the full one."""

import pytest
import torch
from random_lmeye import ANSWERS, FORMS, TAILS, build, gradients, inputs, trained

RECORDED = dict(max_new_tokens=5, min_new_tokens=5, output_logits=True, return_dict_in_generate=True)


@pytest.mark.parametrize("form", FORMS)
def test_cached_is_the_full_second_pass(form):
    """A suffix that sees a neighbour or the old key of a re-read request, positions that start
    anew, a cache that is cut from the graph."""
    model = build(form)
    cached, some = gradients(model, inputs(model))
    model.settings.second_pass = "full"
    full, all_ = gradients(model, inputs(model))
    torch.testing.assert_close(cached, full, atol=1e-5, rtol=0)
    assert some.keys() == all_.keys()
    for name, gradient in some.items():
        scale = max(1.0, float(all_[name].abs().max()))
        torch.testing.assert_close(gradient / scale, all_[name] / scale, atol=1e-5, rtol=0, msg=name)
    assert some["interaction.request.weight"].abs().max() > 1e-4      # the road back to pass 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_is_full_generation(form, beams):
    """A cache cut at another column, rows of unlike tails, beams that mix the rows' caches; equal
    words by luck: the logits behind them must be equal, too."""
    model, found = build(form), []
    for model.settings.second_pass in ("cached", "full"):
        found.append(model.generate(inputs(model, answers=False), num_beams=beams, **RECORDED))
    cached, full = found
    assert cached.sequences.tolist() == full.sequences.tolist()
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(full.logits), atol=1e-5, rtol=1e-5)
    assert len({tuple(row) for row in cached.sequences.tolist()}) > 1   # they do not all agree


@pytest.mark.parametrize("form", FORMS)
def test_the_second_pass_reads_only_what_changed(form):
    """A "cached" pass that reads the whole row again."""
    model, read = build(form), []
    model.llm.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True)
    model(inputs(model))
    assert read[-1] == max(3 + len(tail) + len(answer) + 1 for tail, answer in zip(TAILS, ANSWERS))
    assert len(read) == 2 + (form != "paper")                         # first of all, the image
    model.generate(inputs(model, tails=[[7]] * 6, answers=False), max_new_tokens=1)
    assert read[-1] == 3 + 1                                          # the slots and the tail


def test_encoder_decoder_reads_its_first_pass_with_the_encoder_alone():
    """A T5 that decodes twice; a request taken from the decoder."""
    model, ran = build(family="t5"), []
    for part in ("encoder", "decoder"):
        getattr(model.llm.model, part).register_forward_hook(lambda *_, part=part: ran.append(part))
    _, found = gradients(model, inputs(model))
    assert ran == ["encoder", "encoder", "decoder"]
    assert found["interaction.request.weight"].abs().max() > 1e-6
    one = build(family="t5").generate(inputs(model, [4], answers=False), max_new_tokens=4)
    batch = model.generate(inputs(model, answers=False), max_new_tokens=4)
    assert batch[4].tolist()[:one.shape[1]] == one[0].tolist()


def test_every_trained_part_has_a_gradient():
    """A part that the loss never reaches and that a stage would train in vain; a frozen one among
    what trains."""
    for form in FORMS:
        model = build(form)
        assert not [n for n in trained(model) if n.startswith(("vision.", "llm."))]
        _, found = gradients(model, inputs(model))
        # The key's bias adds the same to all scores; softmax forgets it.
        idle = [n for n in trained(model) if not n.endswith("key.bias")
                and (n not in found or not found[n].any())]
        assert idle == [], form
