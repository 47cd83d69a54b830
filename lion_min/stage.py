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

from lion_min import checkpoints, parallel, scores, training
from lion_min.cli import MAX_BAD
from lion_min.draws import has_lookalikes, readable_rows, unlike_captions
from lion_min.features import Features, features_of
from lion_min.parts import TINY, load_init, stage_name
from lion_min.recipe import ROUNDS, Plan, Round, Stage
from lion_min.scenes import WORLDS, make_scene
from lion_min.trainable import count_parameters, halve_frozen, layers_of, only_trainable

POOL = 16384                               # training scenes of a run


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
    features: Features | None = None       # of `scenes`, from a run that had the same
    score: Callable[..., dict] | None = None   # system -> scores; None: on held-out scenes
    checks: int | None = None              # held-out scenes before and after
    data: dict | None = None               # of `scenes` from a file: which, and its fingerprint
    max_bad: float = MAX_BAD               # the share of their pictures that may be unreadable
    init: Path | None = None               # a finished run of the same stage to start from
    quiet: bool = False


# ---- the scenes of a step -----------------------------------------------------------------------

def step_loss(system, scenes: list, features: Features, seed: int, draw_rows: Callable):
    """(step, shard) -> (loss, its named parts) of the system on the step's scenes."""
    stage = system.stage

    def loss(step: int, shard: int = 0):
        round_ = ROUNDS[stage.rounds[step % len(stage.rounds)]] if stage.rounds else None
        key = f"{system.name}/{stage.number}/{seed}/{step}" + f"/{shard}" * bool(shard)
        rng = random.Random(key)
        rows = readable_rows(features, lambda: draw_rows(round_, step, rng))
        return system.batch_loss(round_, [scenes[r] for r in rows], features.take(rows), rng)

    return loss


def row_sampler(stage: Stage, scenes: list, batch: int):
    """(round, step, rng) -> the rows of `scenes` that one step trains on."""
    if stage.unlike_captions:
        return unlike_captions(scenes, batch)
    everything = range(len(scenes))
    # a photograph without objects can be asked what it does not show, and nothing else
    shown = [i for i in everything if scenes[i].objects or scenes[i].samples]
    alike = [i for i in everything if stage.lookalike_share and has_lookalikes(scenes[i])]
    few = [i for i in shown if len(scenes[i].objects) <= 2] or shown

    def draw_rows(round_: Round, step: int, rng: random.Random) -> list[int]:
        rows = rng.choices(few if step < stage.curriculum_steps else
                           everything if "existence" in round_.tasks else shown,
                           k=batch * round_.scenes)
        if alike and round_.level == "region":
            share = round(stage.lookalike_share * len(rows))
            rows[:share] = rng.choices(alike, k=share)
        return rows

    return draw_rows


# ---- the run ------------------------------------------------------------------------------------

def run_stage(system, o: RunOptions) -> dict:
    """Train the stage and write its folder: scores 'before' and 'after', 'folder', 'system'."""
    parallel.start()
    stage, parts, model = system.stage, system.parts, system.model
    plan, batch = o.plan or stage.plan, o.batch or stage.batch
    system.announce()
    encoder_trains = any(n.startswith("vision.") for n in only_trainable(model, stage.trains))
    load_start(system, o.init)
    print(count_parameters(dict(model.named_children())))
    halved = parts.preset != TINY and plan.precision == "bf16"
    if halved:
        halve_frozen(*(m for n, m in model.named_children() if n in ("vision", "llm")))
    if plan.shard and hasattr(model, "llm"):
        parallel.shard(model, layers_of(model.llm, "--shard"), torch.device(o.device))
        model.llm.equal_calls = True
    for part in (model, parts.vision, system.tagger):
        part.to(o.device)
    precision = torch.autocast(torch.device(o.device).type, torch.bfloat16, enabled=halved,
                               cache_enabled=not plan.shard)
    before = score(system, o, precision)
    scenes = o.scenes or [make_scene(WORLDS[o.world], "train", o.seed, i)
                          for i in range(16 * o.pool if encoder_trains else o.pool)]
    draw_rows = row_sampler(stage, scenes, batch)  # may refuse: before the minute of encoding
    with precision:
        features = o.features or features_of(system, scenes, encoder_trains)
    features.left_out.check(o.max_bad)
    features.left_out.tell()
    folder = parts.out / system.name / stage_name(stage.number)
    config = {"system": system.name, "stage": stage.number, "preset": parts.preset,
              "world": o.world, "seed": o.seed, "batch": batch, "pool": len(scenes),
              "stage0": parts.fingerprint, "settings": asdict(model.settings)}
    config |= {} if parts.source is None else {"source": parts.source}
    config |= {"data": o.data} if o.data else {}
    training.run(model, step_loss(system, scenes, features, o.seed, draw_rows), plan, folder, config,
                 o.resume, o.device, o.quiet, lambda: features.left_out.fault(o.max_bad))
    model.eval()
    after = score(system, o, precision)
    if parallel.is_first():
        checkpoints.save_scores(folder, plan.steps, before, after)
    print(f"{scores.table(before, after)}\nwrote {folder}")
    return {"before": before, "after": after, "folder": folder, "system": system}


def load_start(system, init: Path | None) -> None:
    """The tensors that the stage starts from: of earlier stages, or of a run of its own."""
    stage, model, parts = system.stage, system.model, system.parts
    parts.fingerprint                      # computed before the LLM can change
    tensors = {} if init and not stage.needs_earlier else stage.start(partial(parts.earlier, system.name))
    if init:
        tensors |= load_init(init, parts.compare, system=system.name, stage=stage.number)
    checkpoints.load_into(model, tensors, f"the weights stage {stage.number} starts from",
                          names=[n for n, _ in model.named_parameters() if n in tensors])


def score(system, o: RunOptions, precision) -> dict:
    """The scores of the system as it is now, without gradients, in the run's precision."""
    with torch.no_grad(), precision:
        return parallel.within(system.model, lambda: o.score(system) if o.score else
                               system.score(WORLDS[o.world], o.seed, o.checks))
