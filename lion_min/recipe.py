"""What a stage is: `Stage` with its rounds of questions and its `Plan`, data alone and without torch.

A stage script (lion/stage2.py) declares one; stage.py and training.py carry it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lion_min import BadInput

if TYPE_CHECKING:                          # torch would make a stage script's --help slow
    from torch import Tensor

BATCH = 16                                 # scenes of a step


@dataclass
class Plan:
    """How long and how fast a stage trains; BadInput on a value that cannot work."""
    steps: int
    lr: float
    min_lr: float = 0.0
    warmup: int = 50
    weight_decay: float = 0.05  # of matrices; vectors (biases, norms) have none
    clip: float = 1.0  # the largest norm of all gradients together
    betas: tuple[float, float] = (0.9, 0.999)
    decay: str = "cosine"  # or "linear_tail": constant, then a linear fall over the last fifth
    lr_scale: dict[str, float] = field(default_factory=dict)  # parameter-name prefix -> factor
    precision: str = "fp32"  # or "bf16": autocast
    save_every: int = 200
    seed: int = 0
    accumulate: int = 1  # shards of a step that each process takes one after another
    checkpointing: bool = False  # transformers' layers run again in backward: less memory

    def __post_init__(self):
        checks = {"steps": (self.steps >= 1, "at least 1"),
                  "lr": (0 < self.lr < math.inf, "a positive number"),
                  "warmup": (self.warmup >= 0, "0 or more steps"),
                  "decay": (self.decay in ("cosine", "linear_tail"), "cosine or linear_tail"),
                  "precision": (self.precision in ("fp32", "bf16"), "fp32 or bf16"),
                  "save_every": (self.save_every >= 1, "at least 1"),
                  "accumulate": (self.accumulate >= 1, "at least 1"),
                  "seed": (0 <= self.seed < 2**63, "from 0 to 2^63 - 1")}
        for name, (works, need) in checks.items():
            if not works:
                raise BadInput(f"{name} {getattr(self, name)!r}: must be {need}")


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
