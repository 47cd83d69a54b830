"""The attention masks of Lyrics' four objectives, as one matrix each.

The MQ-Former never builds them: its three passes (joint, queries alone, text alone or on a cache)
equal one pass over [queries ; text] under these matrices at less cost.
"""

import torch
from torch import Tensor


def mask_matrix(objective: str, queries: int, objects_text: int, caption: int) -> Tensor:
    """[Q+L, Q+L]: row i attends to column j where True. Spec 3.1's table.

    L = objects_text + caption tokens, [CLS] counted with the objects. No cell depends on which of
    the two a token belongs to: for ICG the objects' text is the beginning of what is continued.
    """
    if objective not in ("itc", "itm", "icg", "msp"):
        raise ValueError(f"unknown objective {objective!r}: 'itc', 'itm', 'icg' or 'msp'")
    size, Q = queries + objects_text + caption, queries
    mask = torch.ones(size, size, dtype=torch.bool)
    mask[:Q, Q:] = objective == "itm"                   # queries attend to the text
    mask[Q:, :Q] = objective != "itc"                   # text attends to the queries
    mask[Q:, Q:] = mask[Q:, Q:].tril() if objective == "icg" else True
    return mask
