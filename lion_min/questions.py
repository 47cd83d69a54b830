"""The questions of a round and of the scores: tasks.py, talk.py, and both in other words.

'talk' and 'box_talk' name a question drawn from all image-level and all region-level makers.
"""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial

from lion_min import talk, talk_boxes, tasks, wordings
from lion_min.scenes import Scene
from lion_min.tasks import REGION_LEVEL, Example


def reworded(example: Example, rng: random.Random, families: dict[str, tuple[str, ...]]) -> Example:
    """The same question in one of its family's wordings."""
    text = wordings.filled(rng.choice(families[example.family]), example.slots)
    return replace(example, prompt=text)


def _again(scene: Scene, rng: random.Random, task: str) -> Example | None:
    """A question of tasks.py in other words."""
    if (example := tasks.MAKERS[task](scene, rng)) is None:
        return None
    example = reworded(example, rng, wordings.TRAINING)
    return replace(example, prompt=wordings.typed(example.prompt, rng))


AGAIN = {name: partial(_again, task=name) for name in tasks.MAKERS}
# what is learnt last: sets of objects, and two that are compared; drawn three times as often
SLOW = ("neighbour", "bigger", "bigger_than", "position", "list", "more", "attribute", "several",
        "boxes_same")


def _often(makers: dict) -> list:
    return [make for name, make in makers.items() for _ in range(3 if name in SLOW else 1)]


DRAWS = {                                  # a name in a round -> the makers it stands for
    "talk": _often(talk.TALK) + [m for n, m in AGAIN.items() if n not in REGION_LEVEL],
    "box_talk": _often(talk_boxes.TALK) + [m for n, m in AGAIN.items() if n in REGION_LEVEL]}


def examples(scene, rng: random.Random, names: tuple[str, ...]) -> list[Example]:
    """One example for each name, of tasks.py or of DRAWS; a photograph chooses for itself."""
    if not isinstance(scene, Scene):
        return tasks.examples(scene, rng, names)
    plain = iter(tasks.examples(scene, rng, tuple(n for n in names if n not in DRAWS)))
    return [_drawn(scene, rng, DRAWS[n]) if n in DRAWS else next(plain) for n in names]


def _drawn(scene: Scene, rng: random.Random, makers: list) -> Example:
    """A question of one of the makers that the scene can pose."""
    tries = (make(scene, rng) for make in rng.sample(makers, len(makers)))
    return next(example for example in tries if example is not None)


# ---- for the scores ------------------------------------------------------------------------------

FAMILIES = {name: make for name, make in {**tasks.MAKERS, **talk.TALK, **talk_boxes.TALK}.items()
            if name not in tasks.AUXILIARY}


def in_other_words(scene: Scene, rng: random.Random, count: int, first: int) -> list[Example]:
    """`count` questions in wordings kept out of training, of families in turn from number `first`
    on; those that the scene cannot pose are left out."""
    names = [*FAMILIES]
    made = (FAMILIES[names[(first + i) % len(names)]](scene, rng) for i in range(count))
    return [reworded(e, rng, wordings.HELDOUT) for e in made if e is not None]


def of_the_absent(scene: Scene, rng: random.Random, number: int) -> Example:
    """Where something absent is, what colour or shape it has, or how many there are, in turn."""
    if number % 3 == 0:
        return talk_boxes.absent(scene, rng)
    if number % 3 == 1:
        return talk.missing(scene, rng)
    name = tasks.plural(talk.lacking(scene, rng, *talk.NAMED))
    return reworded(Example("count", "", "0", (), "count", (name,)), rng, tasks.TEMPLATES)
