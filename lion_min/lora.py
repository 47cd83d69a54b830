"""LoRA (arXiv 2106.09685): a trained step of low rank beside the frozen Linears of an LLM.

    y = W x + alpha/r * up(down(dropout(x)))              Lyrics stage 2: on q, k, v of every layer

As the adapters of adapters.py: a ModuleList of the caller, forward hooks in the LLM.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRA(nn.Module):
    """One Linear's step. Zero until trained, since `up` starts at zero; fp32 beside any dtype."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, dropout: float):
        super().__init__()
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        self.scale, self.dropout = alpha / rank, dropout
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """What is added, [*,in] -> [*,out]."""
        x = F.dropout(x.to(self.down.weight.dtype), self.dropout, self.training)
        return self.up(self.down(x)) * self.scale

    def beside(self, name: str, linear: nn.Linear) -> None:
        """Hook onto the Linear called `name` in its LLM."""
        self.name = name  # the module itself would register as a child of ours
        self.hook = linear.register_forward_hook(
            lambda _, inputs, output: output + self(inputs[0]).to(output.dtype))


def attach_lora(llm: nn.Module, targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj"),
                rank: int = 8, alpha: float = 32, dropout: float = 0.05) -> nn.ModuleList:
    """Put a LoRA beside every Linear of these names (T5: 'q', 'k', 'v'). Defaults: Lyrics'.

    Returns them in the LLM's own order; the caller keeps, trains and saves them.
    """
    if getattr(llm, "has_lora", False):
        raise ValueError("this LLM already carries LoRA; merge it or build it afresh")
    loras = nn.ModuleList()
    for name, linear in llm.named_modules():
        if isinstance(linear, nn.Linear) and name.rsplit(".", 1)[-1] in targets:
            lora = LoRA(linear.in_features, linear.out_features, rank, alpha, dropout)
            loras.append(lora.to(linear.weight.device))
            lora.beside(name, linear)
    if not loras:
        raise ValueError(f"{type(llm).__name__} has no Linear named {' or '.join(targets)}")
    llm.has_lora = True
    return loras


@torch.no_grad()
def merge_lora(llm: nn.Module, loras: nn.ModuleList) -> None:
    """Add each step to its Linear's weight and unhook it: the same outputs at no extra cost."""
    if not getattr(llm, "has_lora", False):
        raise ValueError("this LLM carries no LoRA; it was merged before or never attached")
    for lora in loras:
        weight = llm.get_submodule(lora.name).weight                    # [out, in]
        step = lora.scale * lora.up.weight @ lora.down.weight
        weight.copy_(weight.to(step.dtype) + step)
        lora.hook.remove()
    llm.has_lora = False
