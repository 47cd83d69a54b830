"""Solution: the two axes factor."""

import torch


def weights(x, y, cells):
    points = torch.tensor([y, x]) - 0.5
    points = points.clamp(0, cells - 1)
    hat = (1 - (points[:, None] - torch.arange(cells)).abs()).clamp(min=0)     # [2, cells]
    return hat[0][:, None] * hat[1]
