"""Checks request.py against InteractivePerception and MultiHead."""

import torch
from checking import check, same

from lion_min.lmeye.interaction import InteractionSettings, InteractivePerception
from lion_min.qformer import MultiHead


def test_requests(student):
    torch.manual_seed(0)
    module = InteractivePerception(InteractionSettings(8, 6, width=8, requests=3, returned=3))
    hidden = torch.randn(4, 8)
    same(student.requests(hidden, module.request, 3), module.requests(hidden), "the requests R")


def test_point(student):
    torch.manual_seed(0)
    plain, R, image = MultiHead(8, 1), torch.randn(4, 3, 8) * 2, torch.randn(2, 5, 8) * 2
    for layer in (plain.query, plain.key, plain.value, plain.out):
        torch.nn.init.eye_(layer.weight), torch.nn.init.zeros_(layer.bias)
    returned, maps = plain(R, image)
    weights, got = student.point(R, image)
    total = float(torch.as_tensor(weights)[0, 0].sum())
    check(abs(total - 1) < 1e-4, f"a request's attention does not sum to 1 over the patches: {total:.3f}")
    same(weights, maps[:, 0], "where the requests point")
    same(got, returned, "what returns")
