"""Checks lora_merge.py against attach_lora and merge_lora."""

import torch
from checking import same
from torch import nn

from lion_min.lora import attach_lora, merge_lora


def test_merged(student):
    torch.manual_seed(0)
    llm, x = nn.ModuleDict({"q_proj": nn.Linear(6, 6)}), torch.randn(5, 6)
    lora, = loras = attach_lora(llm, ("q_proj",), rank=2, alpha=8, dropout=0.0)
    nn.init.normal_(lora.up.weight)
    layer, out = llm["q_proj"], llm["q_proj"](x)
    got = student.merged(layer.weight.clone(), lora.down.weight, lora.up.weight, 8)
    merge_lora(llm, loras)
    same(got, layer.weight, "W + alpha / r B A")
    same(x @ got.T + layer.bias, out, "the output with the merged weight")
