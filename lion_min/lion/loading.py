"""A trained LION from a run's folder, ready to be asked."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from lion_min import BadInput, checkpoints
from lion_min.frozen import WEIGHTS
from lion_min.lion import stages
from lion_min.lion.answering import LionSystem
from lion_min.loading import checked_config, load_trained

STAGES = {1: "stage1", 2: "stage2", 3: "stage3", 4: "stage4", "joint": "joint"}
BUNDLED = WEIGHTS / "lion" / "stage4"


def stage_of(number: int | str) -> stages.LionStage:
    """The Stage that a stage script declares."""
    return import_module(f"lion_min.lion.{STAGES[number]}").STAGE


def read_config(weights: Path | None) -> dict:
    """The settings of a run's folder (None: the bundled stage 4), checked."""
    return checked_config("lion", tuple(STAGES), Path(weights or BUNDLED))


def load_system(weights: Path | None = None, device="cpu") -> LionSystem:
    """The system of OUT/lion/stageN (None: the bundled stage 4), every tensor accounted for.

    The frozen parts come from OUT/lion/stage0 beside it, or from the bundled stage 0. Raises
    BadInput for a folder that is missing, damaged or foreign.
    """
    where = Path(weights or BUNDLED).resolve()
    config = read_config(where if weights else None)
    stage = stage_of(config["stage"])
    model, tagger, tokenizer = stages.build(stage.mode, where.parents[1], _family(config, where))
    load_trained(model, stage.trains, where, config, tagger)
    return LionSystem(model.to(device), tokenizer, tagger.to(device), stage.tags)


def _family(config: dict, where: Path) -> str:
    """The LLM family that the run's settings name."""
    settings = config.get("settings")
    language = settings.get("language") if isinstance(settings, dict) else None
    family = language.get("family") if isinstance(language, dict) else None
    if family not in ("llama", "t5"):
        raise BadInput(f"{where / checkpoints.CONFIG}: settings.language.family is {family!r:.40}, "
                       "not llama or t5; train the stage again")
    return family
