"""A few steps of a real stage on random frozen parts, and what they moved."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from few_steps import SCORES
from random_lion import write_stage0
from torch import nn

from lion_min import launch, scores, training
from lion_min.lion.stages import LionStage

NUMBERS = (1, 2, 3, 4, "joint")


def stage_of(number: int | str) -> LionStage:
    return launch.stage_of("lion", number)


@dataclass
class Moves:
    """Every parameter and buffer of the LION and its tagger, before and after the steps."""

    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    parameters: set[str]

    def moved(self) -> set[str]:
        return {n for n, t in self.before.items() if not torch.equal(t, self.after[n])}


def train(stage: LionStage, out: Path, resume: bool = False, **plan) -> Moves:
    """launch.train_stage with 32 scenes, batches of 4 and no scoring."""
    # Every round twice where it can be: behind an up-projection of zero, down learns a step late.
    steps = max(3, len(stage.rounds))
    plan = replace(stage.plan, **{"steps": steps, "warmup": 0} | plan)
    whole, seen, run_stage, run = nn.ModuleDict(), [], launch.run_stage, training.run

    def starting(system, options):
        whole.update({"tagger": system.tagger, "model": system.model})
        return run_stage(system, options)

    def running(model, *arguments):
        seen.append(snapshot(whole))
        run(model, *arguments)
        seen.append(snapshot(whole))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "run_stage", starting)
        patch.setattr(training, "run", running)
        patch.setattr(scores, "evaluate", lambda *a, **k: SCORES)
        launch.train_stage("lion", stage.number,
                           launch.Options(out, device="cpu", batch=4, resume=resume), stage,
                           plan=plan, pool=2 if stage.number == "joint" else 32, quiet=True)
    return Moves(*seen, {n.removeprefix("model.") for n, _ in whole.named_parameters()})


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name.removeprefix("model."): t.detach().clone() for name, t in held.items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """(OUT with stage 0 and every stage after a few steps, {stage: its Moves})."""
    out = tmp_path_factory.mktemp("stages")
    write_stage0(out)
    return out, {number: train(stage_of(number), out) for number in NUMBERS}


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """An OUT of one's own to train in."""
    shutil.copytree(trained[0], tmp_path / "out",          # without it another run may begin there
                    ignore=shutil.ignore_patterns("state.safetensors"))
    return tmp_path / "out"
