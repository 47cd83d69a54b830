"""What can be asked of a drawn scene with boxes, beside REG and REC: see talk.py.

The boxes of several objects, of an object at a place, of one that is absent; a relation between
two boxes, and what two have in common.
"""

from __future__ import annotations

import random

from lion_min import tasks, wordings
from lion_min.boxes import Box
from lion_min.scenes import Scene, Thing
from lion_min.tasks import (BOX_TALK, OPPOSITE, SIDES, Example, fits, matching, phrases, plural,
                            printed, stands)
from lion_min.talk import NAMED, NONE, PLACES, SAID, ask, lacking, lies_at, yes


def _boxes(things: list[Thing]) -> tuple[str, tuple[Box, ...]]:
    """'[..] and [..]' and its boxes."""
    texts, boxes = zip(*(printed(t.box) for t in things))
    return " and ".join(texts), boxes


def several(scene: Scene, rng: random.Random) -> Example | None:
    """All boxes of what a plural names, in reading order; mostly two or more."""
    names = sorted({p for t in scene.objects for p in [
        *phrases(t)[:4], "object", f"{t.colour} object", f"{t.size} object"]})
    names = [p for p in names if matching(p, scene) > 1 or rng.random() < 0.1]
    if not names:
        return None
    phrase = rng.choice(names)
    text, boxes = _boxes([t for t in scene.objects if fits(phrase, t)])
    return ask(rng, "several", text, plural(phrase), boxes=boxes)


def absent(scene: Scene, rng: random.Random) -> Example:
    """Where is what is not there?"""
    phrase = lacking(scene, rng, *NAMED)
    if rng.random() < 0.3:
        return ask(rng, "absent", NONE, plural(phrase), family="several")
    wording = rng.choice(tasks.TEMPLATES["rec"] + wordings.TRAINING["rec"])
    slots = (f"the {phrase}",)
    return Example("absent", wordings.typed(wordings.filled(wording, slots), rng), NONE, (), "rec",
                   slots)


def placed(scene: Scene, rng: random.Random) -> Example | None:
    """'the thing on the left', where the words and the place single one out, or fit none."""
    nouns = sorted({n for t in scene.objects for n in ("thing", "object", "object", *phrases(t)[:2])})
    chances = []
    for noun in nouns:
        rivals = [t for t in scene.objects if noun == "thing" or fits(noun, t)]
        for place in PLACES:
            at = [lies_at(t, place) for t in rivals]
            if None not in at and sum(at) < 2 and (sum(at) or rng.random() < 0.1):
                chances.append((f"the {noun} {place}", [t for t in rivals if lies_at(t, place)]))
    if not chances:
        return None
    name, things = rng.choice(chances)
    text, boxes = _boxes(things) if things else (NONE, ())
    return ask(rng, "placed", text, name, boxes=boxes, family="rec")


def boxes_relation(scene: Scene, rng: random.Random) -> Example | None:
    pairs = [(x, y, side) for x in scene.objects for y in scene.objects for side in SIDES
             if x is not y and stands(x, side, y)]
    if not pairs:
        return None
    x, y, side = rng.choice(pairs)
    true, ((first, box), (second, other)) = rng.random() < 0.5, (printed(x.box), printed(y.box))
    return ask(rng, "boxes_relation", yes(true), first,
                rng.choice(SAID[side if true else OPPOSITE[side]]), second, boxes=(box, other))


def boxes_same(scene: Scene, rng: random.Random) -> Example | None:
    if len(scene.objects) < 2:
        return None
    x, y = rng.sample(scene.objects, 2)
    word = rng.choice(("colour", "shape", "size"))
    same = {"colour": x.colour == y.colour, "shape": x.kind == y.kind, "size": x.size == y.size}
    (first, box), (second, other) = printed(x.box), printed(y.box)
    return ask(rng, "boxes_same", yes(same[word]), first, second, word, boxes=(box, other))


TALK = dict(zip(BOX_TALK, (several, absent, placed, boxes_relation, boxes_same), strict=True))
