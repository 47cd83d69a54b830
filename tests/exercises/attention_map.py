"""Chapter 16: read an attention map, as `infer.py --show` draws it.

A map has the weights of H heads over CLS and N patches, which lie row by row on a square grid. It
is read without CLS, as the mean of the heads.
"""

from torch import Tensor


def brightest(weights: Tensor) -> tuple[int, int]:
    """weights [H,1+N] -> (row, column) of the patch that gets the most attention."""
    raise NotImplementedError


def share_in_box(patches: Tensor, box: tuple[float, ...]) -> float:
    """patches [side,side], box in xyxy fractions -> the part of all attention that lies in the box.
    Of a patch that the box covers in part, that part of its attention counts."""
    raise NotImplementedError
