"""Chapter 12: where RoIAlign reads, along one axis.

A box from `start` to `end` (in cells) has S bins of width b = (end - start) / S. Each bin has
g = ceil(b) points, in the middle of g equal parts of it; in index units (0.5 is subtracted)

    p(s, a) = start - 0.5 + s b + (a + 1/2) b / g,    s = 0 .. S-1,  a = 0 .. g-1
"""

from torch import Tensor


def points(start: float, end: float, bins: int) -> Tensor:
    """The points of each bin in index units, [bins, g]."""
    raise NotImplementedError
