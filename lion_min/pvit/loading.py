"""A trained PVIT from a run's folder, ready to be asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lion_min import loading
from lion_min.parts import WEIGHTS
from lion_min.pvit import stages
from lion_min.pvit.answering import PvitSystem

STAGES = (1, 2)
BUNDLED = WEIGHTS / "pvit" / "stage2"

# number -> the Stage that a stage script declares
stage_of = partial(loading.stage_of, "pvit")
# weights (None: the bundled ones) -> the settings of their run, checked
read_config = partial(loading.read_config, "pvit", STAGES, BUNDLED)


def load_system(weights: Path | None = None, device="cpu", vision: str | None = None,
                language: str | None = None) -> PvitSystem:
    """The system of OUT/pvit/stageN (None: the bundled stage 2), every tensor accounted for.

    Stage 0 comes from OUT/lion/stage0 beside it, or from the bundled one; the backbones of a
    pretrained preset from where training took them, or from the folders `vision` and `language`.
    Raises BadInput for a folder that is missing, damaged or foreign.
    """
    where = Path(weights or BUNDLED).resolve()
    config = read_config(weights)
    stage = stage_of(config["stage"])
    source = loading.source_of(config, where, vision, language)
    model, tagger, tokenizer = stages.build(stage.representation, where.parents[1], source)
    loading.load_trained(model, stage.trains, where, config, tagger)
    return PvitSystem(model.to(device), tokenizer, tagger.to(device))
