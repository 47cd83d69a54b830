"""Chapter 4: one block of LION's vision aggregator, B(X; Y) = FFN(XAttn(Attn(X), Y)).

X is the last ViT state, Y an earlier one. Each of the three sub-layers is post-norm, as in BERT:
its output is added to its input, and the norm follows,

    A = N1(X + Attn(X, X))      C = N2(A + XAttn(A, Y))      B = N3(C + FFN(C))     (LION sec. 3)
"""

from collections.abc import Callable

from torch import Tensor


def block(x: Tensor, y: Tensor, attention: Callable, cross: Callable, ffn: Callable,
          norms: list[Callable]) -> Tensor:
    """x, y [B,N,D] -> [B,N,D]. attention and cross take (tokens, what they attend to), ffn takes
    tokens; norms are N1, N2, N3."""
    raise NotImplementedError
