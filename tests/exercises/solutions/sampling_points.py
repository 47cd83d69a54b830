"""Solution."""

import math

import torch


def points(start, end, bins):
    width = (end - start) / bins
    g = math.ceil(width)
    inside = (torch.arange(g) + 1 / 2) * width / g                             # [g]
    return start - 0.5 + torch.arange(bins)[:, None] * width + inside
