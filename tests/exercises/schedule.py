"""Chapter 16: the learning rate of a step, and the curriculum of its scenes.

Steps count from 0. Warm-up rises linearly and reaches `lr` in its last step; then half a cosine
falls towards min_lr, which step number `steps` would have. The first curriculum_steps steps draw
from scenes of one or two objects, the others from all.
"""


def learning_rate(step: int, steps: int, lr: float, min_lr: float, warmup: int) -> float:
    raise NotImplementedError


def allowed(counts: list[int], step: int, curriculum_steps: int) -> list[int]:
    """counts: the number of objects of each scene -> the scenes' indices that the step draws from."""
    raise NotImplementedError
