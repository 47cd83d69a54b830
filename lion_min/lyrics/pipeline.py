"""Lyrics' stages in turn; the ViT and the LLM are LION's stage 0."""

from __future__ import annotations

from pathlib import Path

from lion_min import scores
from lion_min.lyrics import stages
from lion_min.options import Options, in_turn


def train_all(o: Options, script: Path) -> None:
    """All three stages, from LION's stage 0 in --out or the bundled one."""
    o.scenes()                                     # a mistake in --data shows before stage 0
    done = in_turn("lyrics", (0, 1, 2), o, {})
    for number in (0, 1):
        print(stages.told(done[number]["before"], done[number]["after"]))
    print(scores.columns({"stage 2": done[2]["after"]}))
