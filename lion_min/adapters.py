"""Bottleneck adapters beside a frozen LLM's feed-forward nets, and LION's mixture of two.

LION eq. for one FFN sub-layer with un-normalised input X and task t (official lion_adapters.py,
`forward_ffn_t5`; the paper calls the gates "router"):

    O^t = X + FFN(Norm(X)) + sum_k G_k^t * H_k(X)          G_k^t in R^D, H_k a bottleneck adapter

The router is no network: the gates are free vectors chosen by the task alone, one task a batch. The
adapters are in a ModuleList of the caller; the LLM gets forward hooks alone, and its parameters,
names and checkpoints stay as they were.

Shapes: S samples, T tokens, D width, r bottleneck, K adapters (1 or 2), 2 tasks.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REGION, IMAGE = 0, 1  # the task t; also the index of the adapter that its gates start with


class Adapter(nn.Module):
    """H(X) = s (W_up ReLU(W_down X)), s a learnable number. Zero until trained. [*,D] -> [*,D]."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x))) * self.scale


def identity_router(width: int) -> Tensor:
    """[K,2,D] at the start: each task takes all of one adapter, nothing of the other."""
    return torch.eye(2)[:, :, None].expand(2, 2, width).clone()


class MixtureOfAdapters(nn.Module):
    """sum_k G_k^t * H_k(X): `router` [K,2,D] holds G_k^t at [k,t] and starts as the identity.

    So adapter 0 begins as the region-level one, adapter 1 as the image-level one (officially
    router_ratio1 and router_ratio2). count == 1: a single adapter, no router, any task."""

    def __init__(self, width: int, bottleneck: int, count: int):
        super().__init__()
        if count not in (1, 2):
            raise ValueError(f"a mixture has 1 or 2 adapters, not {count}")
        self.adapters = nn.ModuleList(Adapter(width, bottleneck) for _ in range(count))
        self.register_parameter(
            "router", nn.Parameter(identity_router(width)) if count == 2 else None)
        self.task: int | None = None  # REGION or IMAGE, see set_task

    def forward(self, x: Tensor) -> Tensor:
        """[S,T,D] -> [S,T,D]. With two adapters a task must have been set: no silent default."""
        if self.router is None:
            return self.adapters[0](x)
        if self.task is None:
            raise RuntimeError("set_task(adapters, REGION or IMAGE) must come before the LLM runs")
        gates = self.router[:, self.task]                                        # [K, D]
        return sum(gate * adapter(x) for gate, adapter in zip(gates, self.adapters))


def mixtures(roots: nn.Module | Iterable[nn.Module]) -> list[MixtureOfAdapters]:
    """Every mixture inside a module or a list of modules, in order, each once."""
    roots = [roots] if isinstance(roots, nn.Module) else roots
    return list(dict.fromkeys(m for root in roots for m in root.modules()
                              if isinstance(m, MixtureOfAdapters)))


def set_task(roots: nn.Module | Iterable[nn.Module], task: int) -> None:
    """Route the next batches as `task` (REGION or IMAGE) in every mixture inside `roots`."""
    if task not in (REGION, IMAGE):
        raise ValueError(f"task must be REGION ({REGION}) or IMAGE ({IMAGE}), not {task!r}")
    for mixture in mixtures(roots):
        mixture.task = task


def attach_adapters(llm: nn.Module, width: int, bottleneck: int, count: int) -> nn.ModuleList:
    """Put a mixture in parallel to every feed-forward sub-layer of a T5 or a Llama-like LLM.

    Returns the mixtures in the order of the layers (T5: encoder, then decoder); the caller keeps
    them. ValueError when the LLM has no such sub-layer, or adapters already."""
    if getattr(llm, "has_adapters", False):  # a second set of hooks would silently add up
        raise ValueError("this LLM already carries adapters; build it afresh")
    adapters = nn.ModuleList()
    for module in llm.modules():
        names = {name for name, _ in module.named_children()}
        hook = (_t5_hook if names >= {"DenseReluDense", "layer_norm"} else
                _llama_hook if names >= {"self_attn", "mlp", "post_attention_layernorm"} else None)
        if hook is not None:
            adapters.append(MixtureOfAdapters(width, bottleneck, count))
            hook(module, adapters[-1])
    if not adapters:
        raise ValueError(f"{type(llm).__name__} has no T5 or Llama feed-forward sub-layer")
    llm.has_adapters = True
    return adapters.to(next(llm.parameters()).device)


def _added(output: Tensor, mixture: MixtureOfAdapters, x: Tensor) -> Tensor:
    # fp32 adapters beside a bf16 LLM: computed in their precision, added in the LLM's.
    return output + mixture(x.to(mixture.adapters[0].down.weight.dtype)).to(output.dtype)


def _t5_hook(ffn: nn.Module, mixture: MixtureOfAdapters) -> None:
    """T5LayerFF is the whole X + FFN(Norm(X)), so its input is X and its output takes the sum."""
    ffn.register_forward_hook(lambda _, inputs, output: _added(output, mixture, inputs[0]))


def _llama_hook(layer: nn.Module, mixture: MixtureOfAdapters) -> None:
    """The norm before the MLP gets X; the MLP's output joins the same residual. Gemma's layer norms
    before and behind the MLP, so its second norm's output is what joins."""
    held: list[Tensor] = []
    before = getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm)
    last = getattr(layer, "post_feedforward_layernorm", layer.mlp)

    def keep(_, inputs: tuple) -> None:
        held[:] = inputs

    before.register_forward_pre_hook(keep)
    # popped: no graph outlives its step
    last.register_forward_hook(lambda _, inputs, out: _added(out, mixture, held.pop()))


def merge_stage_adapters(region: dict[str, Tensor], image: dict[str, Tensor]
                         ) -> dict[str, Tensor]:
    """The mixtures of LION stage 3 out of the trained tensors of stages 2 and 1.

    Both hold single adapters under 'adapters.LAYER.adapters.0.*'. The router starts as the
    identity, so at step 0 each route is its stage's adapter (not in the official code)."""
    merged = {}
    for index, tensors in ((REGION, region), (IMAGE, image)):
        for name, tensor in tensors.items():
            if name.startswith("adapters."):
                layer, rest = name.split(".adapters.0.")
                merged[f"{layer}.adapters.{index}.{rest}"] = tensor
                if rest == "up.bias":                                            # [D]
                    merged[f"{layer}.router"] = identity_router(len(tensor))
    return merged
