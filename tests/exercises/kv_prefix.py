"""Chapter 19: why may an LLM read a prefix once, and does the answer not change?

New tokens that follow a cached prefix attend to all of it and, among themselves, to their own past;
their positions go on counting. A token's keys and values depend on it and on what comes before: where
one token is replaced, some of the cache stays valid. Which part?
"""

from torch import Tensor


def visible(prefix: int, new: int) -> Tensor:
    """bool [new, prefix + new]: row i attends to column j where True."""
    raise NotImplementedError


def positions(prefix: int, new: int) -> Tensor:
    """The position of each new token, [new]."""
    raise NotImplementedError


def stays_valid(tokens: int, replaced: int) -> Tensor:
    """bool [tokens]: keys and values that are the same after the token `replaced` was exchanged."""
    raise NotImplementedError
