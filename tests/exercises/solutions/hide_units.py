"""Solution: draw for units, then look each token's unit up."""

import torch


def hide(units, share):
    drawn = torch.rand(len(units), int(units.max()) + 1) < share               # [B, units]
    drawn[:, 0] = False
    return drawn.gather(1, units)
