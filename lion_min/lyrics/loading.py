"""A trained Lyrics from a run's folder, ready to be asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lion_min import loading
from lion_min.parts import WEIGHTS, folder
from lion_min.lyrics import stages
from lion_min.lyrics.answering import LyricsSystem
from lion_min.lyrics.model import Alignment

STAGES = (2,)                              # stages 0 and 1 have no LLM to ask
BUNDLED = WEIGHTS / "lyrics" / "stage2"

# number -> the Stage that a stage script declares
stage_of = partial(loading.stage_of, "lyrics")
# weights (None: the bundled ones) -> the settings of their run, checked
read_config = partial(loading.read_config, "lyrics", STAGES, BUNDLED)


def load_system(weights: Path | None = None, device="cpu") -> LyricsSystem:
    """The system of OUT/lyrics/stage2 (None: the bundled one), every tensor accounted for.

    What stage 2 left frozen comes from OUT/lion/stage0 and OUT/lyrics/stage0, or from the bundled
    ones. Raises BadInput for a folder that is missing, damaged or foreign.
    """
    where = Path(weights or BUNDLED).resolve()
    config = read_config(weights)
    model, parts = stages.build(where.parents[1])
    loading.load_trained(model, stage_of(2).trains, where, config)
    return LyricsSystem(model.to(device), parts.tokenizer, parts.tagger.to(device),
                        partial(load_alignment, where.parents[1], device))


def load_alignment(out: Path, device="cpu") -> Alignment:
    """The model of OUT/lyrics/stage1, or of the bundled one, with its heads."""
    where = folder("lyrics", out, 1)
    config = loading.read_config("lyrics", (1,), where)
    model, _ = stages.build_alignment(out)
    loading.load_trained(model, stage_of(1).trains, where, config)
    return model.to(device).eval()
