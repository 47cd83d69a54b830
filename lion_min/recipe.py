"""What a stage is: `Stage` and its rounds of questions, without torch, so that --help is instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lion_min.schedule import Plan


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
    batch: int = 16                        # scenes of a step
    start: Callable[[Callable[[int], dict]], dict] = lambda earlier: {}   # tensors by name
    needs_earlier: bool = False            # reads parts of an earlier stage that it does not train
    curriculum_steps: int = 0              # first steps on scenes of one or two objects
    lookalike_share: float = 0.0           # of a region round's scenes, those with lookalikes
    unlike_captions: bool = False          # no caption twice in a batch (contrast)
    steps_in_all: int | None = None        # steps in --stage all; None: the plan's
    changes: dict = field(default_factory=dict)   # of the model's settings, for a study
