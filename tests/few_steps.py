"""A few steps of a room's real stage, and what they moved; for test_rooms.py, test_lyrics_stages.py
and test_pvit_cli.py."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from lion_min import scores, trainable, training
from lion_min.stage import Stage

SCORES = {"vqa_by_type": dict.fromkeys(scores.VQA, 0.0)}


def few_steps(system: str, stage: Stage, out: Path, **options) -> tuple[dict, dict]:
    """Every parameter of the stage's model before and after every round twice; no questions scored.

    Behind a layer of zeros a part learns a step late."""
    seen, run = [], training.run
    plan = replace(stage.plan, steps=max(4, 2 * len(stage.rounds)), warmup=0)

    def running(model, *arguments):
        seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
        run(model, *arguments)
        seen.append({n: p.detach().clone() for n, p in model.named_parameters()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "run", running)
        patch.setattr(scores, "evaluate", lambda *a, **k: SCORES)
        import_module(f"lion_min.{system}.stages").train(
            stage, out, plan=plan, batch=4, pool=16, checks=4, quiet=True, **options)
    return tuple(seen)


def trains(stage: Stage, names) -> set[str]:
    """The parameters that the stage trains."""
    return {n for n in names if any(trainable.matches(n, t) for t in stage.trains)}
