"""Chapter 8: LMEye's request that points.

The LLM's state at <img-q> becomes n requests (one Linear, cut in n parts, first part first); each
attends to the patches of its image, and what it attended to returns (LMEye, arXiv 2305.03701; one head):

    R = W_r h      a = softmax(R I^T / sqrt(c))      returned = a I

Samples of one image stand together: of S samples and B images, sample s is about image s // (S / B).
"""

from torch import Tensor, nn


def requests(hidden: Tensor, linear: nn.Linear, n: int) -> Tensor:
    """hidden [S,D], linear D -> n c: R [S,n,c]."""
    raise NotImplementedError


def point(R: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """R [S,n,c], image [B,N,c] -> (a [S,n,N], returned [S,n,c])."""
    raise NotImplementedError
