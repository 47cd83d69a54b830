"""Chapter 2: the bilinear weights of one point, by hand.

RoIAlign reads a map between its cells. Cell i has its centre at i + 0.5, so a coordinate x (in
cells) is the index p = x - 0.5, and a point between the first and the last centre gives the cell h

    hat(p, h) = max(0, 1 - |p - h|)      (He et al., Mask R-CNN, sec. 3; lion_min/regions.py)

A point nearer to the edge than any centre is moved to the nearest centre first.
"""

from torch import Tensor


def weights(x: float, y: float, cells: int) -> Tensor:
    """The point (x, y) of a map of cells x cells -> each cell's weight [row, column]."""
    raise NotImplementedError
