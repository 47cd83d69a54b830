"""From the command line's words to runs: stage 0's parts, or everything from nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from lion_min import BadInput
from lion_min.lion import stage0
from lion_min.options import Options, lenient, one_after_another, timed


def train_part(part: str, o: Options) -> None:
    """One part of stage 0."""
    labels = {"labels": o.labels} if part == "vision" and o.labels else {}
    stage0.train(part, plan=o.plan(stage0.PLANS[part]), **labels, **o.shared())


def train_parts(o: Options) -> None:
    """Stage 0, one part after another."""
    for part in stage0.PARTS:
        train_part(part, lenient(o, o.out / "lion" / "stage0" / part))


def train_all(o: Options, script: Path) -> None:
    """Every weight from nothing: stage 0 in two processes, then stages 1-4 in this one."""
    o.scenes()                                     # a mistake in --data shows before stage 0
    minutes = {}
    with timed("0", minutes):
        side_by_side([[part_command(script, part, o) for part in chain]
                      for chain in (("vision", "t5"), ("llama",))])
    one_after_another("lion", (1, 2, 3, 4), o, minutes)


def part_command(script: Path, part: str, o: Options) -> list[str]:
    """The command that trains one part of stage 0 as these options say."""
    o = lenient(o, o.out / "lion" / "stage0" / part)
    words = {"part": part, "out": o.out, "world": o.world, "seed": o.seed, "device": o.device,
             "steps": o.steps, "lr": o.lr, "precision": o.precision, "batch-size": o.batch,
             "labels": o.labels if part == "vision" else None}
    flags = [f"--{name}={value}" for name, value in words.items() if value is not None]
    return [sys.executable, str(script), "--stage=0", *flags, *["--resume"] * o.resume]


def side_by_side(chains: list[list[list[str]]]) -> None:
    """Run chains of commands beside each other, one thread each.

    Ends with the exit code of the first that fails, whose own line stands on stderr. Whatever
    ends this early (Ctrl-C, SIGTERM, a failure) stops the others, which save before they go.
    """
    waiting, running = [deque(chain) for chain in chains], {}
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while running or any(waiting):
            for place, queue in enumerate(waiting):
                if queue and place not in running:
                    # tqdm reads its line from the environment: one bar under the other
                    env = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_POSITION": str(place)}
                    running[place] = subprocess.Popen(queue.popleft(), env=env)
            for place, child in list(running.items()):
                if child.poll() is not None:
                    _ended(running.pop(place))
            time.sleep(0.1)
    finally:
        for child in running.values():
            child.terminate()
        for child in running.values():
            child.wait()
        signal.signal(signal.SIGTERM, old)


def _ended(child: subprocess.Popen) -> None:
    if child.returncode < 0:                       # it had no chance to say so itself
        raise BadInput(f"a training process was ended by signal {-child.returncode}; "
                       "go on with --resume")
    if child.returncode:
        raise SystemExit(child.returncode)
