"""More that can be asked of a drawn scene: what people type beside the benchmarks of tasks.py.

Each maker takes (scene, rng) and returns an Example, or None where the scene cannot pose the
question clearly; the scene alone decides every answer. These are image-level: yes or no about a
relation, an attribute, a number; a choice of two; what is beside an object, or at a place; sizes;
lists; textures; what is absent; small talk. Those with boxes stand in talk_boxes.py.

A place is a half or a quarter of the picture; an object that is nearly on its border poses none.
"""

from __future__ import annotations

import random

from lion_min import tasks, wordings
from lion_min.boxes import Box
from lion_min.scenes import Scene, Thing, listed
from lion_min.tasks import (OPPOSITE, SIDES, Example, a, changed, clear_pair, matching, naming,
                            phrases, plural, stands)

NONE = "there is none."
SAID = {"left of": ("left of", "to the left of"), "right of": ("right of", "to the right of"),
        "above": ("above",), "below": ("below",)}
# ways to say a place: the side of the middle that an object lies on, on each axis (0: either)
PLACES = {"on the left": (-1, 0), "on the left side": (-1, 0), "on the right": (1, 0),
          "on the right side": (1, 0), "at the top": (0, -1), "at the bottom": (0, 1)} | {
    f"in the {tall} {wide}{corner}": (x, y) for tall, y in (("top", -1), ("bottom", 1))
    for wide, x in (("left", -1), ("right", 1)) for corner in (" corner", "")}
EDGE = 0.04                # centres closer than this to the middle lie on neither side of it
NUMBERS = ("0", "one", "two", "three", "four", "five", "six")
NAMED = ("{kind}", "{colour} {kind}", "{size} {kind}", "{size} {colour} {kind}")
SMALL_TALK = {"hello": "hello. ask me about the image.", "thanks": "you are welcome.",
              "who": "i describe an image of shapes.",
              "help": "ask where, which colour, what shape or how many."}


def ask(rng: random.Random, task: str, answer: str, *slots: str, boxes: tuple[Box, ...] = (),
         family: str | None = None) -> Example:
    """A question in one of the training wordings of its family (the task's own unless given)."""
    family = family or task
    text = wordings.filled(rng.choice(wordings.TRAINING[family]), slots)
    return Example(task, wordings.typed(text, rng), answer, boxes, family, slots)


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _names(things: list[Thing]) -> str:
    """'a small red star', 'a small red star and a large blue ring', or 'nothing.'"""
    return listed(["a " + t.words() for t in things])[:-1] if things else "nothing."


def _without(scene: Scene, thing: Thing, *words: str | None) -> list[str]:
    """Phrases that are true of this object alone and have none of the words."""
    return [p for p in phrases(thing) + [f"{thing.colour} object", f"{thing.size} object"]
            if matching(p, scene) == 1 and not {*words} & {*p.split()}]


def lacking(scene: Scene, rng: random.Random, *forms: str) -> str:
    """A phrase that no object fits, one or two words away from one that is there; forms: how it
    may look, '{colour} {kind}'."""
    while True:
        phrase = rng.choice(forms).format(**vars(rng.choice(scene.objects)))
        if not matching(phrase := changed(rng, phrase, scene.world), scene):
            return phrase


# ---- image-level ---------------------------------------------------------------------------------

def any_there(scene: Scene, rng: random.Random) -> Example:
    there = rng.random() < 0.5
    phrase = rng.choice(phrases(rng.choice(scene.objects))[:4]) if there else lacking(scene, rng, *NAMED)
    return ask(rng, "any", yes(there), plural(phrase))


def missing(scene: Scene, rng: random.Random) -> Example:
    """The colour or the shape of something that is not there."""
    name = rng.choice(("colour", "kind"))
    forms = ("{kind}", "{size} {kind}") if name == "colour" else ("{colour} object",)
    return ask(rng, "missing", NONE, lacking(scene, rng, *forms), family=name)


def holds(scene: Scene, rng: random.Random) -> Example | None:
    if (pair := clear_pair(scene, rng)) is None:
        return None
    name, first, second = pair
    true = rng.random() < 0.5
    return ask(rng, "holds", yes(true), f"the {first}",
                rng.choice(SAID[name if true else OPPOSITE[name]]), f"the {second}")


def _described(scene: Scene, rng: random.Random) -> tuple[str, str, str, tuple[str, ...]] | None:
    """(sort, an object's phrase without it, its value, all values) of an attribute."""
    world, thing = scene.world, rng.choice(scene.objects)
    sorts = {"colour": world.colours, "kind": world.kinds, "size": tuple(world.sizes)}
    sorts |= {"texture": world.textures} if world.textures[1:] else {}
    sort = rng.choice((*sorts, *(["texture"] if "texture" in sorts else [])))
    value = getattr(thing, sort)
    names = _without(scene, thing, value, *(world.kinds if sort == "kind" else ()))
    names = names or (["object"] if len(scene.objects) == 1 else [])
    return (sort, rng.choice(names), value, sorts[sort]) if names else None


def choice(scene: Scene, rng: random.Random) -> Example | None:
    """X or Y, of which one is true."""
    if (found := _described(scene, rng)) is None:
        return None
    sort, name, value, values = found
    both = [value, rng.choice([v for v in values if v != value])]
    rng.shuffle(both)
    return ask(rng, "choice", value, name, *(map(a, both) if sort == "kind" else both))


def texture(scene: Scene, rng: random.Random) -> Example | None:
    thing = rng.choice(scene.objects)
    names = _without(scene, thing, "striped")
    if not names or not scene.world.textures[1:]:
        return None
    return ask(rng, "texture", thing.texture, rng.choice(names))


def attribute(scene: Scene, rng: random.Random) -> Example | None:
    """Is it red, large, striped, a star?"""
    if (found := _described(scene, rng)) is None:
        return None
    sort, name, value, values = found
    said = value if rng.random() < 0.5 else rng.choice([v for v in values if v != value])
    return ask(rng, "attribute", yes(said == value), name, a(said) if sort == "kind" else said)


def neighbour(scene: Scene, rng: random.Random) -> Example | None:
    """What stands on one side of an object; no other may nearly do so."""
    chances = [(thing, side) for thing in scene.objects for side in SIDES
               if all(stands(o, side, thing) or stands(o, OPPOSITE[side], thing)
                      for o in scene.objects if o is not thing)]
    rng.shuffle(chances)
    chances.sort(key=lambda c: rng.random() < 0.3 or any(
        stands(o, c[1], c[0]) for o in scene.objects), reverse=True)      # seldom nothing
    for thing, side in chances:
        if name := naming(rng, scene, thing):
            there = [o for o in scene.objects if stands(o, side, thing)]
            return ask(rng, "neighbour", _names(there), rng.choice(SAID[side]), name)
    return None


def _unequal(scene: Scene, rng: random.Random) -> tuple[str, str, str, str] | None:
    """(phrase of the larger, of the smaller, word for more, word for less): sizes of two names."""
    sizes = list(scene.world.sizes)
    pairs = [(b, s) for b in scene.objects for s in scene.objects
             if sizes.index(b.size) > sizes.index(s.size)]
    named = [(rng.choice(big), rng.choice(small)) for b, s in pairs
             if (big := _without(scene, b, *sizes)) and (small := _without(scene, s, *sizes))]
    if not named:
        return None
    return tuple(f"the {name}" for name in rng.choice(named)) + (
        rng.choice(("bigger", "larger")), "smaller")


def bigger(scene: Scene, rng: random.Random) -> Example | None:
    if (found := _unequal(scene, rng)) is None:
        return None
    large, small, more, less = found
    answer, word = rng.choice(((large, more), (small, less)))
    return ask(rng, "bigger", answer, *rng.sample((large, small), 2), word)


def bigger_than(scene: Scene, rng: random.Random) -> Example | None:
    if (found := _unequal(scene, rng)) is None:
        return None
    large, small, more, less = found
    first, second = rng.sample((large, small), 2)
    word = rng.choice((more, less))
    return ask(rng, "bigger_than", yes((first == large) == (word == more)), first, second, word)


def lies_at(thing: Thing, place: str) -> bool | None:
    """Whether an object lies at a place; None: it is too near the border to say."""
    off = [sign * (c - 0.5) for c, sign in zip(thing.centre, PLACES[place]) if sign]
    return False if min(off) < -EDGE else True if min(off) > EDGE else None


def position(scene: Scene, rng: random.Random) -> Example | None:
    """What is at a place; two times in three one where something is."""
    found = {place: [lies_at(t, place) for t in scene.objects] for place in PLACES}
    clear = [place for place, at in found.items() if None not in at]
    filled = [place for place in clear if any(found[place])]
    if not clear:
        return None
    place = rng.choice(filled if filled and rng.random() < 0.67 else clear)
    return ask(rng, "position", _names([t for t in scene.objects if lies_at(t, place)]), place)


def lists(scene: Scene, rng: random.Random) -> Example:
    """The colours, the shapes, each once, or the objects, in reading order."""
    name = rng.choice(("colours", "shapes", "objects"))
    named = {"colours": [t.colour for t in scene.objects], "shapes": [t.kind for t in scene.objects],
             "objects": ["a " + t.words() for t in scene.objects]}[name]
    return ask(rng, "list", listed([*dict.fromkeys(named)]), name)


def more(scene: Scene, rng: random.Random) -> Example:
    """More than, at least, fewer than a number; some leave out of what."""
    phrase = rng.choice(sorted(tasks.countable(scene, rng))) if rng.random() < 0.8 else ""
    there = matching(phrase or "object", scene)
    near = [n for n in range(7) if abs(n - there) < 3]
    claims = {("more than", n): there > n for n in near}
    claims |= {("at least", n): there >= n for n in near if n}
    claims |= {("fewer than", n): there < n for n in near if n}
    true = rng.random() < 0.5
    word, number = rng.choice([claim for claim, fits in claims.items() if fits is true])
    said = rng.choice((str(number), NUMBERS[number]))
    return ask(rng, "more", yes(true), word, said,
                phrase and (phrase if number == 1 else plural(phrase)))


def small_talk(scene: Scene, rng: random.Random) -> Example:
    topic = rng.choice(list(SMALL_TALK))
    return ask(rng, topic, SMALL_TALK[topic])


TALK = {"any": any_there, "missing": missing, "holds": holds, "choice": choice, "texture": texture,
        "attribute": attribute, "neighbour": neighbour, "bigger": bigger, "bigger_than": bigger_than,
        "position": position, "list": lists, "more": more, "small_talk": small_talk}
