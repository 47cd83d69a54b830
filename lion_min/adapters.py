"""Bottleneck adapters beside a frozen LLM's feed-forward nets, LION's mixture of two, and LoRA.

LION eq. for one FFN sub-layer with un-normalised input X and task t (official lion_adapters.py,
`forward_ffn_t5`; the paper calls the gates "router"):

    O^t = X + FFN(Norm(X)) + sum_k G_k^t * H_k(X)          G_k^t in R^D, H_k a bottleneck adapter

The router is no network: the gates are free vectors chosen by the task alone, one task a batch.
The adapters live in a ModuleList of the caller; the LLM only gets forward hooks, so its own
parameters, names and checkpoints stay as they were. LoRA (Lyrics stage 2) stands at the end.

Shapes: S samples, T tokens, D width, r bottleneck, K adapters (1 or 2), 2 tasks.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REGION, IMAGE = 0, 1  # the task t; also the place of the adapter that starts as that task's own


class Adapter(nn.Module):
    """H(X) = s (W_up ReLU(W_down X)), s a learnable number. Zero until trained. [*,D] -> [*,D]."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x))) * self.scale


class MixtureOfAdapters(nn.Module):
    """sum_k G_k^t * H_k(X): `router` [K,2,D] holds G_k^t at [k,t] and starts as the identity.

    So adapter 0 begins as the region-level one, adapter 1 as the image-level one, and training
    lets each task borrow from the other. count == 1: a single adapter, no router, any task.
    The official router_ratio1 is router[0], router_ratio2 is router[1].
    """

    def __init__(self, width: int, bottleneck: int, count: int):
        super().__init__()
        if count not in (1, 2):
            raise ValueError(f"a mixture has 1 or 2 adapters, not {count}")
        self.adapters = nn.ModuleList(Adapter(width, bottleneck) for _ in range(count))
        identity = torch.eye(2)[:, :, None].expand(2, 2, width).clone()          # [K, 2, D]
        self.register_parameter("router", nn.Parameter(identity) if count == 2 else None)
        self.task: int | None = None  # REGION or IMAGE, see set_task

    def forward(self, x: Tensor) -> Tensor:
        """[S,T,D] -> [S,T,D]. With two adapters a task must have been set: no silent default."""
        if self.router is None:
            return self.adapters[0](x)
        if self.task is None:
            raise RuntimeError("set_task(adapters, REGION or IMAGE) must come before the LLM runs")
        gates = self.router[:, self.task]                                        # [K, D]
        return sum(gate * adapter(x) for gate, adapter in zip(gates, self.adapters))


def mixtures(where: nn.Module | Iterable[nn.Module]) -> list[MixtureOfAdapters]:
    """Every mixture inside a module or a list of modules, in order, each once."""
    roots = [where] if isinstance(where, nn.Module) else where
    found = (m for root in roots for m in root.modules() if isinstance(m, MixtureOfAdapters))
    return list(dict.fromkeys(found))


def set_task(where: nn.Module | Iterable[nn.Module], task: int) -> None:
    """Route the next batches as `task` (REGION or IMAGE) in every mixture inside `where`."""
    if task not in (REGION, IMAGE):
        raise ValueError(f"task must be REGION ({REGION}) or IMAGE ({IMAGE}), not {task!r}")
    for mixture in mixtures(where):
        mixture.task = task


def attach_adapters(llm: nn.Module, width: int, bottleneck: int, count: int) -> nn.ModuleList:
    """Put a mixture in parallel to every feed-forward sub-layer of a T5 or a Llama-like LLM.

    Returns the mixtures in the LLM's own order (T5: encoder blocks, then decoder blocks); the
    caller keeps them. Raises ValueError when the LLM has no such sub-layer, or adapters already.
    """
    if getattr(llm, "has_adapters", False):  # a second set of hooks would silently add up
        raise ValueError("this LLM already carries adapters; build it afresh")
    adapters = nn.ModuleList()
    for module in llm.modules():
        hook = _t5_hook if _is_t5_ffn(module) else _llama_hook if _is_llama_layer(module) else None
        if hook is not None:
            adapters.append(MixtureOfAdapters(width, bottleneck, count))
            hook(module, adapters[-1])
    if not adapters:
        raise ValueError(f"{type(llm).__name__} has no T5 or Llama feed-forward sub-layer")
    llm.has_adapters = True
    return adapters.to(next(llm.parameters()).device)


def _is_t5_ffn(module: nn.Module) -> bool:
    return hasattr(module, "DenseReluDense") and hasattr(module, "layer_norm")


def _is_llama_layer(module: nn.Module) -> bool:
    # Gemma 2 and 3 norm once more between attention and MLP: another residual form, left out.
    return (all(hasattr(module, name) for name in ("self_attn", "mlp", "post_attention_layernorm"))
            and not hasattr(module, "pre_feedforward_layernorm"))


def _added(output: Tensor, mixture: MixtureOfAdapters, x: Tensor) -> Tensor:
    # fp32 adapters beside a bf16 LLM: think in theirs, answer in its precision.
    return output + mixture(x.to(mixture.adapters[0].down.weight.dtype)).to(output.dtype)


def _t5_hook(ffn: nn.Module, mixture: MixtureOfAdapters) -> None:
    """T5LayerFF is the whole X + FFN(Norm(X)), so its input is X and its output takes the sum."""
    ffn.register_forward_hook(lambda _, inputs, output: _added(output, mixture, inputs[0]))


def _llama_hook(layer: nn.Module, mixture: MixtureOfAdapters) -> None:
    """The norm before the MLP sees X; what is added to the MLP's output joins the same residual."""
    held: list[Tensor] = []

    def keep(_, inputs: tuple) -> None:
        held[:] = inputs

    def add(_, inputs: tuple, output: Tensor) -> Tensor:
        return _added(output, mixture, held.pop())  # popped: no graph outlives its step

    layer.post_attention_layernorm.register_forward_pre_hook(keep)
    layer.mlp.register_forward_hook(add)


@torch.no_grad()
def router_mix(adapters: nn.Module | Iterable[nn.Module], task: int) -> Tensor:
    """How much of each adapter a task takes: mean |G_k^t| over the width, [layers, K]."""
    rows = [torch.ones(1) if m.router is None else m.router[:, task].abs().mean(-1).cpu()
            for m in mixtures(adapters)]
    return torch.stack(rows)


def merge_stage_adapters(region: dict[str, Tensor], image: dict[str, Tensor]
                         ) -> dict[str, Tensor]:
    """The mixtures of LION stage 3 out of the trained tensors of stages 2 and 1.

    Both hold single adapters under 'adapters.LAYER.adapters.0.*'. The router starts as the
    identity, so at step 0 the region route is exactly the stage-2 adapter and the image route
    the stage-1 adapter (not in the official code; follows from its router init).
    """
    merged = {}
    for place, tensors in ((REGION, region), (IMAGE, image)):
        for name, tensor in tensors.items():
            if name.startswith("adapters."):
                layer, rest = name.split(".adapters.0.")
                merged[f"{layer}.adapters.{place}.{rest}"] = tensor
                width = region["adapters.0.adapters.0.up.bias"].shape
                merged[f"{layer}.router"] = torch.eye(2)[:, :, None].expand(2, 2, *width).clone()
    return merged


# ---- LoRA --------------------------------------------------------------------------------------
class LoRA(nn.Module):
    """A step of low rank beside one Linear: y = W x + alpha/r * up(down(dropout(x))).

    arXiv 2106.09685. Zero until trained, since `up` starts at zero. Fp32 beside any precision.
    """

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
