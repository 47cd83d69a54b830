"""How long and how fast a stage trains: `Plan` and its learning rate, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from lion_min import BadInput


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
    shard: bool = False  # several processes share one model (parallel.py) instead of one each

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


def learning_rate(step: int, plan: Plan) -> float:
    """The rate of one step (from 0): linear warm-up to `lr`, then decay towards `min_lr`."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    if plan.decay == "cosine":
        done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
        share = 0.5 * (1 + math.cos(math.pi * done))
    else:
        share = min(1.0, (plan.steps - step) / (0.2 * plan.steps))
    return plan.min_lr + share * (plan.lr - plan.min_lr)
