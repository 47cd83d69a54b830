"""A trained LION from a run's folder, ready to be asked."""

from __future__ import annotations

from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from lion_min import BadInput, checkpoints, training
from lion_min.lion import stages
from lion_min.lion.answering import LionSystem
from lion_min.scenes import WORLDS

STAGES = {1: "stage1", 2: "stage2", 3: "stage3", 4: "stage4", "joint": "joint"}
BUNDLED = stages.WEIGHTS / "stage4"


def stage_of(number: int | str) -> stages.Stage:
    """The Stage that a stage script declares."""
    return import_module(f"lion_min.lion.{STAGES[number]}").STAGE


def read_config(weights: Path | None) -> dict:
    """The settings of a run's folder (None: the bundled stage 4), checked.

    Raises BadInput for a folder that is missing, damaged, or no stage of LION that can be asked.
    """
    where = Path(weights or BUNDLED)
    if not where.is_dir():
        raise BadInput(f"weights {str(where)!r}: no such folder; train it or leave --weights out")
    config = checkpoints.load_json(where / checkpoints.CONFIG)
    wanted = {"system": ("lion",), "stage": tuple(STAGES), "preset": ("tiny",),
              "world": tuple(WORLDS)}
    for name, values in wanted.items():
        if config.get(name) not in values:
            raise BadInput(f"{where / checkpoints.CONFIG}: {name} is {config.get(name)!r:.40}, "
                           f"not one of {', '.join(map(str, values))}; give the folder of a "
                           "LION stage 1 to 4 or joint")
    return config


def load_system(weights: Path | None = None, device="cpu") -> LionSystem:
    """The system of OUT/lion/stageN (None: the bundled stage 4), every tensor accounted for.

    The frozen parts come from OUT/lion/stage0 beside it, or from the bundled stage 0. Raises
    BadInput for a folder that is missing, damaged or foreign.
    """
    where, config = Path(weights or BUNDLED).resolve(), read_config(weights)
    stage, out = stage_of(config["stage"]), where.parents[1]
    if where.parent.name != "lion" and (where.parent / "stage0").exists():
        # The bundled stage 0 would load as well, and every answer would be nonsense.
        raise BadInput(f"weights {str(where)!r}: the folder around it must be called 'lion', "
                       "for its stage0 to be found; rename it")
    family = _family(config, where)
    model, tagger, tokenizer = stages.build(stage.mode, out, family)
    now = checkpoints.as_json(asdict(model.settings))
    if changed := checkpoints.differences(config["settings"], now):
        raise BadInput(f"{where / checkpoints.CONFIG}: of another version of the tiny preset "
                       f"({changed[0]}); train the stage again")
    tensors, _ = checkpoints.load_run(where)
    names = training.only_trainable(model, stage.trains)
    checkpoints.load_into(model, tensors, where / checkpoints.MODEL, names)
    model.requires_grad_(False)
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
