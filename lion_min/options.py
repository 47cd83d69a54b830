"""What a user of train.py may change, for every system's pipeline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lion_min import BadInput, checkpoints, datasets, evaluation, training
from lion_min.scenes import WORLDS
from lion_min.staging import BATCH
from lion_min.training import Plan


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

    def plan(self, plan: Plan) -> Plan:
        """A stage's plan with the user's changes."""
        wanted = {"steps": self.steps, "lr": self.lr, "precision": self.precision}
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
        scenes = datasets.read_scenes(self.data, WORLDS[self.world])
        if len(scenes) < (self.batch or BATCH):
            raise BadInput(f"data {str(self.data)!r}: {len(scenes)} scenes do not fill a batch of "
                           f"{self.batch or BATCH}; add some or lower --batch-size")
        return {"scenes": scenes}


def lenient(o: Options, folder: Path) -> Options:
    """Resume where there is something to resume: among many runs some have not begun."""
    return replace(o, resume=o.resume and (folder / checkpoints.STATE).exists())


@contextmanager
def timed(name: str, minutes: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    minutes[name] = (time.perf_counter() - start) / 60


def one_after_another(system: str, numbers: tuple[int, ...], train: Callable[[int, Options], dict],
                      o: Options, minutes: dict[str, float]) -> None:
    """Stages in turn, then how long each took and the scores each left behind."""
    scores = {}
    for number in numbers:
        print(f"---- stage {number}")
        with timed(str(number), minutes):
            done = train(number, lenient(o, o.out / system / f"stage{number}"))
        scores[f"stage {number}"] = done["after"]
    print("minutes: " + ", ".join(f"stage {k} {v:.1f}" for k, v in minutes.items())
          + f", all {sum(minutes.values()):.1f}")
    print(evaluation.columns(scores))
