"""Prompts with regions: what they become, what is refused, and the jitter of training."""

import pytest
import torch
from random_pvit import ABOUT, TOKENIZER, A, B, build, inputs, states  # noqa: F401 (a fixture)

from lion_min import BadInput
from lion_min.boxes import BoxText
from lion_min.pvit.prompt import conversation, encode, jitter, pieces


@ABOUT
def test_what_a_region_costs(representation, positions):
    """Guards: coordinates left beside the feature; a representation with another budget."""
    prompt = f"describe {A} left of {B}"
    ids, boxes = encode(TOKENIZER, prompt, representation)
    words = TOKENIZER.encode("describe left of")
    assert len(ids) == len(words) + 2 * positions
    assert boxes == ([] if representation == "text" else BoxText().parse(A + B))
    opens = len(TOKENIZER)
    region = [opens, *[TOKENIZER.region_id] * (positions - 2), opens + 1]
    assert ids == (TOKENIZER.encode(prompt) if representation == "text" else
                   [words[0], *region, *words[1:], *region])
    assert representation != "text" or max(ids) < opens


def test_both_ways_to_write_a_box():
    """Guards: the paper's marks read as words, spaces or capitals that hide a region."""
    for text in (f"What is in <Region>{A}</Region>?",
                 "What is in <region> [0.1, 0.1, 0.5, 0.6] </REGION>?"):
        assert encode(TOKENIZER, text) == encode(TOKENIZER, f"What is in {A}?")
    assert pieces(f"a [b] {A} [1,2] [0.9,0.1,0.2,0.3]") == [
        "a [b] ", BoxText().parse(A)[0], " [1,2] [0.9,0.1,0.2,0.3]"]


@pytest.mark.parametrize("text", [
    f"<Region>{A}", f"{A}</Region>", f"</Region>{A}<Region>", f"<Region><Region>{A}</Region>",
    f"<Region>{A}</Region></Region>", "<Region></Region>", "<Region>a dog</Region>",
    "<Region>[0.1,0.2,0.3]</Region>", "<Region>[0.5,0.1,0.2,0.3]</Region>",
    f"<Region>{A}{B}</Region>", f"<Region>the {A}</Region>", "<Region>[nan,0,1,1]</Region>",
    "<Region>[1,2\n,3,4]</Region>", f"<region>{A} </REGION> <region>"])
def test_malformed_regions_get_one_line(text):
    """Guards: a mark without a box that quietly becomes words; an error of several lines."""
    with pytest.raises(BadInput, match=r"\Aprompt: .*\Z"):                # . is no line break
        encode(TOKENIZER, text)


def test_a_conversation_keeps_order_and_ends_each_answer():
    """Guards: boxes of earlier turns behind the question's; an answer that runs into a question."""
    turns = [(f"Describe {A}", "a red circle"), ("Where is the star?", B)]
    ids, boxes = conversation(TOKENIZER, turns, f"Is {B} left of it?")
    assert boxes == BoxText().parse(A + B) and ids.count(TOKENIZER.eos_id) == 2
    words = TOKENIZER.encode
    assert ids == sum([encode(TOKENIZER, f"Describe {A}")[0], words("a red circle"), [1],
                       words("Where is the star?"), words(B), [1],
                       encode(TOKENIZER, f"Is {B} left of it?")[0]], [])


def test_jitter_stays_within_two_percent_of_the_box():
    """Guards: jitter in shares of the image, one noise for all four, a box out of the image."""
    boxes = torch.tensor([[0.1, 0.2, 0.2, 0.7], [0.0, 0.0, 1.0, 1.0]]).repeat(500, 1)
    moved = jitter(boxes, generator=torch.Generator().manual_seed(0))
    sides = torch.tensor([[0.1, 0.5, 0.1, 0.5], [1.0, 1.0, 1.0, 1.0]]).repeat(500, 1)
    share = ((moved - boxes) / sides)[::2]                                # far from the edges
    assert share.abs().max() <= 0.02 + 1e-6 and share.abs().max() > 0.019
    assert torch.corrcoef(share.T).fill_diagonal_(0).abs().max() < 0.2
    assert moved.min() == 0 and moved.max() == 1 and (moved[:, :2] < moved[:, 2:]).all()


@ABOUT
def test_jitter_only_in_training(representation, positions, states):
    """Guards: noise at inference; text or location tokens that are spared the noise."""
    model = build(representation)

    def batch(**options):
        x = inputs(model, states, **options)
        return x.boxes, x.prompts, x.answers
    generator = torch.Generator().manual_seed(0)
    calm, noisy = batch(), batch(train=True, generator=generator)
    assert calm == batch() and noisy[2] == calm[2]
    moved = 1 if representation == "text" else 0
    assert noisy[moved] != calm[moved]
    assert noisy == batch(train=True, generator=generator.manual_seed(0))
    for was, now in zip(sum(calm[0], []), sum(noisy[0], [])):
        assert all(abs(a - b) <= 0.0101 for a, b in zip(was, now))        # 2 % of sides <= 0.5
