"""LMEye's two stages: what a batch is asked and how, around the shared run of stage.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lion_min import stage as staging
from lion_min.parts import Live, Pool, frozen_parts
from lion_min.lmeye.answering import LmeyeSystem
from lion_min.lmeye.model import Lmeye, tiny
from lion_min.lmeye.prompt import make_inputs
from lion_min.stage import Ask, Stage
from lion_min.tasks import examples
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead


@dataclass(frozen=True, kw_only=True)
class LmeyeStage(Stage):
    """One stage of LMEye: does it ask yet, and what fills the return slots."""

    asks: bool
    blind: tuple[str, ...] = ()            # rounds in which the static tokens tell nothing
    control: str = "interactive"           # or 'static', 'zeroed', 'foreign': the control rows


def build(control: str, out: Path) -> tuple[Lmeye, TagHead, TinyTokenizer]:
    """An untrained LMEye around the frozen parts."""
    vision, tagger, language, tokenizer = frozen_parts(out)
    settings = replace(tiny(vision.settings, len(tokenizer)), control=control)
    return Lmeye(settings, vision, language), tagger, tokenizer


def asking(model: Lmeye, tokenizer: TinyTokenizer, stage: LmeyeStage, pool: Pool | Live) -> Ask:
    """How LMEye turns a round into a loss."""
    blind = [staging.ROUNDS[name] for name in stage.blind]

    def ask(turn, rows, states, rng):
        asked = [e for r in rows for e in examples(pool.scenes[r], rng, turn.tasks)]
        return model(make_inputs(model, tokenizer, states, [e.prompt for e in asked],
                                 [e.answer for e in asked], stage.asks, turn in blind))

    return ask


def train(stage: LmeyeStage, out: Path, seed: int = 0, **options) -> dict:
    """Run one stage of LMEye and write its folder; options as in stage.run_stage."""
    torch.manual_seed(seed)
    model, tagger, tokenizer = build(stage.control, out)
    return staging.run_stage(
        "lmeye", stage, model, tagger, LmeyeSystem(model, tokenizer, tagger, stage.asks),
        lambda pool: asking(model, tokenizer, stage, pool), out, seed=seed,
        depths={*model.settings.depths, model.settings.vision.blocks}, **options)
