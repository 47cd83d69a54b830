"""Chapter 23: ITC, and the wrong pairs that ITM gets from it.

    s(i, j) = max_q z_q^i . t^j / tau      loss: cross-entropy of the diagonal, mean of both directions

(Lyrics, arXiv 2312.05278, as BLIP-2; without label smoothing here.) ITM needs a wrong text for every picture:
the likelier the higher ITC scores it, p proportional to softmax(s) off the diagonal, never the true one.
"""

from torch import Tensor


def scores(z: Tensor, t: Tensor, tau: float) -> Tensor:
    """z [B,Q,E] of the queries, t [B,E] of the texts, on the unit sphere -> s [B pictures, B texts]."""
    raise NotImplementedError


def itc(s: Tensor) -> Tensor:
    """The loss of the scores, a number."""
    raise NotImplementedError


def negatives(s: Tensor) -> Tensor:
    """For each picture the probability of each text as its wrong partner, [B, B]."""
    raise NotImplementedError
