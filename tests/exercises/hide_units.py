"""Chapter 25: MSP hides units, each with probability `share`, whole or not at all.

Two words of `small pink ring` would nearly reveal the third. So there is one draw for each unit of each
text, and all tokens of a unit share it; 0 marks what is no unit and is never hidden (Lyrics' MSP,
arXiv 2312.05278).
"""

from torch import Tensor


def hide(units: Tensor, share: float) -> Tensor:
    """units [B,L], the number of each token's unit -> bool [B,L], True where MSP hides it."""
    raise NotImplementedError
