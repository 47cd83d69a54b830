"""Checks aggregator_block.py against AggregatorBlock."""

import torch
import torch.nn.functional as F
from checking import check, same

from lion_min.lion.aggregator import AggregatorBlock
from lion_min.qformer import MultiHead


def test_block(student):
    torch.manual_seed(0)
    module, x, y = AggregatorBlock(8, 2, 16, 1e-12, 0, 0.5), *torch.randn(2, 1, 5, 8)
    for part in (module.attention, module.cross, module.ffn):
        torch.nn.init.normal_(part.out.weight)
        torch.nn.init.uniform_(part.norm.weight, 0.5, 2)
    used = [module.attention, module.cross, module.ffn]

    def mix(part):
        return lambda tokens, context: MultiHead.forward(part, tokens, context)[0]

    got, moved = (student.block(x, other, mix(used[0]), mix(used[1]), lambda t: used[2].out(F.gelu(
        used[2].up(t))), [part.norm for part in used]) for other in (y, y + torch.randn(1, 5, 8)))
    check(not torch.equal(got, moved), "another Y changes nothing: the cross-attention must read it")
    same(got, module(x, y)[0], "B(X; Y)")
