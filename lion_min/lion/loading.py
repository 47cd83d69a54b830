"""A trained LION from a run's folder, ready to be asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lion_min import BadInput, checkpoints, loading
from lion_min.parts import WEIGHTS
from lion_min.lion import stages
from lion_min.lion.answering import LionSystem

STAGES = (1, 2, 3, 4, "joint")
BUNDLED = WEIGHTS / "lion" / "stage4"

# number -> the Stage that a stage script declares
stage_of = partial(loading.stage_of, "lion")
# weights (None: the bundled ones) -> the settings of their run, checked
read_config = partial(loading.read_config, "lion", STAGES, BUNDLED)


def load_system(weights: Path | None = None, device="cpu", vision: str | None = None,
                language: str | None = None) -> LionSystem:
    """The system of OUT/lion/stageN (None: the bundled stage 4), every tensor accounted for.

    The frozen parts come from OUT/lion/stage0 beside it, or from the bundled stage 0; those of a
    pretrained preset from where training took them, or from the folders `vision` and `language`.
    Raises BadInput for a folder that is missing, damaged or foreign.
    """
    where = Path(weights or BUNDLED).resolve()
    config = read_config(weights)
    stage = stage_of(config["stage"])
    source = loading.source_of(config, where, vision, language)
    model, tagger, tokenizer = stages.build(stage.mode, where.parents[1], _family(config, where),
                                            source)
    loading.load_trained(model, stage.trains, where, config, tagger)
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
