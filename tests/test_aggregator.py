"""Vision Aggregator beside test_parity_lion_modules.py: its maps and its start."""

import pytest
import torch
import torch.nn.functional as F
from test_qformer import close, randomise

from lion_min.lion.aggregator import VisionAggregator

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
