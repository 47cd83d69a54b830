"""What a user of train.py may change, and stages run as these options say, for every system."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lion_min import BadInput, checkpoints, datasets, scores, training

from lion_min.datasets import benchmarks, photos
from lion_min.cli import room
from lion_min.parts import Source, stage_name
from lion_min.loading import stage_of
from lion_min.datasets.photos import is_photos
from lion_min.scenes import WORLDS
from lion_min.stage import BATCH
from lion_min.training import Plan


CHECKS = 100                               # questions about photographs before and after a stage


@dataclass
class Options:
    """What a user may change; None takes the stage script's own value."""

    out: Path
    world: str = "medium"
    seed: int = 0
    resume: bool = False
    device: str = "auto"
    labels: str | None = None
    steps: int | None = None
    lr: float | None = None
    precision: str | None = None
    batch: int | None = None
    data: Path | None = None
    form: str | None = None                # of --data, where it is an annotation file
    source: Source = Source()
    accumulate: int | None = None
    checkpointing: bool = False
    init: Path | None = None               # a run of the same stage to go on from

    def plan(self, plan: Plan) -> Plan:
        """A stage's plan with the user's changes."""
        wanted = {"steps": self.steps, "lr": self.lr, "precision": self.precision,
                  "accumulate": self.accumulate, "checkpointing": self.checkpointing or None}
        return replace(plan, seed=self.seed, **{k: v for k, v in wanted.items() if v is not None})

    def shared(self) -> dict:
        """Keywords that every training function takes."""
        batch = {} if self.batch is None else {"batch": self.batch}
        return {"out": self.out, "world": self.world, "seed": self.seed, "resume": self.resume,
                "device": training.device_of(self.device)} | batch

    def scenes(self) -> dict:
        """--data as a keyword of the training functions of stages 1-4; {} without it."""
        if self.data is None:
            return {}
        if is_photos(self.data):
            return self.photographs()
        scenes = datasets.read_scenes(self.data, WORLDS[self.world])
        if len(scenes) < (self.batch or BATCH):
            raise BadInput(f"data {str(self.data)!r}: {len(scenes)} scenes do not fill a batch of "
                           f"{self.batch or BATCH}; add some or lower --batch-size")
        return {"scenes": scenes}

    def photographs(self) -> dict:
        """Photographs to train on, and the examination on those held out."""
        every = photos.read_photos(self.data, self.form)
        if self.source.preset == "tiny":
            raise BadInput(f"data {str(self.data)!r}: photographs; the tiny preset knows the drawn "
                           "world's words alone, so choose another one, --preset clip-smollm2")
        train, held = photos.split(every)
        asked = benchmarks.some(photos.questions(held), CHECKS, self.seed)
        print(f"{len(train)} photographs to train on, {len(held)} held out")
        return {"scenes": train, "judge": lambda system: benchmarks.score_samples(system, asked)}


def lenient(o: Options, folder: Path) -> Options:
    """Resume where there is something to resume: among many runs some have not begun."""
    return replace(o, resume=o.resume and (folder / checkpoints.STATE).exists())


@contextmanager
def timed(name: str, minutes: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    minutes[name] = (time.perf_counter() - start) / 60


def train_stage(system: str, number: int | str, o: Options) -> dict:
    """One stage of a system; its scores 'before' and 'after'."""
    stage = stage_of(system, number)
    scenes = o.scenes() if number else {}          # a stage 0 learns from scenes it makes
    if o.init:
        scenes |= {"init": o.init}
    if o.source.preset != "tiny":
        scenes |= {"source": o.source}
    return room(system, "stages").train(stage, plan=o.plan(stage.plan), **o.shared(), **scenes)


def one_of_all(system: str, number: int, o: Options) -> Options:
    """The options of a stage that is trained among all: its longer plan, unless told otherwise."""
    o = lenient(o, o.out / system / stage_name(number))
    return replace(o, steps=o.steps or stage_of(system, number).whole)


def in_turn(system: str, numbers: tuple[int, ...], o: Options,
            minutes: dict[str, float]) -> dict[int, dict]:
    """Stages one after another, then how long each took; the scores of each."""
    done = {}
    for number in numbers:
        print(f"---- stage {number}")
        with timed(str(number), minutes):
            done[number] = train_stage(system, number, one_of_all(system, number, o))
    print("minutes: " + ", ".join(f"stage {k} {v:.1f}" for k, v in minutes.items())
          + f", all {sum(minutes.values()):.1f}")
    return done


def one_after_another(system: str, numbers: tuple[int, ...], o: Options,
                      minutes: dict[str, float], before: dict[str, dict] | None = None) -> None:
    """As in_turn, then the scores that each stage left behind, side by side, after those of
    `before`."""
    done = in_turn(system, numbers, o, minutes)
    print(scores.columns((before or {}) | {
        f"stage {n}": scores["after"] for n, scores in done.items()}))
