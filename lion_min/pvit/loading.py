"""A trained PVIT from a run's folder, ready to be asked."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from lion_min.frozen import WEIGHTS
from lion_min.loading import checked_config, load_trained
from lion_min.pvit import stages
from lion_min.pvit.answering import PvitSystem

STAGES = {1: "stage1", 2: "stage2"}
BUNDLED = WEIGHTS / "pvit" / "stage2"


def stage_of(number: int) -> stages.PvitStage:
    """The Stage that a stage script declares."""
    return import_module(f"lion_min.pvit.{STAGES[number]}").STAGE


def read_config(weights: Path | None) -> dict:
    """The settings of a run's folder (None: the bundled stage 2), checked."""
    return checked_config("pvit", tuple(STAGES), Path(weights or BUNDLED))


def load_system(weights: Path | None = None, device="cpu") -> PvitSystem:
    """The system of OUT/pvit/stageN (None: the bundled stage 2), every tensor accounted for.

    Stage 0 comes from OUT/lion/stage0 beside it, or from the bundled one. Raises BadInput for a
    folder that is missing, damaged or foreign.
    """
    where = Path(weights or BUNDLED).resolve()
    config = read_config(where if weights else None)
    stage = stage_of(config["stage"])
    model, tagger, tokenizer = stages.build(stage.representation, where.parents[1])
    load_trained(model, stage.trains, where, config, tagger)
    return PvitSystem(model.to(device), tokenizer, tagger.to(device))
