"""From the command line's words to LMEye's runs; stage 0 is LION's, and bundled."""

from __future__ import annotations

from pathlib import Path

from lion_min.options import Options, one_after_another
from lion_min.lmeye import stages
from lion_min.lmeye.loading import stage_of


def train_stage(number: int, o: Options) -> dict:
    """Stage 1 or 2; its scores before and after."""
    stage = stage_of(number)
    return stages.train(stage, plan=o.plan(stage.plan), **o.shared(), **o.scenes())


def train_all(o: Options, script: Path) -> None:
    """Both stages, from stage 0 in --out or the bundled one."""
    one_after_another("lmeye", (1, 2), train_stage, o, {})
