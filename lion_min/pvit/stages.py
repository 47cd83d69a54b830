"""PVIT's two stages: what a batch is asked and how, around the shared run of stage.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lion_min import stage as staging
from lion_min.parts import Live, Pool, Source, frozen_parts
from lion_min.pvit.answering import PvitSystem
from lion_min.pvit.instructions import scene_instructions
from lion_min.pvit.model import Pvit, around, tiny
from lion_min.pvit.prompt import make_inputs
from lion_min.pvit.region_encoder import TinyRegions
from lion_min.scenes import Scene
from lion_min.stage import Ask, Stage
from lion_min.tasks import examples
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead

TURNS = (1, 3)                             # of a conversation in an 'instructions' round


@dataclass(frozen=True, kw_only=True)
class PvitStage(Stage):
    """One stage of PVIT: what stands for a box, too (the ablation of the paper's table 2)."""

    representation: str = "feature"


def of_representation(stage: PvitStage, representation: str) -> PvitStage:
    """The same stage with something else standing for a box: an ablation row."""
    kept = {"text": (), "location": ("markers", "locations"), "feature": stage.trains}
    return replace(stage, representation=representation, trains=tuple(
        t for t in stage.trains if t in ("llm", "mm_projector") or t in kept[representation])
        + (("locations",) if representation == "location" else ()))


def build(representation: str, out: Path, source: Source = Source()
          ) -> tuple[Pvit, TagHead, TinyTokenizer]:
    """An untrained PVIT around the frozen parts."""
    vision, tagger, language, tokenizer = frozen_parts(out, source=source)
    settings = tiny(vision.settings, len(tokenizer), representation) if source.preset == "tiny" \
        else around(vision.settings, language.settings, len(tokenizer), representation)
    return Pvit(settings, vision, language, TinyRegions(settings.regions)), tagger, tokenizer


def asking(model: Pvit, tokenizer: TinyTokenizer, pool: Pool | Live) -> Ask:
    """How PVIT turns a round into a loss. In an 'instructions' round the questions are region
    instructions (instructions.py); every turn of a conversation is a sample that has the earlier
    ones before it."""
    def ask(turn, rows, states, rng):
        questions, answers, before = [], [], []
        for r in rows:
            scene = pool.scenes[r]
            if turn.tasks[0] == "instructions" and isinstance(scene, Scene):
                asked = conversations(scene, rng, len(turn.tasks))
            else:
                asked = [(e.prompt, e.answer, []) for e in examples(scene, rng, turn.tasks)]
            for question, answer, earlier in asked:
                questions.append(question)
                answers.append(answer)
                before.append(earlier)
        return model(make_inputs(model, tokenizer, states, questions, answers, before, train=True,
                                 generator=torch.Generator().manual_seed(rng.getrandbits(32))))

    return ask


def conversations(scene, rng, count: int) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """`count` samples out of region instructions: (question, answer, the turns before it)."""
    samples = [(question, answer, list(made.turns[:i]))
               for made in scene_instructions(scene, rng, count, TURNS)
               for i, (question, answer) in enumerate(made.turns)]
    return rng.sample(samples, count)


def train(stage: PvitStage, out: Path, seed: int = 0, source: Source = Source(),
          **options) -> dict:
    """Run one stage of PVIT and write its folder; options as in stage.run_stage."""
    torch.manual_seed(seed)
    model, tagger, tokenizer = build(stage.representation, out, source)
    s = model.settings
    return staging.run_stage(
        "pvit", stage, model, tagger, PvitSystem(model, tokenizer, tagger),
        lambda pool: asking(model, tokenizer, pool), out, seed=seed, source=source,
        depths={*s.depths, *s.regions.depths, s.vision.blocks}, **options)
