"""A trained Lyrics from a run's folder, ready to be asked."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path

from lion_min.frozen import WEIGHTS, folder
from lion_min.loading import checked_config, load_trained
from lion_min.lyrics import stages
from lion_min.lyrics.answering import LyricsSystem
from lion_min.lyrics.model import Alignment

STAGES = {0: "stage0", 1: "stage1", 2: "stage2"}
BUNDLED = WEIGHTS / "lyrics" / "stage2"


def stage_of(number: int) -> stages.LyricsStage:
    """The Stage that a stage script declares."""
    return import_module(f"lion_min.lyrics.{STAGES[number]}").STAGE


def read_config(weights: Path | None) -> dict:
    """The settings of a run's folder (None: the bundled stage 2), checked. Stages 0 and 1 have
    no LLM, so they cannot be asked."""
    return checked_config("lyrics", (2,), Path(weights or BUNDLED))


def load_system(weights: Path | None = None, device="cpu") -> LyricsSystem:
    """The system of OUT/lyrics/stage2 (None: the bundled one), every tensor accounted for.

    What stage 2 left frozen comes from OUT/lion/stage0 and OUT/lyrics/stage0, or from the bundled
    ones. Raises BadInput for a folder that is missing, damaged or foreign.
    """
    where = Path(weights or BUNDLED).resolve()
    config = read_config(where if weights else None)
    model, parts = stages.build(where.parents[1])
    load_trained(model, stage_of(2).trains, where, config)
    return LyricsSystem(model.to(device), parts.tokenizer, parts.tagger.to(device),
                        partial(load_alignment, where.parents[1], device))


def load_alignment(out: Path, device="cpu") -> Alignment:
    """The model of OUT/lyrics/stage1, or of the bundled one, with its heads."""
    where = folder("lyrics", out, 1)
    config = checked_config("lyrics", (1,), where)
    model, _ = stages.build_alignment(out)
    load_trained(model, stage_of(1).trains, where, config)
    return model.to(device).eval()
