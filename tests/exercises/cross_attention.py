"""Chapter 3: the cross-attention of a Q-Former, with a mask.

    out = softmax(Q K^T / sqrt(d)) V       (Vaswani et al. 2017, eq. 1; one head)

Every query divides its attention among the N tokens where the mask is True; the others get exactly
none of it, and what each query gives sums to 1.
"""

from torch import Tensor


def cross_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """q [B,Q,d], k and v [B,N,d], mask [B,N] bool -> (out [B,Q,d], weights [B,Q,N])."""
    raise NotImplementedError
