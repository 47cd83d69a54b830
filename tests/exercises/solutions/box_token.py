"""Solution."""

import torch


def box_token(feature, pixels, width, height, bbox_fc):
    sides = torch.tensor([width, height, width, height])
    return feature + bbox_fc(torch.tensor(pixels) / sides)
