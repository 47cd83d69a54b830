"""Chapter 14: a bottleneck adapter with a scale, H(X) = s (W_up ReLU(W_down X)).

A new adapter beside a frozen LLM must add exactly nothing, and must still be able to learn: its
way out starts at zero, its way in does not (LION sec. 3; official lion_adapters.py).
"""

from torch import Tensor, nn


def new_layers(width: int, bottleneck: int) -> tuple[nn.Linear, nn.Linear]:
    """(down, up) of an untrained adapter, with biases."""
    raise NotImplementedError


def adapter(x: Tensor, down: nn.Linear, up: nn.Linear, scale: Tensor) -> Tensor:
    """x [*,D], scale [1] -> what is added, [*,D]."""
    raise NotImplementedError
