"""Lmeye's two passes at the price of one: the cached second pass is the full one."""

from dataclasses import replace

import pytest
import torch
from random_lmeye import ANSWERS, FORMS, TAILS, build, gradients, inputs, trained


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
        torch.testing.assert_close(gradient / scale, all_[name] / scale, atol=1e-5, rtol=0,
                                   msg=name)
    assert some["interaction.request.weight"].abs().max() > 1e-4      # the road back to pass 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_is_full_generation(form, beams):
    """A cache cut at another column, rows of unlike tails, beams that mix the rows' caches."""
    model = build(form)
    x, options = inputs(model, answers=False), dict(max_new_tokens=6, min_new_tokens=6)
    cached = model.generate(x, num_beams=beams, **options)
    model.settings.second_pass = "full"
    full = model.generate(x, num_beams=beams, **options)
    assert cached.tolist() == full.tolist()
    assert len({tuple(row) for row in cached.tolist()}) > 1           # they do not all agree


@pytest.mark.parametrize("form", FORMS)
def test_cached_generation_logits(form):
    """Equal words by luck: the logits behind them must be equal too."""
    model, found = build(form), []
    options = dict(max_new_tokens=4, min_new_tokens=4, output_logits=True,
                   return_dict_in_generate=True)
    for model.settings.second_pass in ("cached", "full"):
        found.append(torch.stack(model.generate(inputs(model, answers=False), **options).logits))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


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


@pytest.mark.parametrize("form", FORMS)
def test_batch_loss_is_that_of_single_samples(form):
    """A neighbour's request returned to this sample, or seen; padding of the first pass seen in the
    second."""
    model = build(form)
    with torch.no_grad():
        together = model(inputs(model))[0]
        alone = [model(inputs(model, [i]))[0] * (len(ANSWERS[i]) + 1) for i in range(6)]
    tokens = sum(len(a) + 1 for a in ANSWERS)
    torch.testing.assert_close(sum(alone) / tokens, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_batch_is_single_generation(form):
    """Left padding that is seen or counted in the first pass."""
    model, options = build(form), dict(max_new_tokens=6, min_new_tokens=6)
    batch = model.generate(inputs(model, answers=False), **options)
    for i in range(6):
        one = model.generate(inputs(model, [i], answers=False), **options)
        assert one[0].tolist() == batch[i].tolist()


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_forward_logits_are_generate_logits(form):
    """Training and answering that differ in order, positions, mask or request."""
    model = build(form)
    x = inputs(model, answers=False)
    out = model.generate(x, max_new_tokens=5, min_new_tokens=5, output_logits=True,
                         return_dict_in_generate=True)
    embeds, text, prefix = model.rows(replace(x, answers=out.sequences.tolist()))
    logits = model.llm.logits(embeds, text, prefix)
    learned = (text.labels != -100).roll(-1, 1)                       # the token before foretells
    forward = logits[learned].view(6, 6, -1)                          # five tokens and the EOS
    torch.testing.assert_close(forward[:, :5], torch.stack(out.logits, 1), atol=1e-4, rtol=1e-4)


def test_encoder_decoder_reads_its_first_pass_with_the_encoder_alone():
    """A T5 that decodes twice; a request taken from the decoder."""
    model, ran = build(family="t5"), []
    for part in ("encoder", "decoder"):
        getattr(model.llm.model, part).register_forward_hook(
            lambda *_, part=part: ran.append(part))
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
