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
from lion_min.cli import LION
from lion_min.launch import Options, in_turn, lenient, load, one_of_all, stage_of, timed
from lion_min.parts import STAGE0, stage_name
from lion_min.scenes import WORLDS
from lion_min.tiny import stage0
from lion_min.training import device_of


def train_part(part: str, o: Options) -> None:
    """One part of stage 0."""
    o.check(system=LION, stage=0, part=part)
    labels = {"labels": o.labels} if part == "vision" and o.labels else {}
    stage0.train(part, o.out, o.world, o.seed, o.resume, device_of(o.device),
                 o.plan(stage0.PLANS[part]), init=o.init, batch=o.batch, **labels)


def train_parts(o: Options) -> None:
    """Stage 0, one part after another."""
    for part in stage0.PARTS:
        train_part(part, lenient(o, o.out / STAGE0 / part))


def train_all(o: Options, script: Path) -> None:
    """Every weight from nothing. What does not wait for each other runs in two processes: the
    ViT and the T5 beside the Llama, then stage 1 beside stage 2; stages 3 and 4 in this one."""
    o.check()
    o.scenes(stage_of(LION, 4))                  # a mistake in --data shows before stage 0
    minutes, apart = {}, (1, 2)
    with timed("0", minutes):
        side_by_side([[command(script, 0, o, part) for part in chain]
                      for chain in (("vision", "t5"), ("llama",))])
        side_by_side([[command(script, 0, o, "qformer")]])
    with timed("1 and 2", minutes):
        side_by_side([[command(script, number, o)] for number in apart])
    in_turn(LION, (3, 4), o, minutes, {f"stage {n}": scores_of(o, n) for n in apart})


def scores_of(o: Options, number: int) -> dict:
    """The scores of a finished stage, on the held-out scenes that every stage is scored on."""
    system = load(LION, o.out / LION / stage_name(number), o.device)
    return system.score(WORLDS[o.world], o.seed)


def command(script: Path, number: int, o: Options, part: str | None = None) -> list[str]:
    """The command that trains one stage, or one part of stage 0, as these options say."""
    o = lenient(o, o.out / STAGE0 / part) if part else one_of_all(LION, number, o)
    only = {"labels": o.labels if part == "vision" else None} if part else {
        "data": o.data, "format": o.form, "accumulate": o.accumulate}
    flags = {"stage": number, "part": part, "out": o.out, "world": o.world, "seed": o.seed,
             "device": o.device, "steps": o.steps, "lr": o.lr, "precision": o.precision,
             "batch-size": o.batch} | only
    return [sys.executable, str(script),
            *(f"--{name}={value}" for name, value in flags.items() if value is not None),
            *["--resume"] * o.resume, *["--checkpointing"] * (o.checkpointing and not part)]


def side_by_side(chains: list[list[list[str]]]) -> None:
    """Run chains of commands beside each other, one thread each.

    Ends with the exit code of the first that fails, whose own line stands on stderr. Whatever
    ends this early (Ctrl-C, SIGTERM, a failure) stops the others, which save before they go.
    """
    waiting, running = [deque(chain) for chain in chains], {}
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while running or any(waiting):
            for line, queue in enumerate(waiting):
                if queue and line not in running:
                    # tqdm reads its line from the environment: one bar under the other
                    env = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_POSITION": str(line)}
                    running[line] = subprocess.Popen(queue.popleft(), env=env)
            for line, child in list(running.items()):
                if child.poll() is not None:
                    check_end(running.pop(line))
            time.sleep(0.1)
    finally:
        for child in running.values():
            child.terminate()
        for child in running.values():
            child.wait()
        signal.signal(signal.SIGTERM, old)


def check_end(child: subprocess.Popen) -> None:
    """BadInput or SystemExit where a process failed."""
    if child.returncode < 0:                       # it had no chance to say so itself
        raise BadInput(f"a training process was ended by signal {-child.returncode}; go on with --resume")
    if child.returncode:
        raise SystemExit(child.returncode)
