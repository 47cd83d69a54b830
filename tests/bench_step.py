"""Seconds of a training step here against another checkout, taken in turn.

    python tests/bench_step.py --old DIR        # DIR: a checkout to compare with

Each checkout has its own process, which keeps its models in memory and runs one step at a time, so
that what else the machine does meets both alike. Printed is new/old, the median of the steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
STEPS = [*(("lion", n) for n in (1, 2, 3)), ("pvit", 2), ("lyrics", 2), ("lmeye", 2), ("llama", 0)]


class Stop(Exception):
    """Raised in the place of training, once all that a step needs is built."""


def captured(train, training) -> tuple:
    """(model, step_loss, plan) that a stage hands to the training loop."""
    held = []

    def run(model, step_loss, plan, *rest, **options):
        held.append((model.train(), step_loss, plan))
        raise Stop

    old, training.run = training.run, run
    try:
        train()
    except Stop:
        return held[0]
    finally:
        training.run = old


def build(name: str, number: int) -> tuple:
    """A stage with the bundled weights of what it starts from, a small pool, nothing written."""
    from importlib import import_module
    from lion_min import training
    out = Path("nowhere")
    if name == "llama":
        from lion_min.tiny import stage0
        return captured(lambda: stage0.train("llama", out), training)
    stage = import_module(f"lion_min.{name}.stage{number}")
    stages = import_module(f"lion_min.{name}.stages")
    spec = next(v for v in vars(stage).values() if type(v).__name__.endswith("Stage"))
    return captured(lambda: stages.train(spec, out, pool=64, checks=1), training)


def serve() -> None:
    """Answer every line 'name number step' with the seconds of that step."""
    import torch
    torch.set_num_threads(1)
    told, sys.stdout = sys.stdout, sys.stderr
    from lion_min import training
    runs = {}
    for name, number in STEPS:
        model, step_loss, plan = build(name, number)
        groups = [{"params": [p for p in model.parameters() if p.requires_grad], "scale": 1.0}]
        runs[name, str(number)] = torch.optim.AdamW(groups, 1e-6), step_loss, plan
    print("ready", file=told, flush=True)
    for line in sys.stdin:
        name, number, step = line.split()
        optimizer, step_loss, plan = runs[name, number]
        start = time.process_time()
        training._train_step(optimizer, step_loss, int(step), plan, torch.device("cpu"))
        print(json.dumps(time.process_time() - start), file=told, flush=True)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--old", type=Path, metavar="DIR")
    p.add_argument("--steps", type=int, default=15)
    p.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.serve:
        return serve()
    sides = {}
    for side, folder in (("new", HERE), ("old", args.old.resolve())):
        sides[side] = subprocess.Popen(
            [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(folder)})
    for process in sides.values():
        assert process.stdout.readline() == "ready\n"
    print(f"{'training step':<16}{'new ms':>8}{'old ms':>8}{'new/old':>9}")
    for name, number in STEPS:
        took = {side: [] for side in sides}
        for step in range(1000, 1003 + args.steps):
            for side, process in sides.items():
                print(name, number, step, file=process.stdin, flush=True)
                took[side].append(float(process.stdout.readline()))
        new, old = (took[side][3:] for side in ("new", "old"))        # the first ones warm up
        ratio = statistics.median(n / o for n, o in zip(new, old))
        print(f"{name + ' ' + str(number):<16}{1e3 * statistics.median(new):>8.0f}"
              f"{1e3 * statistics.median(old):>8.0f}{ratio:>9.2f}", flush=True)
    for process in sides.values():
        process.stdin.close()


if __name__ == "__main__":
    main()
