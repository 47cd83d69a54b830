"""Checks cross_attention.py against MultiHead with one head."""

import torch
from checking import check, same

from lion_min.qformer import MultiHead


def test_cross_attention(student):
    torch.manual_seed(0)
    module, queries, tokens = MultiHead(8, 1), torch.randn(2, 3, 8) * 3, torch.randn(2, 5, 8) * 3
    torch.nn.init.eye_(module.out.weight), torch.nn.init.zeros_(module.out.bias)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]])
    want, share = module(queries, tokens, mask[:, None, None])
    out, weights = student.cross_attention(
        module.query(queries), module.key(tokens), module.value(tokens), mask)
    total = torch.as_tensor(weights).sum(-1)
    check(torch.allclose(total, torch.ones(2, 3), atol=1e-4),
          f"the weights of a query do not sum to 1 over the tokens: {total.flatten()[-1]:.3f}")
    check(not weights[1, :, ~mask[1]].any(), "masked tokens get attention; they should get none")
    same(weights, share[:, 0], "the weights")
    same(out, want, "the output")
