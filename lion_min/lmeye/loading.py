"""A trained LMEye from a run's folder, ready to be asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lion_min import BadInput, checkpoints, loading
from lion_min.parts import WEIGHTS, folder
from lion_min.lmeye import stages
from lion_min.lmeye.answering import LmeyeSystem
from lion_min.lmeye.model import CONTROLS

STAGES = (1, 2)
BUNDLED = WEIGHTS / "lmeye" / "stage2"

# number -> the Stage that a stage script declares
stage_of = partial(loading.stage_of, "lmeye")
# weights (None: the bundled ones) -> the settings of their run, checked
read_config = partial(loading.read_config, "lmeye", STAGES, BUNDLED)


def load_system(weights: Path | None = None, device="cpu") -> LmeyeSystem:
    """The system of OUT/lmeye/stageN (None: the bundled stage 2), every tensor accounted for.

    What a stage left frozen comes from OUT/lion/stage0 and OUT/lmeye/stage1, or from the bundled
    ones. Raises BadInput for a folder that is missing, damaged or foreign.
    """
    where = Path(weights or BUNDLED).resolve()
    config = read_config(weights)
    stage = stage_of(config["stage"])
    out = where.parents[1]
    model, tagger, tokenizer = stages.build(control_of(config, where), out)
    if config["stage"] == 2:                                 # stage 2 moves a part of it
        static = checkpoints.load_run(folder("lmeye", out, 1))[0]
        checkpoints.load_into(model, static, folder("lmeye", out, 1) / checkpoints.MODEL,
                              [n for n, _ in model.named_parameters() if n in static])
    loading.load_trained(model, stage.trains, where, config, tagger)
    return LmeyeSystem(model.to(device), tokenizer, tagger.to(device), stage.asks)


def control_of(config: dict, where: Path) -> str:
    """Which control row the run is; BadInput for one that no LMEye knows."""
    settings = config.get("settings")
    control = settings.get("control") if isinstance(settings, dict) else None
    if control not in CONTROLS:
        raise BadInput(f"{where / checkpoints.CONFIG}: settings.control is {control!r:.40}, not "
                       f"one of {', '.join(CONTROLS)}; train the stage again")
    return control
