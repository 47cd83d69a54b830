"""Vision Aggregator: against transformers' BertLayer, and the order of its inputs."""

import pytest
import torch
import torch.nn.functional as F
from test_qformer import close

from lion_min.lion.aggregator import VisionAggregator

B, N, D, HEADS, FFN = 2, 10, 32, 4, 48


def states(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(B, N, D, generator=generator) for _ in range(count)]


@pytest.fixture
def aggregator() -> VisionAggregator:
    torch.manual_seed(0)
    aggregator = VisionAggregator(D, HEADS, FFN).eval()
    with torch.no_grad():
        for p in aggregator.parameters():
            p.normal_(0, 0.3)
    return aggregator


def bert_layer(block: torch.nn.Module):
    """A stock eager BertLayer with a block's weights, as the official code builds it."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer
    config = BertConfig(hidden_size=D, num_attention_heads=HEADS, intermediate_size=FFN,
                        is_decoder=True, add_cross_attention=True)
    config._attn_implementation = "eager"  # sdpa would make it causal
    names = {"query": "self.query", "key": "self.key", "value": "self.value",
             "up": "intermediate.dense", "out": "output.dense", "norm": "output.LayerNorm"}
    state = {}
    for key, value in block.state_dict().items():
        part, name, kind = key.split(".")
        prefix = {"attention": "attention.", "cross": "crossattention.", "ffn": ""}[part]
        state[f"{prefix}{names[name]}.{kind}"] = value
    layer = BertLayer(config)
    layer.load_state_dict(state, strict=True)
    return layer.eval()


def test_equals_two_bert_layers(aggregator):
    """Causal self-attention (the first token would not notice a change of the last one), pre-norm,
    key states in the wrong order, a mask that is not there, a third ViT state forgotten in silence,
    or one given too many and never read."""
    last, middle, early = states()
    x = last
    for block, y in zip(aggregator.blocks, (middle, early)):
        x = bert_layer(block)(x, encoder_hidden_states=y)
        x = x[0] if isinstance(x, tuple) else x
    ours = aggregator(last, [middle, early])
    close(ours, x)
    shown, maps = aggregator(last, [middle, early], return_attention=True)
    close(shown, x)
    assert [m.shape for m in maps] == [(B, HEADS, N, N)] * 2
    torch.testing.assert_close(maps[1].sum(-1), torch.ones(B, HEADS, N))
    for keys in ([middle], [middle, early, last]):
        with pytest.raises(ValueError):
            aggregator(last, keys)


def test_starts_as_the_standardised_last_state():
    """An output projection that is not zeroed: the new branch starts as noise."""
    last, middle, early = states()
    ours = VisionAggregator(D, HEADS, FFN).eval()(last * 5 + 2, [middle, early])
    torch.testing.assert_close(ours, F.layer_norm(last, (D,)), atol=1e-4, rtol=1e-4)


def test_all_parameters_learn_once_off_the_start(aggregator):
    """A branch cut off from the loss (a detach, a block left out of the chain)."""
    last, *keys = states()
    aggregator(last, keys).pow(3).sum().backward()
    assert all(p.grad is not None for p in aggregator.parameters())
