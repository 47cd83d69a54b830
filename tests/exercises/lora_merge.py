"""Chapter 26: merge LoRA into the weight it stands beside.

    y = W x + (alpha / r) B A x       A [r, in] is `down`, B [out, r] is `up`   (Hu et al. 2021, eq. 3)

B A is a matrix: added to W, the step costs nothing any more.
"""

from torch import Tensor


def merged(W: Tensor, down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """W [out,in], down [r,in], up [out,r] -> the weight [out,in] that does both at once."""
    raise NotImplementedError
