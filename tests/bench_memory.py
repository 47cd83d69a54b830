"""Is --plan right? `python tests/bench_memory.py PRESET SYSTEM STAGE ..` on one CUDA GPU

For each preset's stage the model of plan.py is made of random numbers on the GPU and takes
two steps as training does: its own forward, autocast, checkpointing, AdamW. Planned and measured
GiB side by side, the second step's seconds, and FLOPs a second by plan.py's count.
"""

import argparse
import gc
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch  # noqa: E402
from plan_inputs import loss  # noqa: E402
from torch import nn  # noqa: E402

from lion_min.pretrained import plan  # noqa: E402
from lion_min.pretrained.plan import build  # noqa: E402
from lion_min.trainable import checkpoint_layers, parameter_groups  # noqa: E402

BATCH = 8


def real(system: str, preset: str, number: int, device: str) -> nn.Module:
    """The model with numbers, frozen parts in bf16 and trained ones in fp32; ties stay tied."""
    model, made = build(system, preset, number).train(), {}

    def make(t: torch.Tensor) -> torch.Tensor:
        if id(t) not in made:
            keeps = t.requires_grad or not t.is_floating_point() or device == "cpu"
            kind = t.dtype if keeps else torch.bfloat16
            new = torch.zeros(t.shape, dtype=kind, device=device)
            if isinstance(t, nn.Parameter):
                new = nn.Parameter(new.normal_(0, 0.02), requires_grad=t.requires_grad)
            made[id(t)] = t, new                   # t is held: another might get its id
        return made[id(t)][1]

    for module in list(model.modules()):
        for table in (module._parameters, module._buffers):
            table |= {name: make(t) for name, t in table.items() if t is not None}
    if preset != "tiny" and hasattr(model, "llm"):     # as backbones.py loads it
        model.llm.model.set_attn_implementation("sdpa")
    checkpoint_layers(model)
    return model


def measure(system: str, preset: str, number: int, device: str) -> tuple[float, float]:
    """(GiB at the fullest, seconds of a step)."""
    model = real(system, preset, number, device)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.05, {}), 1e-4, fused=True)
    for _ in range(2):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            value = loss(system, model, BATCH, device)
        value.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return torch.cuda.max_memory_allocated() / plan.GIB if device == "cuda" else 0.0, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of stages: planned, measured.")
    parser.add_argument("asked", nargs="+", metavar="PRESET SYSTEM STAGE", help="triples of them")
    asked, device = parser.parse_args().asked, "cuda" if torch.cuda.is_available() else "cpu"
    if len(asked) % 3:
        parser.error(f"{len(asked)} words; give a preset, a system and a stage for each line")
    for preset, system, number in zip(asked[::3], asked[1::3], map(int, asked[2::3])):
        planned = plan.plan(system, preset, [number], BATCH, "bf16", checkpointing=True)[0]
        if device == "cuda":
            gc.collect()                           # the model before: modules hold each other
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        peak, seconds = measure(system, preset, number, device)
        print(f"{preset} {system} stage {number}: planned {planned.memory:.2f} GiB, "
              f"measured {peak:.2f}; "
              f"{seconds:.3f} s a step of {BATCH}, "
              f"{planned.flops * BATCH / seconds / 1e12:.1f} TFLOP/s", flush=True)


if __name__ == "__main__":
    main()
