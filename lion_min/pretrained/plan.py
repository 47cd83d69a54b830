"""Estimates parameters, memory and FLOPs of a preset's stages before anything is allocated.

Parameters are those of the model on the meta device. The rest is arithmetic on its modules, from
the T tokens of a sample that pass each of them (meta_models.py):

    matrix of W weights       2 W T forward; backward 2 W T for its input, 2 W T for its weights
    attention, K keys, D wide 4 T K D forward, twice as much backward

So a trained module costs 6 W T, a frozen one that a gradient passes 4 W T, one before all that
trains (the ViT) 2 W T; checkpointing adds the layers' forward. Autograd keeps what a matrix gives
and what a trained one is given, a norm's input in fp32, scores that are not fused, the logits;
with checkpointing each layer's input and the inside of one layer. Frozen weights are bf16 under
bf16, trained ones fp32, of which autocast makes a copy. Not counted: what lives inside one
operation, the allocator's gaps, CUDA (about half a GiB), a published Lyrics' refiner.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from lion_min import BadInput
from lion_min.pretrained.meta_models import ANSWER, PROMPT, build, tokens

GIB = 2 ** 30
# Matrices whose output is added to a residual, which a norm keeps; is kept before and behind the
# activation function; that read the input of another one (under autocast each a copy of its own).
ADDED = ("out", "o", "o_proj", "out_proj", "wo", "down_proj", "fc2")
GATES = ("gate_proj", "wi_0")
BESIDE = ("key", "value", "k", "v", "k_proj", "v_proj", "up_proj", "wi_1")


@dataclass(frozen=True)
class StageCost:
    """One stage of a preset. Memory in GiB of one process, FLOPs of one sample."""

    stage: int
    parts: dict[str, tuple[int, int]]      # part -> its parameters, those that train
    weights: float
    gradients: float
    moments: float
    activations: float
    forward: dict[str, float]              # FLOPs by part
    backward: float                        # FLOPs, with what checkpointing computes again
    tokens: int                            # of a sample, that the LLM reads; 0: no LLM
    samples: int                           # of one optimiser step
    total = property(lambda self: sum(every for every, _ in self.parts.values()))
    trained = property(lambda self: sum(moving for _, moving in self.parts.values()))
    flops = property(lambda self: sum(self.forward.values()) + self.backward)
    memory = property(lambda self: self.weights + self.gradients + self.moments + self.activations)


def plan(system: str, preset: str, stages: Iterable[int], batch: int, precision: str,
         accumulate: int = 1, checkpointing: bool = False) -> list[StageCost]:
    """The cost of each stage. batch: samples of one pass; precision: 'fp32' or 'bf16'.
    BadInput for an unknown preset or stage, or a number below 1."""
    for name, value in (("batch", batch), ("accumulate", accumulate)):
        if value < 1:
            raise BadInput(f"{name} {value!r}: must be at least 1")
    if precision not in ("fp32", "bf16"):
        raise BadInput(f"precision {precision!r}: must be fp32 or bf16")
    costs, size = [], 2 if precision == "bf16" else 4
    for number in stages:
        model = build(system, preset, number)
        parts, rules = by_part(model), tokens(system, model.settings, number)
        moving = sum(some for _, some in parts.values())
        frozen = sum(every for every, _ in parts.values()) - moving
        forward, backward, kept = work(model, rules, size, preset != "tiny", checkpointing)
        costs.append(StageCost(
            number, parts, weights=(frozen * size + moving * 4) / GIB, gradients=moving * 4 / GIB,
            moments=moving * 8 / GIB, forward=forward, backward=backward, tokens=rules["LLM"],
            activations=(kept * batch + moving * 2 * (size == 2)) / GIB,
            samples=batch * accumulate))
    return costs


def by_part(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameters of each child of the model, all and trained; a shared one counts once."""
    parts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part, size = name.split(".")[0], parameter.numel()
        every, moving = parts.get(part, (0, 0))
        parts[part] = every + size, moving + size * parameter.requires_grad
    return parts


# ---- what they cost ------------------------------------------------------------------------------

def work(model: nn.Module, rules: dict[str, int], size: int, fused: bool, checkpointing: bool
         ) -> tuple[dict[str, float], float, float]:
    """Of a sample: FLOPs forward by part, FLOPs backward, bytes kept. size: bytes of a number;
    fused: the LLM's attention keeps no scores."""
    from transformers.modeling_layers import GradientCheckpointingLayer
    passed = {"llm"} | {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    forward, inside, layer, given, backward = Counter(), Counter(), "-", 0, 0
    for name, module in model.named_modules():
        part = name.split(".")[0]
        flops, kept = _module(name, module, rules, size, fused and part == "llm")
        forward[part] += flops
        if part not in passed:
            continue
        if isinstance(module, GradientCheckpointingLayer):
            layer = name + "."
            norm = next(m for m in module.modules() if "Norm" in type(m).__name__)
            given += _tokens(rules, name) * norm.weight.numel() * size
        group = layer if name.startswith(layer) else part * (part in ("adapters", "loras"))
        inside[group] += kept
        matrix = isinstance(module, (nn.Linear, nn.Conv2d))
        both = module.weight.requires_grad if matrix else True
        backward += flops * (1 + both + checkpointing * bool(group))
    outside = inside.pop("", 0) + 4 * rules["logits"]
    beside = inside.pop("adapters", 0) + inside.pop("loras", 0)
    if checkpointing and inside:
        one = max(inside.values()) + beside / len(inside)
        return dict(forward), backward, outside + given + one
    return dict(forward), backward, outside + beside + sum(inside.values())


def _module(name: str, module: nn.Module, rules: dict[str, int], size: int, fused: bool
            ) -> tuple[float, float]:
    """(FLOPs forward, bytes kept for backward) of a module's own work, without its children."""
    T, own = _tokens(rules, name), name.rsplit(".", 1)[-1]
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        kept = len(module.weight) * (0 if own in ADDED else 1 + (own in GATES))
        if module.weight.requires_grad and (size == 2 or own not in BESIDE):
            kept += module.weight[0].numel()
        return 2 * module.weight.numel() * T, T * size * kept
    if "Norm" in type(module).__name__:
        twice = "RMS" in type(module).__name__ and module.weight.requires_grad
        return 0, T * module.weight.numel() * (4 + size * twice)
    query, key = next(((q, k) for q, k in (("query", "key"), ("q_proj", "k_proj"), ("q", "k"),
                                           ("qkv", "qkv")) if hasattr(module, k)), ("", ""))
    if not key:
        return 0, 0
    T, K = _tokens(rules, f"{name}.{query}"), _tokens(rules, f"{name}.{key}") / rules["passes"]
    width = getattr(module, query).out_features // (3 if key == "qkv" else 1)
    heads = next((getattr(module, n) for n in ("heads", "num_heads", "n_heads")
                  if hasattr(module, n)), 0) or module.config.num_attention_heads
    # Behind a KV cache, the shared tokens attend to each other, the others to all.
    P = rules.get("shared", 0) if name.startswith("llm") else 0
    pairs = P * P + (T - P) * K
    scores = pairs * heads * (4 if size == 4 else 6)        # the softmax is fp32, its copy bf16
    return 4 * pairs * width, T * size * width if fused else scores


def _tokens(rules: dict[str, int], name: str) -> int:
    return next((count for pattern, count in rules.items() if re.match(pattern, name)), 0)


# ---- the table -----------------------------------------------------------------------------------

def table(system: str, preset: str, stages: Iterable[int], batch: int, precision: str,
          accumulate: int = 1, checkpointing: bool = False) -> str:
    """`plan` as text."""
    costs = plan(system, preset, stages, batch, precision, accumulate, checkpointing)
    head = f"{system} {preset}: batch {batch}, {precision}" + ", checkpointing" * checkpointing
    columns = "".join(f"{n:>9}" for n in ("weights", "grads", "AdamW", "activ.", "GiB"))
    lines = [f"{head}; {PROMPT} prompt and {ANSWER} answer tokens a sample",
             f"{'stage':<6}{'all M':>10}{'trained M':>11}{columns}{'tokens':>8}"
             f"{'TFLOP/sample':>14}{'samples/step':>14}"]
    for c in costs:
        memory = (c.weights, c.gradients, c.moments, c.activations, c.memory)
        lines.append(f"{c.stage:<6}{c.total / 1e6:>10,.1f}{c.trained / 1e6:>11,.2f}"
                     + "".join(f"{value:>9.2f}" for value in memory)
                     + f"{c.tokens:>8}{c.flops / 1e12:>14.4f}{c.samples:>14}")
    for c in costs:
        moving = (f"{name} {_short(some, 1e6)}" + f" of {_short(every, 1e6)}" * (some < every)
                  for name, (every, some) in c.parts.items() if some)
        frozen = (f"{n} {_short(every, 1e6)}" for n, (every, some) in c.parts.items() if not some)
        done = (f"{name} {_short(flops, 1e9)}" for name, flops in c.forward.items() if flops)
        lines += [f"stage {c.stage}, M: trains {', '.join(moving)}; frozen {', '.join(frozen)}",
                  f"stage {c.stage}, GFLOP a sample: forward {', '.join(done)}; "
                  f"backward {_short(c.backward, 1e9)}"]
    return "\n".join(lines)


def _short(count: float, unit: float) -> str:
    return f"{count / unit:,.{1 if count >= unit else 3}f}"
