"""Solution: a vector that stands in several positions gets the sum of their gradients."""

import torch


def splice(embeds, ids, hint_id, hint):
    return torch.where((ids == hint_id)[..., None], hint, embeds)


def hint_gradient(gradient, ids, hint_id):
    return gradient[ids == hint_id].sum(0)
