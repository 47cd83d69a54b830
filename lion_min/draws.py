"""The scenes of a step that need care: pictures that cannot be read, equal captions, lookalikes."""

from __future__ import annotations

import random
from collections.abc import Callable

from lion_min import BadInput
from lion_min.features import Features
from lion_min.scenes import Scene

DRAWS = 100                                # of other scenes, in the place of unreadable pictures


def readable_rows(features: Features, draw: Callable[[], list[int]]) -> list[int]:
    """Rows of a draw; those whose pictures cannot be read give way to those of another draw."""
    rows = draw()
    for _ in range(DRAWS):
        if not (bad := features.unreadable(rows)):
            return rows
        rows = [other if row in bad else row for row, other in zip(rows, draw())]
    raise BadInput(f"{features.left_out.summary()}: no readable one was drawn; mend them")


def unlike_captions(scenes: list, batch: int) -> Callable[..., list[int]]:
    """Draws without a caption twice: a contrastive loss would count a true pair as wrong."""
    captions = {i: caption for i, s in enumerate(scenes) if (caption := s.caption())}
    if len({*captions.values()}) < 2 or batch < 2:
        raise BadInput("this stage takes at least two scenes of different captions a step; raise "
                       "--batch-size or add scenes to --data")

    def draw_rows(round_: None, step: int, rng: random.Random) -> list[int]:
        drawn = rng.sample([*captions], min(2 * batch, len(captions)))
        return list({captions[r]: r for r in drawn}.values())[:batch]

    return draw_rows


def has_lookalikes(scene: Scene) -> bool:
    """Whether two drawn objects differ in size alone: the hardest to tell apart."""
    things = scene.objects if isinstance(scene, Scene) else ()
    return len({(t.colour, t.kind, t.texture) for t in things}) < len(things)
