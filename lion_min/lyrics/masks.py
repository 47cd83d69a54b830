"""The attention masks of Lyrics' four objectives, as one matrix each.

The MQ-Former never builds them: its three passes (joint, queries alone, text alone or on a cache)
equal one pass over [queries ; text] under these matrices at less cost.
"""

import torch
from torch import Tensor


def mask_matrix(objective: str, queries: int, objects_text: int, caption: int) -> Tensor:
    """Who may look at whom, [Q+L, Q+L]: row i sees column j where True. Spec 3.1's table.

    L = objects_text + caption tokens, [CLS] counted with the objects. No cell asks to which of
    the two a token belongs: for ICG the objects' text is the beginning of what is continued.
    """
    if objective not in ("itc", "itm", "icg", "msp"):
        raise ValueError(f"unknown objective {objective!r}: 'itc', 'itm', 'icg' or 'msp'")
    size, Q = queries + objects_text + caption, queries
    seen = torch.ones(size, size, dtype=torch.bool)
    seen[:Q, Q:] = objective == "itm"                   # queries that read the text
    seen[Q:, :Q] = objective != "itc"                   # text that reads the queries
    seen[Q:, Q:] = seen[Q:, Q:].tril() if objective == "icg" else True
    return seen
