"""Checks icg_mask.py against lyrics/masks.py."""

import torch
from checking import check, same

from lion_min.lyrics.masks import mask_matrix


def test_icg_mask(student):
    mask, want = student.icg_mask(4, 5), mask_matrix("icg", 4, 2, 3)
    check(getattr(mask, "dtype", None) == torch.bool, "the mask must be a bool tensor")
    same(torch.tensor(mask.shape), torch.tensor(want.shape), "the mask's two sides")
    for rows, columns, name in ((slice(4), slice(4), "queries attending to queries"),
                                (slice(4), slice(4, None), "queries attending to the text"),
                                (slice(4, None), slice(4), "text attending to queries"),
                                (slice(4, None), slice(4, None), "text attending to text")):
        same(mask[rows, columns], want[rows, columns], f"the part of {name}")
