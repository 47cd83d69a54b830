"""Rows of different lengths as one tensor, and long rows apart from short ones, to pad less.

Symbols: S samples, L tokens of the longest row, K own visual tokens of a sample, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pad_rows(rows: list[list], value: float, left: bool = False) -> Tensor:
    """Lists of numbers -> one tensor [S, L], filled up with `value`."""
    padding = [[value] * (max(map(len, rows)) - len(r)) for r in rows]
    return torch.tensor([p + r if left else r + p for p, r in zip(padding, rows)])


def alike(lengths: Tensor) -> list[Tensor]:
    """Samples [S] in two groups, long and short, where that saves much padding, else in one."""
    size, rows = lengths.sort(descending=True, stable=True)
    longer = torch.arange(len(size), device=size.device)              # rows in the first group
    cells = longer * size[0] + (len(size) - longer) * size
    cut = int(cells.argmin())
    return [rows[:cut], rows[cut:]] if cells[cut] < 0.7 * cells[0] else [rows]


def by_length(embeds: Tensor, text, prefix, own: Tensor | None) -> list[tuple]:
    """A batch, or its long and its short rows apart, behind the same prefix: the same four again.

    embeds [S, L, D], text: language.TextBatch, prefix: language.Prefix, own [S, K, D] or None.
    """
    groups = alike(text.mask.sum(1))
    if len(groups) < 2:
        return [(embeds, text, prefix, own)]
    parts = []
    for rows in groups:
        length = int(text.mask[rows].sum(1).max())
        part = type(text)(*(t[rows, :length] for t in (text.ids, text.mask, text.labels)))
        parts.append((embeds[rows, :length], part, prefix.pick(rows),
                      None if own is None else own[rows]))
    return parts
