"""Lyrics on random parts: what the LLM is shown, what LoRA touches, what no refiner leaves."""

from dataclasses import replace

import pytest
import torch
from random_lyrics import (PROMPTS, TAGS, TOKENIZER, VISION, build, found, inputs, settings)

from lion_min.boxes import BoxText
from lion_min.language import LanguageModel
from lion_min.lyrics.model import Lyrics
from lion_min.lyrics.prompt import captions, objects_of
from lion_min.lyrics.refiner import TinyRefiner
from lion_min.vision import TagHead, VisionEncoder


# ---- texts -----------------------------------------------------------------------------------

def test_lines_hold_label_and_box():
    """A detection below the threshold told as an object, a box without its words, a padding word
    that is embedded."""
    lines = objects_of(found(), TOKENIZER).lines
    said = [TOKENIZER.decode([i for i in row if i]) for row in lines[0].tolist()]
    boxes = [BoxText().parse(text) for text in said[:2]]
    assert [text.split(" [")[0] for text in said[:2]] == ["red circle", "blue star"]
    for (box,), true in zip(boxes, found().boxes[0]):
        assert max(abs(a - b) for a, b in zip(box, true.tolist())) < 1 / 64
    assert said[2:] == [""] * 10 and not lines[1].any()
    model = build()
    tokens, x = model.lines(inputs(model)), inputs(model)
    words = [TOKENIZER.ids[w] for w in ("red", "circle")]
    rest = x.objects.lines[0, 0, 2:8]
    expected = model.llm.embed(torch.tensor([*words, *rest])).sum(0)
    torch.testing.assert_close(tokens[0, 0], expected)
    assert tokens.shape == (2, 12, 128) and not tokens[0, 2:].any() and not tokens[1].any()


def test_text_of_a_pair_has_the_same_objects():
    """Stage 1 that reads of objects which stage 2 does not; text past the last position."""
    text = captions(["."] * 2, TOKENIZER, settings(), objects_of(found(), TOKENIZER))
    assert text.mask.sum(1).tolist() == [1 + 2 * (2 + 6 + 1) + 2, 1 + 2]
    everything = replace(found(), mask=torch.ones(2, 12, dtype=torch.bool),
                         labels=[["red blue circle star moon"] * 12] * 2)
    text = captions(["a circle."] * 2, TOKENIZER, settings(),
                    objects_of(everything, TOKENIZER))
    assert text.positions.max() < settings().mqformer.max_text


# ---- the model -------------------------------------------------------------------------------

def test_a_fresh_model_reads_the_lines_alone():
    """Noise of an untrained projection before the LLM: queries that are not silent at step 0; LoRA
    at the output, the MLP or the head."""
    torch.manual_seed(0)
    s = settings()
    model = Lyrics(s, VisionEncoder(VISION), TinyRefiner(s.refiner, TagHead(32, TAGS)),
                   LanguageModel(s.language)).eval()
    assert not model.query_tokens(inputs(model)).any() and model.lines(inputs(model)).any()
    names = {lora.name.rsplit(".", 1)[-1] for lora in model.loras}
    assert names == {"q_proj", "k_proj", "v_proj"} and len(model.loras) == 3 * 2


@torch.no_grad()
def test_question_objects_and_image_reach_the_queries():
    """An instruction that the MQ-Former never reads; a source that is not looked at; objects of
    the other picture."""
    model = build()
    base = model.query_tokens(inputs(model))
    assert base.shape == (4, 20, 128)
    other = model.query_tokens(inputs(model, PROMPTS[:1] + ["Describe it."] + PROMPTS[2:]))
    changed = (base - other).abs().amax((1, 2)) > 1e-4
    assert changed.tolist() == [False, True, False, False]
    for change in ("image", "objects"):
        x = inputs(model)
        if change == "image":
            x.states = [s + torch.tensor([1.0, 0])[:, None, None] for s in x.states]
            x.states[0][0, 3] += 3
        else:
            x.objects.features[0, 1] += 1
        changed = (base - model.query_tokens(x)).abs().amax((1, 2)) > 1e-4
        assert changed.tolist() == [True, True, False, False], change


def test_refiner_off_has_no_object_part():
    """An ablation row that keeps object queries, lines, or the refiner; object_lines that changes
    nothing, or takes the object queries away."""
    model = build(refiner=False)
    assert not [n for n, _ in model.named_parameters() if "object" in n or "refiner" in n]
    x = inputs(model)
    assert model.lines(x) is None and model.query_tokens(x).shape == (4, 8, 128)
    assert model.settings.mqformer.queries == 8
    with pytest.raises(ValueError, match="need each other"):
        build(mqformer=settings(False).mqformer)
    model = build(object_lines=False)
    assert model.lines(inputs(model)) is None and model.query_tokens(inputs(model)).shape[1] == 20
