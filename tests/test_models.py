"""What PVIT, LMEye and Lyrics have in common as models: batches are samples, training is answering."""

import functools
from dataclasses import replace

import pytest
import random_lmeye
import random_lyrics
import random_pvit
import torch
from random_pvit import PROMPTS, A, B

from lion_min.images import to_pixels

RECORDED = dict(max_new_tokens=6, min_new_tokens=6, num_beams=1, output_logits=True,
                return_dict_in_generate=True)
TURNS = [[(f"Describe {B}", "a blue star")], [], [("hello", "hello"), (A, "two")], []]


@functools.cache
def pvit(representation: str, *prompts: str):
    """(model, samples' rows -> their inputs, number of samples); two samples an image."""
    model = random_pvit.build(representation)
    with torch.no_grad():
        states = model.vision(to_pixels(random_pvit.pictures(), random_pvit.VISION.image))

    def inputs(rows):
        images = range(2) if len(rows) > 1 else [rows[0] // 2]
        return random_pvit.inputs(model, [s[[*images]] for s in states], [prompts[i] for i in rows],
                                  [random_pvit.ANSWERS[i] for i in rows],
                                  turns=[TURNS[i] for i in rows])
    return model, inputs, 4


@functools.cache
def lmeye(form: str):
    model = random_lmeye.build(form)
    return model, lambda rows: random_lmeye.inputs(model, rows), 6


@functools.cache
def lyrics(refiner: bool):
    model = random_lyrics.build(refiner)

    def inputs(rows):
        return random_lyrics.inputs(model, [random_lyrics.PROMPTS[i] for i in rows],
                                    [random_lyrics.ANSWERS[i] for i in rows],
                                    (0, 1) if len(rows) > 1 else (rows[0] // 2,))
    return model, inputs, 4


CASES = {f"pvit {kind}": functools.partial(pvit, kind, *PROMPTS)
         for kind in ("feature", "location", "text")}
CASES["pvit no region"] = functools.partial(pvit, "feature", *[PROMPTS[1]] * 4)
CASES["pvit first without"] = functools.partial(pvit, "feature", PROMPTS[1], *PROMPTS[1:])
CASES |= {f"lmeye {form}": functools.partial(lmeye, form) for form in random_lmeye.FORMS}
CASES |= {f"lyrics {refiner}": functools.partial(lyrics, refiner) for refiner in (True, False)}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_batch_is_its_samples(case):
    """Samples of an image that see each other; regions, objects, requests or own tokens of another
    sample, or shifted by one without a region; padding read as text, seen or counted."""
    model, inputs, count = CASES[case]()
    x, loss, tokens = inputs(range(count)), 0.0, 0
    batch = model.generate(replace(x, answers=None), **RECORDED).sequences.tolist()
    for i in range(count):
        one = inputs([i])
        size = len(one.answers[0]) + 1
        loss, tokens = loss + model(one)[0] * size, tokens + size
        alone = model.generate(replace(one, answers=None), **RECORDED).sequences
        assert alone[0].tolist() == batch[i]
    whole, parts = model(x)
    torch.testing.assert_close(whole, loss / tokens, rtol=0, atol=1e-5)
    assert torch.equal(parts["answer"], whole)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_training_is_answering_is_cached(case):
    """Training and answering that show the LLM different rows: order, positions, mask, request, the
    turns before; features lost after the first cached step."""
    model, inputs, count = CASES[case]()
    x = replace(inputs(range(count)), answers=None)
    made, again = (model.generate(x, use_cache=cached, **RECORDED) for cached in (True, False))
    assert made.sequences.tolist() == again.sequences.tolist()
    logits = torch.stack(made.logits, 1)                                  # [S, 6, V]
    torch.testing.assert_close(torch.stack(again.logits, 1), logits, rtol=0, atol=1e-4)
    tokens = made.sequences.clone()
    tokens[:, -1] = model.llm.settings.eos_id                             # learned behind five
    loss = model(replace(x, answers=tokens[:, :-1].tolist()))[0]
    expected = -logits.log_softmax(-1).gather(2, tokens[..., None]).mean()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-4)
