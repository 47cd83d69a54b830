"""Lyrics' three stages: the refiner, the alignment, the instructions.

Stage 2 is the shared run of stage.py. Stages 0 and 1 ask no questions: they have scores and
losses of their own around the same one loop. Symbols: B scenes of a batch.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lion_min import BadInput, checkpoints, stage as staging, trainable, training
from lion_min.parts import Pool, folder, frozen_parts, look, say_if_bundled
from lion_min.language import LanguageModel
from lion_min.lyrics.answering import LyricsSystem
from lion_min.lyrics.detection_loss import refiner_loss
from lion_min.lyrics.detection_scores import refiner_scores
from lion_min.lyrics.model import Alignment, Lyrics, LyricsSettings, Objects, tiny
from lion_min.lyrics.prompt import captions, make_inputs, object_texts, objects_of
from lion_min.lyrics.refiner import TinyRefiner
from lion_min.lyrics.retrieval import retrieval
from lion_min.scenes import WORLDS, Scene, make_scene
from lion_min.stage import POOL, Ask, Stage
from lion_min.tasks import examples
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

CHUNK = 128                                # scenes that are refined at once
Parts = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LyricsStage(Stage):
    """One stage of Lyrics: how many scenes a step, and is there a refiner (the ablation)."""

    batch: int
    rounds: tuple[str, ...] = ()           # stages 0 and 1 ask no questions
    refiner: bool = True


# ---- the parts a stage starts from --------------------------------------------------------------

@dataclass
class Frozen:
    """What lies before every stage."""

    vision: VisionEncoder
    tagger: TagHead
    llm: LanguageModel
    tokenizer: TinyTokenizer
    settings: LyricsSettings


def frozen(out: Path, refiner: bool = True) -> Frozen:
    vision, tagger, llm, tokenizer = frozen_parts(out)
    return Frozen(vision, tagger, llm, tokenizer, tiny(vision.settings, len(tokenizer), refiner))


def trained_refiner(parts: Frozen, out: Path) -> TinyRefiner | None:
    """The refiner of OUT/lyrics/stage0, or the bundled one; None where the settings have none."""
    if parts.settings.refiner is None:
        return None
    refiner, where = TinyRefiner(parts.settings.refiner, parts.tagger), folder("lyrics", out, 0)
    checkpoints.load_into(refiner, checkpoints.load_run(where)[0], where / checkpoints.MODEL,
                          [n for n, p in refiner.named_parameters() if p.requires_grad])
    return refiner


def build_alignment(out: Path) -> tuple[Alignment, Frozen]:
    """An untrained stage 1 around the frozen parts."""
    parts = frozen(out)
    return Alignment(parts.settings, parts.vision, trained_refiner(parts, out)), parts


def build(out: Path, refiner: bool = True) -> tuple[Lyrics, Frozen]:
    """An untrained stage 2 around the frozen parts."""
    parts = frozen(out, refiner)
    return Lyrics(parts.settings, parts.vision, trained_refiner(parts, out), parts.llm), parts


def without_objects(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stage 1's MQ-Former as a plain Q-Former: what a model without refiner starts from."""
    kept = {name: t for name, t in tensors.items() if ".object_cross." not in name}
    s = tiny(VisionSettings(), len(TinyTokenizer())).mqformer
    tokens = kept["mqformer.query_tokens"]                                # [1, Q, D]
    return kept | {"mqformer.query_tokens": tokens[:, :s.queries - s.object_queries]}


# ---- what a step learns from --------------------------------------------------------------------

def refine_all(refiner: TinyRefiner | None, pool: Pool, tokenizer: TinyTokenizer,
               settings: LyricsSettings) -> tuple[Objects | None, list]:
    """(objects, their text) of every scene of the pool; the refiner is frozen, so only once."""
    if refiner is None:
        return None, []
    found, texts = [], []
    for start in range(0, len(pool.scenes), CHUNK):
        rows = [*range(start, min(start + CHUNK, len(pool.scenes)))]
        refined = refiner.refine(pool.take(rows))
        found.append(vars(objects_of(refined, tokenizer)).values())
        texts += object_texts(refined, tokenizer, settings)
    return Objects(*map(torch.cat, zip(*found))), texts


def refining(refiner: TinyRefiner, pool: Pool) -> Callable[[list[int]], Parts]:
    """Stage 0: rows of the pool -> the refiner's loss."""
    return lambda rows: refiner_loss(refiner, pool.take(rows), [pool.scenes[r] for r in rows])


def aligning(model: Alignment, tokenizer: TinyTokenizer,
             pool: Pool) -> Callable[[list[int]], Parts]:
    """Stage 1: rows of the pool -> the four objectives on pictures and captions."""
    objects, found = refine_all(model.refiner, pool, tokenizer, model.settings)

    def loss(rows: list[int]) -> Parts:
        states = pool.take(rows)
        text = captions([pool.scenes[r].caption() for r in rows], tokenizer, model.settings,
                        [found[r] for r in rows])
        return model(states, objects.pick(rows), text.to(states[0].device))

    return loss


def asking(model: Lyrics, tokenizer: TinyTokenizer, pool: Pool) -> Ask:
    """Stage 2: how Lyrics turns a round into a loss."""
    objects, _ = refine_all(model.refiner, pool, tokenizer, model.settings)

    def ask(turn, rows, states, rng):
        asked = [e for r in rows for e in examples(pool.scenes[r], rng, turn.tasks)]
        return model(make_inputs(model, tokenizer, states, objects and objects.pick(rows),
                                 [e.prompt for e in asked], [e.answer for e in asked]))

    return ask


def batches(stage: LyricsStage, scenes: list[Scene], seed: int, batch: int):
    """(step, shard) -> rows of a batch. No caption twice: a true pair would count as wrong."""
    told = [s.caption() for s in scenes]
    if len(set(told)) < 2 or batch < 2:
        raise BadInput("stages 0 and 1 take at least two scenes of different captions a step; "
                       "raise --batch-size or add scenes to --data")

    def rows(step: int, shard: int = 0) -> list[int]:
        rng = random.Random(f"lyrics/{stage.number}/{seed}/{step}" + f"/{shard}" * bool(shard))
        drawn = rng.sample(range(len(scenes)), min(2 * batch, len(scenes)))
        return list({told[r]: r for r in drawn}.values())[:batch]

    return rows


# ---- the runs -----------------------------------------------------------------------------------

def train(stage: LyricsStage, out: Path, seed: int = 0, **options) -> dict:
    """Run one stage of Lyrics and write its folder; options as in stage.run_stage."""
    torch.manual_seed(seed)
    options["batch"] = options.get("batch") or stage.batch
    return (train_refiner, align, instruct)[stage.number](stage, out, seed=seed, **options)


def train_refiner(stage: LyricsStage, out: Path, **options) -> dict:
    """Stage 0: boxes, words and masks from the frozen ViT's states. No LLM, no text."""
    parts = frozen(out)
    refiner = TinyRefiner(parts.settings.refiner, parts.tagger)

    def score(scenes: list[Scene]) -> dict[str, float]:
        with torch.no_grad():
            return refiner_scores(refiner, look(parts.vision, [s.draw() for s in scenes]), scenes)

    return run(stage, refiner, parts, lambda pool: refining(refiner, pool), score, out, **options)


def align(stage: LyricsStage, out: Path, **options) -> dict:
    """Stage 1: MQ-Former and heads on ITC, ITM, ICG and MSP."""
    say_if_bundled("lyrics", out, 0)
    model, parts = build_alignment(out)
    return run(stage, model, parts, lambda pool: aligning(model, parts.tokenizer, pool),
               lambda scenes: retrieval(model, parts.tokenizer, scenes), out, **options)


def instruct(stage: LyricsStage, out: Path, **options) -> dict:
    """Stage 2: MQ-Former, projection and LoRA on instructions."""
    if stage.refiner:
        say_if_bundled("lyrics", out, 0)
    model, parts = build(out, stage.refiner)
    return staging.run_stage(
        "lyrics", stage, model, parts.tagger, LyricsSystem(model, parts.tokenizer, parts.tagger),
        lambda pool: asking(model, parts.tokenizer, pool), out, depths=depths(parts), **options)


def run(stage: LyricsStage, model: nn.Module, parts: Frozen, loss_of, score, out: Path, *,
        batch: int, world: str = "medium", seed: int = 0, resume: bool = False, device="cpu",
        plan: training.Plan | None = None, pool: int = POOL, checks: int = 256,
        quiet: bool = False, scenes: list[Scene] | None = None) -> dict:
    """Stages 0 and 1: as staging.run_stage, but `score(scenes)` and `loss_of(pool)(rows)`."""
    place, where = WORLDS[world], Path(out) / "lyrics" / stage.folder
    say_if_bundled("lion", out, 0, "vision")
    for module in (model, parts.vision, parts.tagger):
        module.to(device)
    trainable.only_trainable(model, stage.trains)
    print(trainable.count_parameters(dict(model.named_children())))
    held = [make_scene(place, "heldout", 2**20 + seed, i) for i in range(checks)]
    before = score(held)
    scenes = scenes or [make_scene(place, "train", seed, i) for i in range(pool)]
    rows = batches(stage, scenes, seed, batch)
    loss = loss_of(Pool(parts.vision, parts.tagger, scenes, depths(parts)))
    config = {"system": "lyrics", "stage": stage.number, "preset": "tiny", "world": world,
              "seed": seed, "batch": batch, "pool": len(scenes),
              "settings": asdict(model.settings)}
    training.run(model, lambda *step: loss(rows(*step)), plan or stage.plan, where, config, resume,
                 device, quiet)
    after = score(held)
    print(told(before, after))
    print(f"wrote {where}")
    return {"before": before, "after": after, "folder": where}


def depths(parts: Frozen) -> set[int]:
    """The ViT states that anything reads."""
    s, states = parts.settings, parts.vision.settings.blocks + 1
    return {d % states for d in (*s.depths, *(s.refiner.depths if s.refiner else ()), -1)}


def told(before: dict[str, float], after: dict[str, float]) -> str:
    """The scores of stages 0 and 1 side by side."""
    return "\n".join([f"{'score':<26}{'before':>10}{'after':>10}"] + [
        f"{name:<26}{before[name]:>10.3f}{after[name]:>10.3f}" for name in after
        if name != "count"])
