"""One language model interface over T5 and Llama: splicing, reading behind images, decoding."""

import pytest
import torch

from lion_min.language import LanguageModel, LanguageSettings, TextBatch, build, splice

FAMILIES = ["llama", "t5"]
WIDTH, SHARED, OWN = 32, 5, 3
PROMPTS = [[7, 8, 9], [10, 11], [12, 13, 14, 15, 16], [17], [18, 19], [20, 21, 22]]  # S = 6
ANSWERS = [[30], [31, 32, 33], [34, 35], [36], [37, 38, 39, 30], [31]]


@pytest.fixture(params=FAMILIES)
def llm(request) -> LanguageModel:
    return tiny(request.param)


def tiny(family: str) -> LanguageModel:
    torch.manual_seed(0)
    llm = LanguageModel(LanguageSettings(family=family, vocab=40, width=WIDTH, layers=2, heads=4,
                                         ffn=64, buckets=8, distance=16)).eval()
    for parameter in llm.parameters():  # far from uniform answers, so that a slip changes them
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return llm


def visual(images: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Shared tokens [B, P, D] and own tokens [S, K, D] of the six samples."""
    torch.manual_seed(1)
    return torch.randn(images, SHARED, WIDTH), torch.randn(len(PROMPTS), OWN, WIDTH)


def loss_of(llm, prompts, answers, shared, own, balanced=False) -> torch.Tensor:
    text = llm.pack(prompts, answers)
    return llm.loss(llm.embed(text.ids), text, shared, own, balanced)


def generated(llm, which: list[int], **options):
    """Six new tokens for some samples, with both kinds of visual tokens."""
    shared, own = visual()
    text = llm.pack([PROMPTS[s] for s in which])
    return llm.generate(llm.embed(text.ids), text, shared[[s // 3 for s in which]], own[which],
                        **{"max_new_tokens": 6, "min_new_tokens": 6} | options)


def reads(llm: LanguageModel) -> list[tuple[int, int]]:
    """(rows, tokens) of every later forward pass of a Llama."""
    seen = []
    llm.model.model.register_forward_pre_hook(
        lambda _, args, named: seen.append((*named["inputs_embeds"].shape[:2],)), with_kwargs=True)
    return seen


@pytest.mark.parametrize("rows", [0, 2, 4])
def test_splice_counts_placeholders(rows):
    """Features dropped, or placeholders left as plain words, when their numbers differ."""
    ids = torch.tensor([[4, 1, 4], [2, 4, 3]])
    with pytest.raises(ValueError, match=f"3 placeholders in the text for {rows} features"):
        splice(torch.zeros(2, 3, 2), ids, 4, torch.ones(rows, 2))


def test_splice_fills_in_reading_order_and_passes_gradients():
    """Features in column order, the embeddings overwritten in place, or a detached copy."""
    ids = torch.tensor([[4, 1, 4], [2, 4, 3]])
    embeds, features = torch.zeros(2, 3, 1, requires_grad=True), torch.tensor([[1.], [2.], [3.]])
    out = splice(embeds, ids, 4, features.requires_grad_())
    assert out[..., 0].tolist() == [[1, 0, 2], [0, 3, 0]]
    assert embeds.sum() == 0
    (out[..., 0] * torch.tensor([[1., 2, 3], [4, 5, 6]])).sum().backward()
    assert features.grad[:, 0].tolist() == [1, 3, 5]
    assert embeds.grad[..., 0].tolist() == [[0, 2, 0], [4, 0, 6]]


@pytest.mark.parametrize("balanced", [False, True])
def test_batch_loss_is_that_of_rows_and_of_single_samples(llm, balanced):
    """Samples of an image that see each other, padding that is seen or scored, own tokens given to
    another sample, shared tokens to another image; a cache that is cut from the graph, or a loss
    that teaches a neighbour's tokens."""
    visuals = [v.requires_grad_() for v in visual()]
    shared, own = visuals
    together = loss_of(llm, PROMPTS, ANSWERS, shared, own, balanced)  # Llama: 2 caches
    rows = loss_of(llm, PROMPTS, ANSWERS, shared.repeat_interleave(3, 0), own, balanced)
    alone = torch.stack([loss_of(llm, [q], [a], shared[s // 3:s // 3 + 1], own[s:s + 1])
                         for s, (q, a) in enumerate(zip(PROMPTS, ANSWERS))])
    tokens = torch.tensor([1. if balanced else len(a) + 1. for a in ANSWERS])    # and the EOS
    apart = (alone * tokens).sum() / tokens.sum()
    assert alone.std() > 0.1                                          # no two alike by chance
    gradients = torch.autograd.grad(together, visuals)
    assert all(g.abs().amax(-1).min() > 1e-6 for g in gradients)
    for other in (rows, apart):
        torch.testing.assert_close(other, together, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.autograd.grad(other, visuals), gradients, atol=1e-5, rtol=0)


def test_long_and_short_rows_are_read_apart():
    """A few long rows that make padding of the rest; a group behind the wrong image."""
    llm, (shared, own) = tiny("llama"), visual()
    prompts, read = [PROMPTS[0] * 8, *PROMPTS[1:]], reads(llm)
    alone = torch.stack([loss_of(llm, [q], [a], shared[s // 3:s // 3 + 1], own[s:s + 1])
                         for s, (q, a) in enumerate(zip(prompts, ANSWERS))])
    read.clear()
    torch.testing.assert_close(loss_of(llm, prompts, ANSWERS, shared, own, balanced=True),
                               alone.mean(), atol=1e-5, rtol=0)
    assert read == [(2, SHARED), (1, OWN + 26), (5, OWN + 8)]


def test_an_image_is_read_once():
    """Shared tokens read again for each of an image's questions, in training or to answer."""
    llm, (shared, own) = tiny("llama"), visual()
    read = reads(llm)
    loss_of(llm, PROMPTS, ANSWERS, shared, own)
    text = llm.pack(PROMPTS)
    llm.generate(llm.embed(text.ids), text, shared, own, max_new_tokens=1)
    assert read == [(2, SHARED), (6, OWN + 8), (2, SHARED), (6, OWN + 5)]


@pytest.mark.parametrize("beams", [1, 3])
def test_batch_is_single_generation(llm, beams):
    """Left padding that is seen or counted; visual tokens of the wrong sample; beams mixed."""
    batch = generated(llm, list(range(6)), num_beams=beams)
    for s in range(6):
        assert generated(llm, [s], num_beams=beams).tolist() == batch[s:s + 1].tolist()
    assert len({tuple(row) for row in batch.tolist()}) > 3            # they do not all agree


def test_no_label_left_raises(llm):
    """All labels -100: a NaN mean that poisons the optimiser's state."""
    shared, own = visual()
    text = llm.pack(PROMPTS, ANSWERS)
    text.labels.fill_(-100)
    with pytest.raises(ValueError, match="-100"):
        llm.loss(llm.embed(text.ids), text, shared, own)


def test_pack_pads_by_purpose():
    """A decoder-only LLM padded right for generation goes on after its padding; masks made by
    comparing with the pad id lose true tokens of that number."""
    ids = [[7, 8], [9]]
    left, right = tiny("llama").pack(ids), tiny("t5").pack(ids)
    assert left.ids.tolist() == [[7, 8], [0, 9]] and left.mask.tolist() == [[1, 1], [0, 1]]
    assert right.ids.tolist() == [[7, 8], [9, 0]] and right.mask.tolist() == [[1, 1], [1, 0]]
    assert isinstance(left, TextBatch) and left.labels is None
    for family in FAMILIES:
        assert tiny(family).pack([[0, 7], [0]]).mask.sum() == 3


@pytest.mark.parametrize("tied", [True, False])
def test_head_is_tied_only_on_demand(tied):
    """transformers 5 ties every T5 from a config: loading its head overwrote the embedding. A
    typing error that builds the other family."""
    for family in FAMILIES:
        model = build(LanguageSettings(family=family, vocab=40, width=WIDTH, layers=1, tied=tied))
        embedding = model.get_input_embeddings().weight
        assert (model.lm_head.weight.data_ptr() == embedding.data_ptr()) == tied
        model.tie_weights()                                           # transformers may call it
        assert (model.lm_head.weight.data_ptr() == embedding.data_ptr()) == tied
    with pytest.raises(ValueError, match="'bert'"):
        build(LanguageSettings(family="bert"))
