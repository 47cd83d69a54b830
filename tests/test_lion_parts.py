"""LION's parts beside test_parity_lion.py: the aggregator's maps and start, the soft prompt's rows."""

import pytest
import torch
import torch.nn.functional as F
from test_qformer import close, randomise

from lion_min.lion.aggregator import VisionAggregator
from lion_min.lion.softprompt import TAG_PROMPT, SoftPrompt, with_tags

B, N, D, HEADS, FFN = 2, 10, 32, 4, 48


def states(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(B, N, D, generator=generator) for _ in range(count)]


@pytest.fixture
def aggregator() -> VisionAggregator:
    torch.manual_seed(0)
    return randomise(VisionAggregator(D, HEADS, FFN))


def test_maps_and_key_states(aggregator):
    """Another answer where one asks for maps, maps before the softmax, key states in the wrong
    order, a third ViT state forgotten in silence, or one given too many and never read."""
    last, middle, early = states()
    ours = aggregator(last, [middle, early])
    shown, maps = aggregator(last, [middle, early], return_attention=True)
    close(shown, ours)
    assert [m.shape for m in maps] == [(B, HEADS, N, N)] * 2
    torch.testing.assert_close(maps[1].sum(-1), torch.ones(B, HEADS, N))
    assert not torch.allclose(aggregator(last, [early, middle]), ours, atol=1e-3)
    for keys in ([middle], [middle, early, last]):
        with pytest.raises(ValueError):
            aggregator(last, keys)


def test_starts_as_the_standardised_last_state():
    """An output projection that is not zeroed: the new branch starts as noise."""
    last, middle, early = states()
    ours = VisionAggregator(D, HEADS, FFN).eval()(last * 5 + 2, [middle, early])
    torch.testing.assert_close(ours, F.layer_norm(last, (D,)), atol=1e-4, rtol=1e-4)


def test_sentence_is_the_official_one():
    """A changed word or space: the published weights were trained on exactly this prefix. A brace
    in the question breaks str.format, or swallows the tags."""
    for text in ("{}", "{0} {name} }{", "{{}}", "100 %s \\1 \n", "\U0001f600"):
        assert with_tags(text, ["cat"]).endswith("tags: [cat]. " + text)
        assert with_tags("q", [text]).endswith(f"tags: [{text}]. q")
    assert with_tags("What is it?", ["airport", "beagle"]) == (
        "According to <extra_id_0>, you are allowed to use or partially use the following tags: "
        "[airport, beagle]. What is it?")
    assert with_tags("q", ["a"]) == TAG_PROMPT.format("a") + "q"
    assert with_tags("q", [], "<hint>").startswith("According to <hint>, you")
    assert "extra_id" not in with_tags("q", ["a"], "<hint>")
    assert "[]. q" in with_tags("q", [])


def test_exactly_the_hint_rows_are_overwritten():
    """Exactly one hint a sample assumed (official fault): none or three shift or crash. An in-place
    write that cuts the graph: the hint never learns, or the bridge stops to."""
    torch.manual_seed(0)
    soft, embeds = SoftPrompt(6), torch.randn(3, 5, 6)
    ids = torch.tensor([[9, 1, 2, 3, 4], [1, 9, 9, 2, 9], [1, 2, 3, 4, 5]])
    before = embeds.clone()
    out = soft(embeds, ids, hint_id=9)
    here = ids == 9
    assert torch.equal(out[here], soft.hint.expand(4, 6))
    assert torch.equal(out[~here], before[~here])
    assert torch.equal(embeds, before)  # the LLM's embedding output is not edited in place
    soft(embeds.requires_grad_(), ids, hint_id=9).sum().backward()
    assert torch.equal(soft.hint.grad, torch.full((6,), 4.0))
    assert torch.equal(embeds.grad[..., 0], (ids != 9).float())


def test_hint_starts_at_t5s_spread_and_keeps_the_llms_dtype():
    """A hint of BERT's 0.02, lost beside embeddings of spread 1; fp32 rows in a bf16 prompt."""
    torch.manual_seed(0)
    soft = SoftPrompt(4096)
    assert abs(soft.hint.std().item() - 1) < 0.05
    embeds = torch.zeros(1, 2, 4096, dtype=torch.bfloat16)
    assert soft(embeds, torch.tensor([[9, 1]]), 9).dtype == torch.bfloat16
