"""Chapter 24: the mask of ICG (image-grounded captions).

The sequence is [queries ; text]. The text is to be predicted word by word from the picture: a text token
attends to all queries, to itself and to its past. A query attends to all queries, but to no text: it
would carry the words to those that are to predict them (Lyrics, arXiv 2312.05278).
"""

from torch import Tensor


def icg_mask(queries: int, text: int) -> Tensor:
    """bool [queries + text, queries + text]: row i attends to column j where True."""
    raise NotImplementedError
