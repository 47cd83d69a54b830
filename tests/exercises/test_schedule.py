"""Checks schedule.py against training.learning_rate and stage.row_sampler."""

import random
from types import SimpleNamespace

from checking import check

from lion_min.stage import ROUNDS, Stage, row_sampler
from lion_min.training import Plan, learning_rate


def test_learning_rate(student):
    plan = Plan(steps=100, lr=2e-3, min_lr=1e-4, warmup=10)
    for step in (0, 4, 9, 10, 55, 99, 100):
        got, want = student.learning_rate(step, 100, 2e-3, 1e-4, 10), learning_rate(step, plan)
        check(abs(got - want) < 1e-9, f"step {step} of 100, 10 of them warm-up: the rate should be "
              f"{want:.3g}, not {got:.3g}")


def test_allowed(student):
    counts = [1, 4, 2, 3]
    stage = Stage(number=1, trains=(), plan=Plan(9, 1.0), rounds=("vqa",), curriculum_steps=5)
    draw = row_sampler(stage, [SimpleNamespace(objects=[0] * count, samples=()) for count in counts], 200)
    for step in (0, 4, 5, 8):
        got = sorted(student.allowed(counts, step, 5))
        want = sorted({*draw(ROUNDS["vqa"], step, random.Random(0))})
        check(got == want, f"step {step} with a curriculum of 5 steps draws from the scenes {want} of "
              f"{counts} objects, not from {got}")
