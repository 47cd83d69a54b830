"""A few steps of a system's real stage, what they moved, and its systems by name."""

from dataclasses import replace
from pathlib import Path

import pytest

from lion_min import launch, scores, trainable, training
from lion_min.stage import Stage
from lion_min.system import System

SCORES = dict.fromkeys(scores.ROWS, 0.5) | {"vqa_by_type": dict.fromkeys(scores.VQA, 0.5)}


def few_steps(system: str, stage: Stage, out: Path, init: Path | None = None,
              **options) -> tuple[dict, dict]:
    """Every parameter of the stage's model before and after every round twice; no questions scored.

    Behind a layer of zeros a part learns a step late."""
    snapshots, run = [], training.run
    plan = replace(stage.plan, steps=max(4, 2 * len(stage.rounds)), warmup=0)

    def running(model, *arguments):
        snapshots.append({n: p.detach().clone() for n, p in model.named_parameters()})
        run(model, *arguments)
        snapshots.append({n: p.detach().clone() for n, p in model.named_parameters()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "run", running)
        patch.setattr(scores, "evaluate", lambda *a, **k: SCORES)
        launch.train_stage(system, stage.number,
                           launch.Options(out, device="cpu", batch=4, init=init), stage,
                           **{"plan": plan, "pool": 16, "checks": 4, "quiet": True} | options)
    return tuple(snapshots)


def trains(stage: Stage, names) -> set[str]:
    """The parameters that the stage trains."""
    return {n for n in names if any(trainable.matches(n, t) for t in stage.trains)}


def untrained(system: str, stage: Stage, out: Path) -> System:
    """The system of a stage around the frozen parts of OUT."""
    return launch.module_of(system, "system").SYSTEM(launch.parts_for(out), stage)


def opened(folder: Path) -> System:
    """The system of OUT/<system>/stageN."""
    return launch.load(folder.parent.name, folder, "cpu")
