"""One stage of any system: its rounds of questions, the scenes of a step, the run and its scores.

A stage script (lion/stage2.py) declares a `Stage`; the system's `batch_loss` turns scenes into a
loss; `run_stage` trains. A batch depends on system, stage, seed, step and shard alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lion_min import BadInput, checkpoints, parallel, scores, training
from lion_min.features import Features, features_of
from lion_min.parts import TINY, load_init, stage_name
from lion_min.scenes import WORLDS, Scene, make_scene
from lion_min.trainable import count_parameters, halve_frozen, only_trainable
from lion_min.training import Plan

POOL, BATCH = 16384, 16                    # training scenes of a run, of a step


@dataclass(frozen=True)
class Round:
    """The tasks of one step, one question each for every scene; `scenes` times the batch size."""

    level: str                             # 'image' or 'region', for systems that tell them apart
    tasks: tuple[str, ...]
    scenes: int = 1


ROUNDS = {
    "vqa": Round("image", ("existence", "colour", "kind", "count", "count", "relation",
                           "relation", "side")),
    "caption": Round("image", ("caption",), 2),
    "region": Round("region", ("reg", "rec", "rec_relational") * 2),
    "reg": Round("region", ("reg",) * 4),
    "pointed": Round("region", ("colour", "kind", "reg", "rec") * 2),   # about one object each
    "instructions": Round("region", ("instructions",) * 4),   # PVIT's own (pvit/instructions)
    "talk": Round("image", ("talk",) * 8),                    # what people type (questions.py)
    "box_talk": Round("region", ("box_talk",) * 6),
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a system: what trains, on which rounds, how long, from which weights."""

    number: int | str
    trains: tuple[str, ...]                # parameter-name prefixes; everything else is frozen
    plan: Plan
    rounds: tuple[str, ...] = ()           # one of ROUNDS a step, in turn
    batch: int = BATCH
    start: Callable[[Callable[[int], dict[str, Tensor]]], dict[str, Tensor]] = lambda earlier: {}
    needs_earlier: bool = False            # reads parts of an earlier stage that it does not train
    curriculum_steps: int = 0              # first steps on scenes of one or two objects
    lookalike_share: float = 0.0           # of a region round's scenes, those with lookalikes
    unlike_captions: bool = False          # no caption twice in a batch (contrast)
    steps_in_all: int | None = None        # steps in --stage all; None: the plan's


@dataclass
class RunOptions:
    """How a stage is run; None takes the stage's or the system's own value."""

    world: str = "medium"
    seed: int = 0
    resume: bool = False
    device: str | torch.device = "cpu"
    plan: Plan | None = None
    batch: int | None = None
    pool: int = POOL                       # training scenes to draw, where `scenes` are not given
    scenes: list | None = None
    score: Callable[..., dict] | None = None   # system -> scores; None: on held-out scenes
    checks: int | None = None              # held-out scenes before and after
    init: Path | None = None               # a finished run of the same stage to start from
    quiet: bool = False


# ---- the scenes of a step -----------------------------------------------------------------------

def step_loss(system, scenes: list, features: Features, seed: int, draw_rows: Callable):
    """(step, shard) -> (loss, its named parts) of the system on the step's scenes."""
    stage = system.stage

    def loss(step: int, shard: int = 0):
        round_ = ROUNDS[stage.rounds[step % len(stage.rounds)]] if stage.rounds else None
        key = f"{system.name}/{stage.number}/{seed}/{step}" + f"/{shard}" * bool(shard)
        rows = draw_rows(round_, step, rng := random.Random(key))
        return system.batch_loss(round_, [scenes[r] for r in rows], features.take(rows), rng)

    return loss


def row_sampler(stage: Stage, scenes: list, batch: int):
    """(round, step, rng) -> the rows of `scenes` that one step trains on."""
    if stage.unlike_captions:
        return _unlike_captions(scenes, batch)
    everything = range(len(scenes))
    alike = [i for i in everything if stage.lookalike_share and has_lookalikes(scenes[i])]
    few = [i for i in everything if len(scenes[i].objects) <= 2] or everything

    def draw_rows(round_: Round, step: int, rng: random.Random) -> list[int]:
        rows = rng.choices(few if step < stage.curriculum_steps else everything,
                           k=batch * round_.scenes)
        if alike and round_.level == "region":
            share = round(stage.lookalike_share * len(rows))
            rows[:share] = rng.choices(alike, k=share)
        return rows

    return draw_rows


def _unlike_captions(scenes: list, batch: int):
    """Batches without a caption twice: a contrastive loss would count a true pair as wrong."""
    captions = [s.caption() for s in scenes]
    if len(set(captions)) < 2 or batch < 2:
        raise BadInput("this stage takes at least two scenes of different captions a step; raise "
                       "--batch-size or add scenes to --data")

    def draw_rows(round_: None, step: int, rng: random.Random) -> list[int]:
        drawn = rng.sample(range(len(scenes)), min(2 * batch, len(scenes)))
        return list({captions[r]: r for r in drawn}.values())[:batch]

    return draw_rows


def has_lookalikes(scene: Scene) -> bool:
    """Whether two drawn objects differ in size alone: the hardest to tell apart."""
    things = scene.objects if isinstance(scene, Scene) else ()
    return len({(t.colour, t.kind, t.texture) for t in things}) < len(things)


# ---- the run ------------------------------------------------------------------------------------

def run_stage(system, o: RunOptions) -> dict:
    """Train the stage and write its folder: scores 'before' and 'after', 'folder', 'system'."""
    parallel.start()
    stage, parts, model = system.stage, system.parts, system.model
    plan, batch = o.plan or stage.plan, o.batch or stage.batch
    system.announce()
    model.to(o.device), parts.vision.to(o.device), system.tagger.to(o.device)
    encoder_trains = any(n.startswith("vision.") for n in only_trainable(model, stage.trains))
    load_start(system, o.init)
    print(count_parameters(dict(model.named_children())))
    halved = parts.preset != TINY and plan.precision == "bf16"
    if halved:
        halve_frozen(model.vision, model.llm)
    precision = torch.autocast(torch.device(o.device).type, torch.bfloat16, halved)
    before = score(system, o, precision)
    scenes = o.scenes or [make_scene(WORLDS[o.world], "train", o.seed, i)
                          for i in range(16 * o.pool if encoder_trains else o.pool)]
    draw_rows = row_sampler(stage, scenes, batch)  # may refuse: before the minute of encoding
    with precision:
        features = features_of(system, scenes, encoder_trains)
    folder = parts.out / system.name / stage_name(stage.number)
    config = {"system": system.name, "stage": stage.number, "preset": parts.preset,
              "world": o.world, "seed": o.seed, "batch": batch, "pool": len(scenes),
              "stage0": parts.fingerprint, "settings": asdict(model.settings)}
    config |= {} if parts.source is None else {"source": parts.source}
    training.run(model, step_loss(system, scenes, features, o.seed, draw_rows), plan, folder, config,
                 o.resume, o.device, o.quiet)
    model.eval()
    after = score(system, o, precision)
    print(f"{scores.table(before, after)}\nwrote {folder}")
    return {"before": before, "after": after, "folder": folder, "system": system}


def load_start(system, init: Path | None) -> None:
    """The tensors that the stage starts from: of earlier stages, or of a run of its own."""
    stage, model, parts = system.stage, system.model, system.parts
    parts.fingerprint                      # computed before the LLM can change
    tensors = {} if init and not stage.needs_earlier else stage.start(
        partial(parts.earlier, system.name))
    if init:
        tensors |= load_init(init, parts.check, system=system.name, stage=stage.number)
    checkpoints.load_into(model, tensors, f"the weights stage {stage.number} starts from",
                          names=[n for n, _ in model.named_parameters() if n in tensors])


def score(system, o: RunOptions, precision) -> dict:
    """The scores of the system as it is now, without gradients, in the run's precision."""
    with torch.no_grad(), precision:
        return o.score(system) if o.score else system.score(WORLDS[o.world], o.seed, o.checks)
