"""What trains, at which rate, what stays frozen, and what the backward pass computes anew."""

import copy
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from types import MethodType

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lion_min import BadInput


def matches(name: str, prefix: str) -> bool:
    """'qformer' takes qformer.query, not qformer_head.bias; '*.adapters.image' every block's."""
    return fnmatchcase(name, prefix) or fnmatchcase(name, f"{prefix}.*")


def only_trainable(model: nn.Module, prefixes: Collection[str]) -> list[str]:
    """Sets requires_grad under `prefixes`, clears it elsewhere; returns the trainable names."""
    idle, names = set(prefixes), []
    for name, parameter in model.named_parameters():
        under = {prefix for prefix in prefixes if matches(name, prefix)}
        idle -= under
        if parameter.requires_grad_(bool(under)).requires_grad:
            names.append(name)
    if idle:  # a typing error must not train less in silence
        raise ValueError(f"no parameter is under {sorted(idle)}")
    return names


def freeze(module: nn.Module) -> nn.Module:
    """No gradients and no dropout, for ever; modules put inside afterwards (adapters) still
    follow `model.train()` and `model.eval()`."""
    module.requires_grad_(False).eval()
    for part in module.modules():
        part.train = MethodType(_train_children_only, part)
    return module


def start_at_zero(layer: nn.Linear) -> nn.Linear:
    """The layer with weight and bias at zero: until it has learnt, it adds nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _train_children_only(self: nn.Module, mode: bool = True) -> nn.Module:
    for child in self.children():
        child.train(mode)
    return self


def halve_frozen(*parts: nn.Module) -> None:
    """Hold a pretrained part in bf16 where none of it trains: half the memory."""
    for part in parts:
        if not any(p.requires_grad for p in part.parameters()):
            part.to(torch.bfloat16)


def parameter_groups(model: nn.Module, weight_decay: float,
                     lr_scale: dict[str, float]) -> list[dict]:
    """AdamW's groups: (decay or not) x lr_scale, with names. The longest matching prefix counts."""
    groups, used = {}, set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            prefix = max((p for p in lr_scale if matches(name, p)), key=len, default=None)
            used.add(prefix)
            scale = 1.0 if prefix is None else lr_scale[prefix]
            decay = weight_decay if parameter.ndim >= 2 else 0.0  # norms, biases are vectors
            group = {"params": [], "weight_decay": decay, "scale": scale}
            groups.setdefault((decay, scale), group)["params"].append((name, parameter))
    if idle := set(lr_scale) - used:
        raise ValueError(f"lr_scale names no trainable parameter: {sorted(idle)}")
    return list(groups.values())


def count_parameters(parts: dict[str, nn.Module]) -> str:
    """A table of trainable and all parameters by part; a shared parameter counts once in all."""
    seen: dict[nn.Parameter, None] = {}
    rows = [f"{'part':<24}{'trainable':>14}{'all':>14}"]
    for name, parameters in [(n, [*m.parameters()]) for n, m in parts.items()] + [("all", seen)]:
        moving = sum(p.numel() for p in parameters if p.requires_grad)
        rows.append(f"{name:<24}{moving:>14,}{sum(p.numel() for p in parameters):>14,}")
        seen |= dict.fromkeys(parameters)
    return "\n".join(rows)


# ---- transformers' layers ------------------------------------------------------------------
def layers_of(model: nn.Module, wanted_by: str) -> list[nn.Module]:
    """Every transformers layer in `model`; BadInput, which names the option, where there is none."""
    from transformers.modeling_layers import GradientCheckpointingLayer
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise BadInput(f"{wanted_by}: this stage's model has no transformers layer; leave it out")
    return layers


def layer_number(layer: nn.Module) -> int:
    """The layer's place in a key-value cache."""
    numbers = (getattr(part, "layer_idx", None) for part in layer.modules())
    return next((n for n in numbers if n is not None), 0)


# ---- gradient checkpointing ----------------------------------------------------------------
def checkpoint_layers(model: nn.Module) -> None:
    """Every transformers layer in `model` keeps its input alone and runs again in backward.

    A frozen LLM needs that as much as a trained one: the gradient passes through all its layers
    to what stands before it. transformers' own switch works in train mode only, where a frozen
    LLM would drop out. Adapters and LoRA hang inside the layers and run again with them.
    """
    for layer in layers_of(model, "checkpointing"):
        layer.forward = _run_again(layer.forward, layer_number(layer))


def _run_again(forward: Callable, number: int) -> Callable:
    """The forward of an LLM's layer `number`, keeping nothing for backward but what it is given."""
    from transformers import EncoderDecoderCache

    def run(*states, **options):
        if not torch.is_grad_enabled():
            return forward(*states, **options)
        if isinstance(options.get("past_key_values"), EncoderDecoderCache):
            options["past_key_values"] = None  # T5 makes one unasked; in training nobody reads it
        once, again = iter([options]), dict(options)
        if (cache := options.get("past_key_values")) is not None:  # an image's, or of a first pass
            again["past_key_values"] = _as_it_is(cache, number)
        return checkpoint(lambda *x: forward(*x, **next(once, again)), *states,
                          use_reentrant=False)

    return run


def _as_it_is(cache, number: int):
    """The key-value cache as layer `number` finds it: the first run extends the real one."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) if i == number else None
                   for i, layer in enumerate(cache.layers)]
    return twin
