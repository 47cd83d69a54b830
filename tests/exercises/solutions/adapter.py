"""Solution."""

import torch
from torch import nn


def new_layers(width, bottleneck):
    down, up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
    nn.init.zeros_(up.weight)
    nn.init.zeros_(up.bias)
    return down, up


def adapter(x, down, up, scale):
    return scale * up(torch.relu(down(x)))
