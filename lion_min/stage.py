"""What the stages of every system share: rounds of questions, batches, scores, the run.

A stage script says what is special about its stage in one `Stage`; a room's stages.py builds the
model and turns questions into a loss; this file carries it out with the one loop of training.py.
Every batch is a pure function of (system, stage, seed, step, shard).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lion_min import BadInput, checkpoints, scores, parallel, training
from lion_min.parts import (Live, Pool, Source, check_stage0, earlier, fingerprint,
                             frozen_of, say_if_bundled, stage_name)
from lion_min.scenes import WORLDS, Scene, World, make_scene
from lion_min.trainable import count_parameters, only_trainable
from lion_min.training import Plan

POOL = 16384                               # scenes whose frozen features are kept in memory
MEMORY = 8e9                               # bytes that features may take; beyond, each is seen anew
BATCH = 16                                 # scenes a step


@dataclass(frozen=True)
class Round:
    """What every scene of one step is asked, and how many times BATCH scenes there are."""

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
    "instructions": Round("region", ("instructions",) * 4),   # PVIT's own, see its stages.py
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a system: what trains, on which rounds, how long, from what."""

    number: int | str
    trains: tuple[str, ...]                # parameter-name prefixes; everything else is frozen
    rounds: tuple[str, ...]                # one of ROUNDS a step, in turn
    plan: Plan
    start: Callable[[Callable[[int], dict[str, Tensor]]], dict[str, Tensor]] = lambda earlier: {}
    stands_on: bool = False                # reads parts of an earlier stage that it does not train
    easy: int = 0                          # first steps on scenes of one or two objects
    twins: float = 0.0                     # share of a region round's scenes with has_twins
    whole: int | None = None               # steps in --stage all, which has an hour; None: plan's

    @property
    def folder(self) -> str:
        return stage_name(self.number)


# (round, rows of the pool, their states, rng) -> (loss, its named parts)
Ask = Callable[[Round, list[int], list[Tensor], random.Random], tuple[Tensor, dict[str, Tensor]]]


def step_loss(name: str, stage: Stage, pool: Pool | Live, seed: int, batch: int, ask: Ask):
    """(step, shard) -> (loss, parts): scenes drawn from the pool, asked the step's round."""
    everything = range(len(pool.scenes))
    alike = [i for i in everything if stage.twins and has_twins(pool.scenes[i])]
    few = [i for i in everything if len(pool.scenes[i].objects) <= 2] or everything

    def loss(step: int, shard: int = 0):
        turn = ROUNDS[stage.rounds[step % len(stage.rounds)]]
        rng = random.Random(f"{name}/{stage.number}/{seed}/{step}" + f"/{shard}" * bool(shard))
        rows = rng.choices(few if step < stage.easy else everything, k=batch * turn.scenes)
        if alike and turn.level == "region":
            share = round(stage.twins * len(rows))
            rows[:share] = rng.choices(alike, k=share)
        return ask(turn, rows, pool.take(rows), rng)

    return loss


def has_twins(scene: Scene) -> bool:
    """Whether two drawn objects are alike but for their size: the hardest to tell apart."""
    named = [(t.colour, t.kind, t.texture) for t in scene.objects] \
        if isinstance(scene, Scene) else []
    return len(set(named)) < len(named)


def halve_frozen(*parts: nn.Module) -> None:
    """Hold a pretrained part in bf16 where none of it trains: half the memory."""
    for part in parts:
        if not any(p.requires_grad for p in part.parameters()):
            part.to(torch.bfloat16)


def going_on(init: Path, stage0: str | None = None, **wanted) -> dict[str, Tensor]:
    """The tensors of a finished run that is what `wanted` says: system, stage, for stage 0 part.

    BadInput for another one, or one that grew on another stage 0 than this fingerprint's.
    """
    tensors, config = checkpoints.load_run(init)
    found = {key: config.get(key) for key in wanted}
    if found != wanted:
        is_, needed = (" ".join(str(v) for v in (c["system"], "stage", c["stage"], c.get("part"))
                                if v is not None) for c in (found, wanted))
        raise BadInput(f"{init}: is {is_}; --init goes on from a run of {needed}")
    check_stage0(config, init, stage0)
    return {k: v.float() for k, v in tensors.items()}


def judge_of(world: World, seed: int, count: int = 64) -> Callable[..., dict]:
    """system -> its scores on the held-out scenes that a run looks at before and after."""
    return partial(scores.evaluate, world=world, count=count, seed=2**20 + seed,
                   shuffled=False)


def run_stage(name: str, stage: Stage, model: nn.Module, tagger: nn.Module, system, ask_of,
              out: Path, world: str = "medium", seed: int = 0, resume: bool = False,
              device="cpu", plan: Plan | None = None, batch: int = BATCH, pool: int = POOL,
              checks: int = 64, quiet: bool = False, scenes: list[Scene] | None = None,
              depths: set[int] = frozenset(), extra: dict | None = None,
              source: Source = Source(), judge=None, init: Path | None = None) -> dict:
    """Run one stage of the system `name` and write its folder; returns its scores 'before' and
    'after', the 'folder' and the trained 'system'.

    system: what scores.py scores. ask_of(pool) gives the `Ask` of step_loss. depths: the
    encoder states that anything reads. scenes: those of a folder instead of `pool` new ones.
    extra: more settings for config.json. source: where the frozen parts came from. judge:
    system -> its scores, for photographs; None: those of `checks` held-out scenes. init: a run of
    the same stage to go on from; earlier stages give only what this one reads and does not train.
    """
    parallel.start()
    plan, place, tiny = plan or stage.plan, WORLDS[world], source.preset == "tiny"
    judge = judge or judge_of(place, seed, checks)
    for part in ("vision", "llama") if tiny else ():
        say_if_bundled("lion", out, 0, part)
    grown_on = fingerprint(*frozen_of(model, tagger, source.preset))
    model.to(device), tagger.to(device)
    names = only_trainable(model, stage.trains)
    begin = {} if init and not stage.stands_on else stage.start(
        lambda number: earlier(name, out, number, grown_on, bundled=tiny))
    if init:
        begin |= going_on(init, grown_on, system=name, stage=stage.number)
    checkpoints.load_into(model, begin, f"the weights stage {stage.number} starts from",
                          names=[n for n, _ in model.named_parameters() if n in begin])
    print(count_parameters(dict(model.named_children())))
    halved = not tiny and plan.precision == "bf16"
    looking = partial(torch.autocast, torch.device(device).type, torch.bfloat16, halved)
    if halved:
        halve_frozen(model.vision, model.llm)
    with looking():
        before = judge(system)
    live = any(n.startswith("vision.") for n in names)
    scenes = scenes or [make_scene(place, "train", seed, i)
                        for i in range(16 * pool if live else pool)]
    v = model.vision.settings
    kept = 2 * len(scenes) * (1 + v.side ** 2) * v.width * max(1, len(depths))      # bytes
    with looking():
        pool = Live(model.vision, scenes, None if live else tagger) if live or kept > MEMORY \
            else Pool(model.vision, tagger, scenes, depths)
    where = Path(out) / name / stage.folder
    config = {"system": name, "stage": stage.number, "preset": source.preset, "world": world,
              "seed": seed, "batch": batch, "pool": len(scenes), "stage0": grown_on,
              "settings": asdict(model.settings)} | (extra or {})
    if not tiny:
        config["source"] = asdict(source)
    training.run(model, step_loss(name, stage, pool, seed, batch, ask_of(pool)), plan, where,
                 config, resume, device, quiet)
    model.eval()
    with looking():
        after = judge(system)
    print(scores.table(before, after))
    print(f"wrote {where}")
    return {"before": before, "after": after, "folder": where, "system": system}
