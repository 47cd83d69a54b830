"""A toy training run with dropout, for test_training.py, test_resume.py and test_parallel.py."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lion_min import BadInput, checkpoints, trainable, training
from lion_min.training import Plan

CONFIG = {"system": "lion", "stage": 2, "preset": "tiny"}


def toy() -> nn.Module:
    """Dropout, a frozen layer, and a part that only the first shard of odd steps uses."""
    torch.manual_seed(7)
    model = nn.ModuleDict({"frozen": nn.Linear(4, 8), "norm": nn.LayerNorm(8), "drop": nn.Dropout(),
                           "head": nn.Linear(8, 1), "odd": nn.Linear(8, 1)})
    trainable.freeze(model["frozen"])
    return model


def train(out: Path, stop_at: int | None = None, hold: int | None = None, resume: bool = False,
          poison: int | None = None, at: int = 0, refuse: int | None = None, **changed) -> nn.Module:
    """12 steps on data drawn from the step's number; Ctrl-C at `stop_at`, NaN at `poison`, both in
    shard `at`; BadInput at `refuse`, likewise.

    Step `hold` waits for a file named "go" beside `out`, so that a signal falls into that step.
    """
    plan = Plan(**{"steps": 12, "lr": 0.05, "warmup": 3, "save_every": 5} | changed)
    model = toy().eval()  # as a scoring before the training leaves it

    def step_loss(step: int, shard: int = 0):
        drawn = torch.Generator().manual_seed(step + 1000 * shard)
        x = torch.randn(6, 4, generator=drawn)  # [B, 4]
        h = model["drop"](model["norm"](model["frozen"](x)))
        y = model["head"](h) + (model["odd"](h) if step % 2 and shard == 0 else 0)
        poisoned = (step, shard) == (poison, at)
        fit = (y.squeeze(1) - x.sum(1)).square().mean() * (float("nan") if poisoned else 1)
        if (step, shard) == (refuse, at):
            raise BadInput(f"picture {step}: damaged")
        if (step, shard) == (stop_at, at):
            os.kill(os.getpid(), signal.SIGINT)
        while step == hold and not (out.parent / "go").exists():
            time.sleep(0.01)
        return fit + 0.1, {"fit": fit, "constant": 0.1}

    training.run(model, step_loss, plan, out, CONFIG, resume=resume, quiet=True)
    return model


def log(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


def same_run(a: Path, b: Path) -> None:
    """Weights, moments, RNG and log are equal bit for bit."""
    for name in (checkpoints.MODEL, checkpoints.STATE):
        one, two = checkpoints.load_tensors(a / name), checkpoints.load_tensors(b / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert log(a) == log(b) and [line["step"] for line in log(a)] == list(range(12))


@pytest.fixture
def whole(tmp_path) -> Path:
    """An uninterrupted run."""
    train(tmp_path / "whole")
    return tmp_path / "whole"
