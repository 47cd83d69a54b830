"""LION's stages 1-4: what a batch is asked and how, around the shared run of stage.py."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lion_min import stage as staging
from lion_min.adapters import IMAGE, REGION
from lion_min.parts import Live, Pool, Source, frozen_parts
from lion_min.language import LanguageModel
from lion_min.lion.answering import LionSystem, make_inputs
from lion_min.lion.model import Lion, LionSettings, around, tiny
from lion_min.published.lion import settings_by_name
from lion_min.tiny.textworld import noisy_tags
from lion_min.stage import Ask, Stage
from lion_min.tasks import examples
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead, VisionEncoder


@dataclass(frozen=True, kw_only=True)
class LionStage(Stage):
    """One stage of LION: what sees the image, too."""

    mode: str                              # LionSettings.mode
    box_as_text: float = 0.5               # share of boxes without a region token, as in the paper
    tags: bool = False                     # the tag preface behind the soft prompt
    tag_noise: float = 0.0                 # share of the tags made wrong in training
    changes: dict = field(default_factory=dict)   # of LionSettings, for a comparison (ablation.py)


def settings_around(source: Source, vision: VisionEncoder, language: LanguageModel, vocab: int,
                    mode: str) -> LionSettings:
    """The published sizes around the published ViT, but for the Q-Former's words, which are the
    LLM's own here; sizes in proportion around any other one."""
    near = around(vision.settings, language.settings, vocab, mode)
    if source.preset not in ("lion-flant5-xl", "lion-flant5-xxl"):
        return near
    s = settings_by_name(source.preset)
    return near if s.vision != vision.settings else replace(
        s, mode=mode, language=language.settings, qformer=replace(s.qformer, vocab=vocab),
        region_id=near.region_id, hint_id=near.hint_id, generate={})


def build(mode: str, out: Path, llm: str = "llama", source: Source = Source(), **changes
          ) -> tuple[Lion, TagHead, TinyTokenizer]:
    """An untrained LION of this mode around the frozen parts; changes: of its LionSettings."""
    vision, tagger, language, tokenizer = frozen_parts(out, llm, source)
    if source.preset == "tiny":
        settings = tiny(vision.settings, len(tokenizer), mode, llm)
    else:
        settings = settings_around(source, vision, language, len(tokenizer), mode)
    return Lion(replace(settings, **changes), vision, language), tagger, tokenizer


def asking(model: Lion, tokenizer: TinyTokenizer, stage: LionStage, pool: Pool | Live) -> Ask:
    """How LION turns a round into a loss: a batch is of one level, for the router has one row a
    batch; some boxes stay text alone; in stage 4 every prompt has its tags, some of them wrong."""
    def ask(turn, rows, states, rng):
        asked = [e for r in rows for e in examples(pool.scenes[r], rng, turn.tasks)]
        tags = [noisy_tags(pool.tags[r], pool.words, rng, stage.tag_noise)
                for r in rows for _ in turn.tasks] if stage.tags else None
        as_text = [rng.random() < stage.box_as_text for _ in asked]
        return model(make_inputs(model, tokenizer, states, [e.prompt for e in asked],
                                 REGION if turn.level == "region" else IMAGE,
                                 [e.answer for e in asked], tags, as_text))

    return ask


def train(stage: LionStage, out: Path, seed: int = 0, source: Source = Source(),
          **options) -> dict:
    """Run one stage of LION and write its folder; options as in stage.run_stage."""
    torch.manual_seed(seed)
    model, tagger, tokenizer = build(stage.mode, out, source=source, **stage.changes)
    s = model.settings
    return staging.run_stage(
        "lion", stage, model, tagger, LionSystem(model, tokenizer, tagger, stage.tags),
        lambda pool: asking(model, tokenizer, stage, pool), out, seed=seed, source=source,
        depths={*s.depths, *s.region_depths}, extra={"tags": stage.tags}, **options)
