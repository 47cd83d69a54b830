"""Lyrics on random parts: what the LLM is shown, what LoRA touches, what no refiner leaves."""

from dataclasses import replace

import pytest
import torch
from random_lyrics import (ANSWERS, PROMPTS, TAGS, TOKENIZER, VISION, build, found, inputs,
                           settings)

from lion_min.boxes import BoxText
from lion_min.language import LanguageModel
from lion_min.lyrics.model import Lyrics
from lion_min.lyrics.prompt import captions, labelled_objects, object_texts, objects_of
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
    assert [label for label, _ in labelled_objects(found(), 0)] == ["red circle", "blue star"]
    texts = object_texts(found(), TOKENIZER, settings())
    assert len(texts[0][0]) == 2 * (2 + 6 + 1) and texts[1] == ([], [])
    everything = replace(found(), mask=torch.ones(2, 12, dtype=torch.bool),
                         labels=[["red blue circle star moon"] * 12] * 2)
    text = captions(["a circle."] * 2, TOKENIZER, settings(),
                    object_texts(everything, TOKENIZER, settings()))
    assert text.positions.max() < settings().mqformer.max_text


# ---- the model -------------------------------------------------------------------------------

def test_a_fresh_model_reads_the_lines_alone():
    """Noise of an untrained projection before the LLM: queries that are not silent at step 0."""
    torch.manual_seed(0)
    s = settings()
    model = Lyrics(s, VisionEncoder(VISION), TinyRefiner(s.refiner, TagHead(32, TAGS)),
                   LanguageModel(s.language)).eval()
    assert not model.query_tokens(inputs(model)).any() and model.lines(inputs(model)).any()


def test_lora_stands_at_q_k_v_alone():
    """LoRA at the output, the MLP or the head."""
    model = build()
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


@torch.no_grad()
def test_order_of_objects_and_what_was_not_kept_change_no_query():
    """Object queries that read a detection's row, or rows below the threshold."""
    model = build()
    base, x = model.query_tokens(inputs(model)), inputs(model)
    order = torch.cat([torch.tensor([2, 0, 1]), torch.arange(3, 12)])
    x.objects.features, x.objects.mask = x.objects.features[:, order], x.objects.mask[:, order]
    x.objects.features[:, 3:] += 5
    torch.testing.assert_close(model.query_tokens(x), base, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("refiner", [True, False])
def test_batch_equals_one_by_one(refiner):
    """Samples of an image that see each other's tokens or lines, own tokens at another sample's
    place."""
    model = build(refiner)
    whole, single, tokens = float(model(inputs(model))[0]), 0.0, 0
    for i, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS)):
        size = len(TOKENIZER.encode(answer)) + 1
        single += size * float(model(inputs(model, [prompt], [answer], [i // 2]))[0])
        tokens += size
    assert abs(whole - single / tokens) < 1e-4


@torch.no_grad()
def test_generation_continues_what_is_learned():
    """Training and answering that show the LLM different rows: an order, a mask, a position."""
    model = build()
    x = inputs(model, [PROMPTS[0], PROMPTS[3]], None)   # of two lengths, so one is padded
    first = model.generate(x, max_new_tokens=1, min_new_tokens=1)[:, 0].tolist()
    for i, prompt in enumerate((PROMPTS[0], PROMPTS[3])):
        one = inputs(model, [prompt], ["yes"], [i])
        text = model.llm.pack(one.prompts, one.answers)
        logits = model.llm.logits(model.llm.embed(text.ids), text, model.lines(one),
                                  model.query_tokens(one))[0]
        logits[:, 1] = -torch.inf                       # no end as the first token
        assert first[i] == int(logits[len(one.prompts[0]) - 1].argmax())


def test_refiner_off_has_no_object_part():
    """An ablation row that keeps object queries, lines, or the refiner."""
    model = build(refiner=False)
    assert not [n for n, _ in model.named_parameters() if "object" in n or "refiner" in n]
    x = inputs(model)
    assert model.lines(x) is None and model.query_tokens(x).shape == (4, 8, 128)
    assert model.settings.mqformer.queries == 8
    with pytest.raises(ValueError, match="need each other"):
        build(mqformer=settings(False).mqformer)


def test_lines_are_a_setting():
    """object_lines that changes nothing, or takes the object queries away."""
    model = build(object_lines=False)
    assert model.lines(inputs(model)) is None
    assert model.query_tokens(inputs(model)).shape[1] == 20
