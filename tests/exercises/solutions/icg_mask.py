"""Solution."""

import torch


def icg_mask(queries, text):
    size = queries + text
    mask = torch.ones(size, size, dtype=torch.bool).tril()
    mask[:queries, :queries] = True
    return mask
