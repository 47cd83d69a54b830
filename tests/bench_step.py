"""CPU seconds of a training step here against another checkout, taken in turn.

    python tests/bench_step.py --old DIR        # DIR: a checkout to compare with

Each checkout has its own process, which keeps its models in memory and runs one step at a time, so
that what else the machine does meets both alike. Printed is new/old, the median of the steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
STEPS = [*(("lion", n) for n in (1, 2, 3)), ("pvit", 2), ("lyrics", 2), ("lmeye", 2), ("llama", 0)]


class Stop(BaseException):
    """Raised in the place of training, once all that a step needs is built."""


def build(name: str, number: int) -> tuple:
    """(model, step_loss, plan) that train.py hands to the loop: a stage with the bundled weights of
    what it starts from, on the scenes of a small folder."""
    import train
    from lion_min import training
    held = []

    def run(model, step_loss, plan, *rest, **options):
        held.append((model.train(), step_loss, plan))
        raise Stop

    training.run = run
    words = ["--stage", str(number), "--out", "nowhere", "--precision", os.environ["PRECISION"]]
    words += ["--part", name] if number == 0 else ["--system", name, "--data", os.environ["SCENES"]]
    with contextlib.suppress(Stop):
        train.main(words)
    return held[0]


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


def started(folder: Path, scenes: str) -> subprocess.Popen:
    """A checkout's process, which has built its models."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(folder.resolve()), "SCENES": scenes})
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{folder}: its stages could not be built")
    return process


def seconds(process: subprocess.Popen, *step) -> float:
    print(*step, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--old", type=Path, metavar="DIR", help="a checkout to compare with")
    p.add_argument("--steps", type=int, default=15, help="default: 15")
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="default: fp32")
    p.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.serve:
        return serve()
    os.environ["PRECISION"] = args.precision
    with tempfile.TemporaryDirectory() as scenes:
        subprocess.run([sys.executable, "-m", "lion_min.scenes", scenes, "--count", "64"],
                       check=True, cwd=HERE, stdout=subprocess.DEVNULL)
        sides = [started(folder, scenes) for folder in (HERE, args.old)]
    print(f"{'training step':<16}{'new ms':>8}{'old ms':>8}{'new/old':>9}")
    for name, number in STEPS:
        took = [[seconds(side, name, number, step) for side in sides]
                for step in range(1000, 1003 + args.steps)][3:]       # the first ones warm up
        new, old = (1e3 * statistics.median(column) for column in zip(*took))
        ratio = statistics.median(n / o for n, o in took)
        print(f"{f'{name} {number}':<16}{new:>8.0f}{old:>8.0f}{ratio:>9.2f}", flush=True)
    for side in sides:
        side.stdin.close()


if __name__ == "__main__":
    main()
