"""Solution."""

import torch


def brightest(weights):
    patches = weights[:, 1:].mean(0)                                           # [N]
    side = round(len(patches) ** 0.5)
    return divmod(int(patches.argmax()), side)


def share_in_box(patches, box):
    side = len(patches)
    cell = torch.arange(side)
    columns, rows = ((torch.clamp(cell + 1, max=high * side) - torch.clamp(cell, min=low * side))
                     .clamp(min=0) for low, high in ((box[0], box[2]), (box[1], box[3])))
    return float((patches * rows[:, None] * columns).sum() / patches.sum())
