"""What will it cost? Parameters, memory and FLOPs of a stage, before anything is allocated.

    the preset's model on the meta device (sizes.py), what the stage trains unfrozen
        -> one forward and backward pass of shapes (passes.py)
             +- every tensor that autograd keeps for the backward pass -> activations
             +- every matrix product -> FLOPs

Memory is that of one process at its fullest: weights, gradients, AdamW's two moments and the
activations of one batch, all at once. Not counted: what lives for a moment inside one operation,
the allocator's gaps, and CUDA itself (about half a GiB). The frozen ViT is counted as looking at
every picture in every step; a published Lyrics' refiner runs beside the model and is not.

Under bf16 frozen parts are held in bf16 (the tiny preset holds them in fp32: a few MiB more) and
trained ones in fp32, of which autocast keeps a copy in bf16 during the pass. What the modules
themselves compute in fp32 (norms, the softmax of plain attention, the loss) is counted so.
Attention that PyTorch fuses is counted fused: it keeps no table of scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from lion_min import BadInput

from lion_min.pretrained import passes, sizes
from lion_min.pretrained.passes import Text
from lion_min.trainable import only_trainable

GIB = 2 ** 30


@dataclass(frozen=True)
class StageCost:
    """One stage of a preset. Memory in GiB of one process, FLOPs of one sample."""

    stage: int | str
    parts: dict[str, tuple[int, int]]      # part -> its parameters, those that train
    weights: float
    gradients: float
    moments: float
    activations: float
    forward: dict[str, float]              # FLOPs by part
    backward: float                        # FLOPs, with what checkpointing computes again
    tokens: int                            # of a sample, that the LLM reads; 0: no LLM
    samples: int                           # of one optimiser step, all processes

    @property
    def total(self) -> int:
        return sum(every for every, _ in self.parts.values())

    @property
    def trained(self) -> int:
        return sum(moving for _, moving in self.parts.values())

    @property
    def memory(self) -> float:
        return self.weights + self.gradients + self.moments + self.activations

    @property
    def flops(self) -> float:
        return sum(self.forward.values()) + self.backward


def plan(system: str, preset: str, stages: Iterable[int], batch: int, precision: str,
         accumulate: int = 1, checkpointing: bool = False, processes: int = 1,
         text: Text = Text()) -> list[StageCost]:
    """The cost of each stage. batch: samples of one pass of one process; precision: 'fp32' or
    'bf16'. BadInput for an unknown preset or stage, or a number below 1."""
    sizes.check(system, preset)
    for name, value in (("batch", batch), ("accumulate", accumulate), ("processes", processes)):
        if value < 1:
            raise BadInput(f"{name} {value!r}: must be at least 1")
    if precision not in ("fp32", "bf16"):
        raise BadInput(f"precision {precision!r}: must be fp32 or bf16")
    return [_stage(system, preset, number, batch, precision, accumulate, checkpointing, processes,
                   text) for number in stages]


def _stage(system: str, preset: str, number: int, batch: int, precision: str, accumulate: int,
           checkpointing: bool, processes: int, text: Text) -> StageCost:
    stage = sizes.stage_of(system, number)
    model = sizes.build(system, sizes.settings_of(system, preset, stage), stage).train()
    only_trainable(model, sizes.trains(system, model, stage))
    parts = by_part(model)
    moving = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - moving
    half = precision == "bf16"
    meter = Meter(model.bfloat16() if half else model)
    with torch.device("meta"), meter:
        loss, tokens = passes.step(system, model, stage, batch, text, meter.part)
        kept, ahead = meter.kept(checkpointing), meter.flops
        loss.backward()
    again = meter.repeated if checkpointing else 0
    return StageCost(
        number, parts, weights=(frozen * (2 if half else 4) + moving * 4) / GIB,
        gradients=moving * 4 * (1 if processes == 1 else 2) / GIB,  # DDP's buckets are a copy
        moments=moving * 8 / GIB, activations=(kept + moving * 2 * half) / GIB,
        forward={name: flops / batch for name, flops in meter.parts.items()},
        backward=(meter.flops - ahead + again) / batch, tokens=tokens,
        samples=batch * accumulate * processes)


def by_part(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameters of each child of the model, all and trained; a shared one counts once."""
    parts: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part, size = name.split(".")[0], parameter.numel()
        every, moving = parts.get(part, (0, 0))
        parts[part] = every + size, moving + size * parameter.requires_grad
    return parts


# ---- measuring ---------------------------------------------------------------------------------

class Meter:
    """Counts what passes inside its `with`: kept bytes, FLOPs, both also by layer."""

    def __init__(self, model: nn.Module):
        self.parts: dict[str, float] = {}
        self.bytes, self.layers = 0, []    # layers: (bytes of the input, bytes kept, FLOPs)
        self.model, self.counter = model, FlopCounterMode(display=False)
        tensors = (*model.parameters(), *model.buffers())
        self.seen = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}

    def __enter__(self) -> Meter:
        from transformers.modeling_layers import GradientCheckpointingLayer
        self.hooks = [hook for layer in self.model.modules()
                      if isinstance(layer, GradientCheckpointingLayer) for hook in (
                          layer.register_forward_pre_hook(self._enter_layer),
                          layer.register_forward_hook(self._leave_layer))]
        self.modes = [torch.autograd.graph.saved_tensors_hooks(self._keep, lambda t: t),
                      Fused(), self.counter]
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *error) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(*error)
        for hook in self.hooks:
            hook.remove()

    @property
    def flops(self) -> int:
        return self.counter.get_total_flops()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        before = self.flops
        yield
        self.parts[name] = self.flops - before

    def kept(self, checkpointing: bool) -> int:
        """Bytes between forward and backward. With checkpointing a layer keeps its input alone,
        and one layer at a time, at worst the largest, is computed again."""
        layers = [(given, inside) for given, inside, _ in self.layers if inside]
        if not checkpointing or not layers:
            return self.bytes
        saved = sum(inside - given for given, inside in layers)
        return self.bytes - saved + max(inside for _, inside in layers)

    @property
    def repeated(self) -> int:
        """FLOPs of the layers that checkpointing computes again."""
        return sum(flops for _, inside, flops in self.layers if inside)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen[storage._cdata] = storage  # held, or a later one might get its address
            self.bytes += storage.nbytes()
        return tensor

    def _enter_layer(self, layer: nn.Module, inputs: tuple) -> None:
        self.before = inputs[0].nbytes, self.bytes, self.flops

    def _leave_layer(self, layer: nn.Module, inputs: tuple, output) -> None:
        given, kept, flops = self.before
        self.layers.append((given, self.bytes - kept, self.flops - flops))


class Fused(TorchFunctionMode):
    """On the meta device PyTorch takes attention apart and keeps its scores; no other does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return _fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0,
           is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:
    if enable_gqa:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    if attn_mask is not None:              # [.., T, N], a float to add
        attn_mask = attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


# ---- telling -----------------------------------------------------------------------------------

def table(system: str, preset: str, stages: Iterable[int], batch: int, precision: str,
          accumulate: int = 1, checkpointing: bool = False, processes: int = 1,
          text: Text = Text()) -> str:
    """`plan` as text."""
    costs = plan(system, preset, stages, batch, precision, accumulate, checkpointing, processes,
                 text)
    head = f"{system} {preset}: batch {batch}, {precision}"
    head += ", checkpointing" * checkpointing + f", {processes} processes" * (processes > 1)
    columns = ("weights", "grads", "AdamW", "activ.", "GiB")
    lines = [f"{head}; {text.prompt} prompt and {text.answer} answer tokens a sample",
             f"{'stage':<6}{'all M':>10}{'trained M':>11}"
             + "".join(f"{name:>9}" for name in columns)
             + f"{'tokens':>8}{'TFLOP/sample':>14}{'samples/step':>14}"]
    for c in costs:
        memory = (c.weights, c.gradients, c.moments, c.activations, c.memory)
        lines.append(f"{c.stage:<6}{c.total / 1e6:>10,.1f}{c.trained / 1e6:>11,.2f}"
                     + "".join(f"{value:>9.2f}" for value in memory)
                     + f"{c.tokens:>8}{c.flops / 1e12:>14.4f}{c.samples:>14}")
    for c in costs:
        moving = (f"{name} {_short(some, 1e6)}" + f" of {_short(every, 1e6)}" * (some < every)
                  for name, (every, some) in c.parts.items() if some)
        frozen = (f"{name} {_short(every, 1e6)}" for name, (every, some) in c.parts.items()
                  if not some)
        done = (f"{name} {_short(flops, 1e9)}" for name, flops in c.forward.items() if flops)
        lines += [f"stage {c.stage}, M: trains {', '.join(moving)}; frozen {', '.join(frozen)}",
                  f"stage {c.stage}, GFLOP a sample: forward {', '.join(done)}; "
                  f"backward {_short(c.backward, 1e9)}"]
    return "\n".join(lines)


def _short(count: float, unit: float) -> str:
    return f"{count / unit:,.{1 if count >= unit else 3}f}"
