"""Solution."""

import math


def learning_rate(step, steps, lr, min_lr, warmup):
    if step < warmup:
        return lr * (step + 1) / warmup
    share = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
    return min_lr + share * (lr - min_lr)


def allowed(counts, step, curriculum_steps):
    return [i for i, count in enumerate(counts) if count <= 2 or step >= curriculum_steps]
