"""The truth about a question of talk.py, from its slots and the scene's boxes alone."""

import re

from oracle import RELATION, gap, matching, singular
from oracle import located as relational

from lion_min.boxes import BoxText
from lion_min.scenes import Scene, Thing

NONE = "there is none."
WORDS = {word: i for i, word in enumerate("zero one two three four five six".split())}
PLACE = re.compile(r"(.*?) ?((?:on|at|in) the (?:top|bottom|left|right).*)")
TALK = {"hello": "hello. ask me about the image.", "thanks": "you are welcome.",
        "who": "i describe an image of shapes.",
        "help": "ask where, which colour, what shape or how many."}


def centre(thing: Thing) -> tuple[float, float]:
    x1, y1, x2, y2 = thing.box
    return (x1 + x2) / 2, (y1 + y2) / 2


def at_place(thing: Thing, place: str) -> bool:
    """By the words of the place; fails for an object that one could argue about."""
    x, y = centre(thing)
    sides = {"left": 0.5 - x, "right": x - 0.5, "top": 0.5 - y, "bottom": y - 0.5}
    off = [sides[word] for word in re.findall("left|right|top|bottom", place)]
    assert off and not -0.04 <= min(off) <= 0.04, (thing, place)
    return min(off) > 0


def clearly(a: Thing, b: Thing, side: str) -> bool:
    side = side.removeprefix("to the ")
    assert abs(gap(a, b, side)) > 0.08 - 1e-9, (a, side, b)
    return gap(a, b, side) > 0


def named(scene: Scene, phrase: str) -> list[Thing]:
    """The objects that 'the red thing', 'red things' or 'red object' may be."""
    words = phrase.removeprefix("the ").split()
    if words[-1] not in ("cross", "thing", "object"):
        words[-1] = singular(words[-1])
    return matching(scene, " ".join(words).replace("thing", "object"))


def listing(names: list[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))


def boxes(things: list[Thing]) -> str:
    return " and ".join(BoxText().format(t.box) for t in things) or NONE


def yes(holds) -> str:
    return "yes" if holds else "no"


def at_box(scene: Scene, literal: str) -> Thing:
    thing, = (t for t in scene.objects if BoxText().format(t.box) == literal)
    return thing


def located(scene: Scene, phrase: str) -> str:
    """The boxes of what 'the ring', 'the ring in the top left corner', 'red rings' name."""
    if (match := RELATION.fullmatch(phrase)) and match[2]:
        return boxes(relational(scene, phrase))
    what, place = PLACE.fullmatch(phrase).groups() if PLACE.fullmatch(phrase) else (phrase, "")
    return boxes([t for t in named(scene, what) if not place or at_place(t, place)])


def truth(scene: Scene, family: str, slots: tuple[str, ...]) -> str:
    """The answer; an error where the scene does not decide it."""
    if family in TALK:
        return TALK[family]
    if family in ("rec", "several"):
        return located(scene, slots[0])
    if family == "any":
        return yes(named(scene, slots[0]))
    if family == "more":
        word, number, phrase = slots
        number, there = int(WORDS.get(number, number)), len(named(scene, phrase or "object"))
        return yes(there > number if word == "more than" else
                   there >= number if word == "at least" else there < number)
    if family == "list":
        every = {"colours": [t.colour for t in scene.objects],
                 "shapes": [t.kind for t in scene.objects],
                 "objects": ["a " + t.words() for t in scene.objects]}[slots[0]]
        return listing(sorted(set(every), key=every.index)) + "."
    if family == "position":
        return listing(["a " + t.words() for t in scene.objects if at_place(t, slots[0])]) or "nothing."
    if family in ("boxes_relation", "boxes_same"):
        a, b, word = (at_box(scene, slots[0]), at_box(scene, slots[-1 if "rel" in family else 1]),
                      slots[1 if "rel" in family else 2])
        if family == "boxes_relation":
            return yes(clearly(a, b, word))
        values = [{"colour": t.colour, "shape": t.kind, "size": t.size}[word] for t in (a, b)]
        return yes(values[0] == values[1])
    if family == "neighbour":
        thing, = named(scene, slots[1])
        there = [t for t in scene.objects if t is not thing and clearly(t, thing, slots[0])]
        return listing(["a " + t.words() for t in there]) or "nothing."
    if family == "holds":
        (a,), (b,) = named(scene, slots[0]), named(scene, slots[2])
        return yes(clearly(a, b, slots[1]))
    if family in ("bigger", "bigger_than"):
        (a,), (b,) = named(scene, slots[0]), named(scene, slots[1])
        side = [t.box[2] - t.box[0] for t in (a, b)]
        assert a.size != b.size and not {a.size, b.size} & set(" ".join(slots).split())
        first = (side[0] > side[1]) == (slots[2] != "smaller")
        return yes(first) if family == "bigger_than" else slots[0 if first else 1]
    things = named(scene, slots[0])
    if family in ("colour", "kind") and not things:
        return NONE
    thing, = things
    if family in ("colour", "kind", "texture"):
        return getattr(thing, family)
    true = {thing.colour, thing.kind, thing.size, thing.texture}
    options = [re.sub("^an? ", "", word) for word in slots[1:]]
    assert not true & set(options) & set(slots[0].split()), "the question tells its answer"
    if family == "attribute":
        return yes(options[0] in true)
    assert family == "choice", family
    answer, = true & set(options)
    return answer
