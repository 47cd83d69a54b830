"""Solution."""

import torch
import torch.nn.functional as F


def scores(z, t, tau):
    return torch.einsum("iqe,je->ijq", z, t).amax(-1) / tau


def itc(s):
    true = torch.arange(len(s))
    return (F.cross_entropy(s, true) + F.cross_entropy(s.T, true)) / 2


def negatives(s):
    p = s.softmax(1)
    p = p.masked_fill(torch.eye(len(s), dtype=torch.bool), 0)
    return p / p.sum(1, keepdim=True)
