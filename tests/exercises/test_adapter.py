"""Checks adapter.py against Adapter."""

import torch
from checking import check, same

from lion_min.adapters import Adapter


def test_untrained(student):
    torch.manual_seed(0)
    (down, up), x = student.new_layers(8, 2), torch.randn(5, 8)
    check((down.out_features, up.out_features) == (2, 8), "down must go to 2 and up back to 8")
    out = student.adapter(x, down, up, torch.ones(1))
    check(not out.any(), f"a new adapter adds {out.abs().max():.3f}: W_up and its bias start at zero")
    check(down.weight.any(), "W_down is zero as well: no input would ever reach W_up's gradient")


def test_adapter(student):
    torch.manual_seed(0)
    module, x = Adapter(8, 2), torch.randn(5, 8)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    same(student.adapter(x, module.down, module.up, module.scale), module(x), "s W_up ReLU(W_down X)")
