"""A few steps of a real stage on random frozen parts, and what they moved."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from few_steps import SCORES
from random_lion import write_stage0
from torch import nn

from lion_min import scores, training
from lion_min.lion import stages
from lion_min.lion.loading import stage_of

NUMBERS = (1, 2, 3, 4, "joint")


@dataclass
class Moves:
    """Every parameter and buffer of the LION and its tagger, before and after the steps."""

    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    parameters: set[str]

    def moved(self) -> set[str]:
        return {n for n, t in self.before.items() if not torch.equal(t, self.after[n])}


def train(stage: stages.LionStage, out: Path, resume: bool = False, **plan) -> Moves:
    """stages.train with 32 scenes, batches of 4 and no scoring."""
    # Every round twice where it can be: behind an up-projection of zero, down learns a step late.
    steps = max(3, len(stage.rounds))
    plan = replace(stage.plan, **{"steps": steps, "warmup": 0} | plan)
    whole, seen, build, run = nn.ModuleDict(), [], stages.build, training.run

    def building(*arguments, **options):
        model, tagger, tokenizer = build(*arguments, **options)
        whole.update({"tagger": tagger})
        return model, tagger, tokenizer

    def running(model, *arguments):
        whole.update({"model": model})
        seen.append(snapshot(whole))
        run(model, *arguments)
        seen.append(snapshot(whole))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "build", building)
        patch.setattr(training, "run", running)
        patch.setattr(scores, "evaluate", lambda *a, **k: SCORES)
        stages.train(stage, out, plan=plan, batch=4, pool=2 if stage.number == "joint" else 32,
                     resume=resume, quiet=True)
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
    shutil.copytree(trained[0], tmp_path / "out")
    return tmp_path / "out"
