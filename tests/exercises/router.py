"""Chapter 5: the router with two rows, and a task that borrows from the other level.

    sum_k G_k^t * H_k(X)       G_k^t [D] for adapter k and task t, chosen by the task alone (LION sec. 3)

`router` [K,2,D] holds G_k^t at [k, t]: each task has its row of gates over all adapters. It starts as
the identity, task t takes adapter t alone.
"""

from collections.abc import Callable

from torch import Tensor


def mix(x: Tensor, adapters: list[Callable], router: Tensor, task: int) -> Tensor:
    """x [*,D] -> the gated sum of the adapters' outputs, [*,D]."""
    raise NotImplementedError


def borrow(router: Tensor, task: int, share: float) -> Tensor:
    """A new router [2,2,D]: `task` takes 1 - share of its own adapter and `share` of the other one.
    The other task keeps its gates, and so does the router that was given."""
    raise NotImplementedError
