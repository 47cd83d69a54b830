"""A scene or a photograph -> (prompt, answer) examples, one function per task for both.

Each task stands for a benchmark of the papers: caption (COCO, TextCaps), VQA on existence,
colour, kind and count (VQAv2, GQA; POPE for existence), spatial relation true/false (VSR), REG =
describe the object in a box (COCO region recognition, VG), REC = referring expression -> box
(RefCOCO/+/g). Templates vary the wording. Boxes stand in the text as BoxText writes them,
fractions of the image, and once more, as numbers, in the example.

A maker reads `scene.objects` and `scene.world`; a photograph (datasets/photos.py) has both, its
objects have a kind and a box alone, and its world has kinds alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

from lion_min.boxes import Box, BoxText
from lion_min.scenes import Scene, Thing, World

BOX = BoxText()
IMAGE_LEVEL = ("existence", "colour", "kind", "count", "relation")
REGION_LEVEL = ("reg", "rec", "rec_relational")
TASKS = IMAGE_LEVEL + ("caption",) + REGION_LEVEL
AUXILIARY = ("side",)  # taught, not scored: without it true/false is a riddle with no first clue
BOX_TALK = ("several", "absent", "placed", "boxes_relation", "boxes_same")  # of talk.py
MARGIN = 0.08          # centres closer than this on an axis are neither left nor right, ...


@dataclass(frozen=True)
class Example:
    """One question about one image. `task` is one of TASKS, or of talk.py's.

    boxes: those that the prompt, then the answer name, in reading order, as printed (rounded to
    thousandths), so that nobody parses the texts again.
    family, slots: the wordings that the prompt is one of, and what fills their places; so the same
    question can be put in other words (wordings.py). turns: the (prompt, answer) pairs said before,
    oldest first.
    """

    task: str
    prompt: str
    answer: str
    boxes: tuple[Box, ...] = ()
    family: str = ""
    slots: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()

    @property
    def region_level(self) -> bool:
        """True for REG, REC and what talk.py asks with boxes: LION's router takes its region row
        (spec 2.5)."""
        return self.task in REGION_LEVEL + BOX_TALK


TEMPLATES = {
    "caption": ("Describe the image.", "What is in the image?", "Give a short caption.",
                "Please describe the image using a single short sentence."),
    "existence": ("Is there {0}?", "Is there {0} in the image?", "Can you see {0}?",
                  "Does the image show {0}?"),
    "colour": ("What colour is the {0}?", "Which colour does the {0} have?",
               "Tell me the colour of the {0}."),
    "kind": ("What shape is the {0}?", "What kind of object is the {0}?",
             "Name the shape of the {0}."),
    "count": ("How many {0} are there?", "How many {0} are in the image?", "Count the {0}."),
    "relation": ("{0} is {1} {2}. True or false?", "True or false: {0} is {1} {2}.",
                 "Is it true that {0} is {1} {2}? Answer true or false."),
    "side": ("Is the {0} {2} or {3} of the {1}?", "The {0}: {2} or {3} of the {1}?"),
    "reg": ("Describe box {0}", "What is in {0}?", "Describe the object in {0}.",
            "What does the region {0} show?"),
    "rec": ("Where is {0}?", "Find {0}.", "Locate {0} in the image.",
            "Can you locate {0} and let me know its coordinates?", "Give the box of {0}."),
}
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def stands(a: Thing, side: str, b: Thing, margin: float = MARGIN) -> bool:
    """True when a's centre lies on that side of b's by more than `margin` of the image."""
    axis, sign = SIDES[side]
    return sign * (a.centre[axis] - b.centre[axis]) > margin


def _ask(rng: random.Random, task: str, answer: str, *slots: str,
         boxes: tuple[Box, ...] = ()) -> Example:
    family = "rec" if task == "rec_relational" else task
    text = rng.choice(TEMPLATES[family]).format(*slots)
    return Example(task, text[0].upper() + text[1:], answer, boxes, family, slots)


def printed(box: Box) -> tuple[str, Box]:
    """The text of a box, and the box as that text gives it."""
    text = BOX.format(box)
    return text, BOX.parse(text)[0]


def phrases(thing: Thing) -> list[str]:
    """Ways to name an object without its place, from vague to full: 'circle', 'red circle', ..."""
    if thing.colour is None:                              # of a photograph
        return [thing.kind]
    texture = "" if thing.texture == "plain" else thing.texture + " "
    plain = [thing.kind, f"{thing.colour} {thing.kind}", f"{thing.size} {thing.kind}",
             f"{thing.size} {thing.colour} {thing.kind}", thing.words()]
    return plain + ([f"{texture}{thing.kind}", f"{thing.colour} {texture}{thing.kind}"]
                    if texture else [])


def fits(phrase: str, thing: Thing) -> bool:
    """True when every word of the phrase is true of the object; 'hot dog' is one word here."""
    truth = {thing.kind, thing.colour, thing.size, thing.texture, "object"}
    return phrase in truth or all(word in truth for word in phrase.split())


def matching(phrase: str, scene: Scene) -> int:
    """The number of the scene's objects that the phrase fits."""
    return sum(fits(phrase, thing) for thing in scene.objects)


def a(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def naming(rng: random.Random, scene: Scene, thing: Thing) -> str | None:
    """A phrase that is true of this object alone, or None."""
    unique = [phrase for phrase in phrases(thing) if matching(phrase, scene) == 1]
    return rng.choice(unique) if unique else None


def caption(scene: Scene, rng: random.Random) -> Example:
    return _ask(rng, "caption", scene.caption())


def existence(scene: Scene, rng: random.Random) -> Example:
    """Half yes, half no; a 'no' takes an object that is there and changes one or two words."""
    thing = rng.choice(scene.objects)
    names = phrases(thing)[:4] + [f"{thing.colour} object"] * bool(thing.colour)
    yes = rng.random() < 0.5
    for _ in range(50):
        phrase = rng.choice(names)
        if not yes:
            phrase = changed(rng, phrase, scene.world)
        if (matching(phrase, scene) > 0) == yes:
            break
    return _ask(rng, "existence", "yes" if matching(phrase, scene) else "no", a(phrase))


def changed(rng: random.Random, phrase: str, world: World) -> str:
    """The phrase with one or two words replaced by others of the same sort."""
    sort = {word: words for words in (world.colours, world.kinds, tuple(world.sizes))
            for word in words}
    words = [phrase] if phrase in sort else phrase.split()
    for _ in range(rng.choice((1, 1, 2))):
        spot = rng.choice([i for i, word in enumerate(words) if word in sort])
        words[spot] = rng.choice(sort[words[spot]])
    return " ".join(words)


def _attribute(scene: Scene, rng: random.Random, name: str) -> Example | None:
    """Ask for the colour (kind) of an object that other words single out."""
    chances = []
    for thing in scene.objects:
        head = thing.kind if name == "colour" else f"{thing.colour} object"
        for phrase in (head, f"{thing.size} {head}"):
            if matching(phrase, scene) == 1:
                chances.append((phrase, getattr(thing, name)))
    if name == "kind" and len(scene.objects) == 1:
        chances.append(("object", scene.objects[0].kind))
    if not chances:
        return None
    phrase, answer = rng.choice(chances)
    return _ask(rng, name, answer, phrase)


def count(scene: Scene, rng: random.Random) -> Example:
    """The number is drawn first, evenly among those the scene can pose, then a phrase for it."""
    drawn = bool(scene.world.colours)
    by_number: dict[int, list[str]] = {}
    for phrase in sorted(countable(scene, rng) if drawn else {o.kind for o in scene.objects}):
        by_number.setdefault(matching(phrase, scene), []).append(phrase)
    number = rng.choice(sorted(by_number))
    phrase = rng.choice(by_number[number])
    # a photograph's may be sheep, knives or people
    name = plural(phrase) if drawn else f"objects of the kind {phrase}"
    return _ask(rng, "count", str(number), name)


def plural(phrase: str) -> str:
    """'red crosses' of 'red cross'."""
    return phrase + ("es" if phrase.endswith("cross") else "s")


def countable(scene: Scene, rng: random.Random) -> set[str]:
    """Phrases of one or two words, also some that are often not there: 0."""
    colour, kind = rng.choice(scene.world.colours), rng.choice(scene.world.kinds)
    found = {"object", kind, f"{colour} {kind}", f"{colour} object"}
    for thing in scene.objects:
        found |= {thing.kind, f"{thing.colour} object", f"{thing.size} object",
                  f"{thing.colour} {thing.kind}", f"{thing.size} {thing.kind}"}
    return found


def clear_pair(scene: Scene, rng: random.Random) -> tuple[str, str, str] | None:
    """(relation, name of the first, name of the second) of two objects that it clearly holds of."""
    things = [t for t in scene.objects if t.colour or matching(t.kind, scene) == 1]  # no crowds
    pairs = [(a, b, name) for a in things for b in things for name in SIDES
             if a is not b and stands(a, name, b)]
    rng.shuffle(pairs)
    for a, b, name in pairs:
        first, second = naming(rng, scene, a), naming(rng, scene, b)
        if first and second:
            return name, first, second
    return None


def relation(scene: Scene, rng: random.Random) -> Example | None:
    """VSR: a statement about two named objects, true every other time."""
    if (pair := clear_pair(scene, rng)) is None:
        return None
    name, first, second = pair
    true = rng.random() < 0.5
    said = name if true else OPPOSITE[name]
    return _ask(rng, "relation", "true" if true else "false", f"the {first}", said,
                f"the {second}")


def side(scene: Scene, rng: random.Random) -> Example | None:
    """left or right, above or below: the relation itself, before any judgement of a claim."""
    if (pair := clear_pair(scene, rng)) is None:
        return None
    name, first, second = pair
    words = ("left", "right") if SIDES[name][0] == 0 else ("above", "below")
    return _ask(rng, "side", name.split()[0], first, second, *words)


def reg(scene: Scene, rng: random.Random) -> Example:
    """What is in a box; of a photograph the bare name of the class, as data sets have it."""
    thing = rng.choice(scene.objects)
    text, box = printed(thing.box)
    answer = "a " + thing.words() if thing.colour else thing.kind
    return _ask(rng, "reg", answer, text, boxes=(box,))


def rec(scene: Scene, rng: random.Random) -> Example | None:
    """REC by attributes alone."""
    for thing in rng.sample(scene.objects, len(scene.objects)):
        if name := naming(rng, scene, thing):
            return _located(rng, "rec", thing, name)
    return None


def _located(rng: random.Random, task: str, thing: Thing, name: str) -> Example:
    text, box = printed(thing.box)
    return _ask(rng, task, text, f"the {name}", boxes=(box,))


def rec_relational(scene: Scene, rng: random.Random) -> Example | None:
    """REC where the words fit several objects and only the relation singles one out."""
    chances = []
    for thing in scene.objects:
        for phrase in phrases(thing):
            rivals = [o for o in scene.objects if fits(phrase, o)]
            for other in scene.objects if len(rivals) > 1 else ():
                for name in SIDES if other not in rivals else ():
                    near = [o for o in rivals if stands(o, name, other, -MARGIN)]
                    if near == [thing] and stands(thing, name, other):  # no rival by a hair
                        chances.append((thing, phrase, name, other))
    rng.shuffle(chances)
    for thing, phrase, name, other in chances:
        if anchor := naming(rng, scene, other):
            return _located(rng, "rec_relational", thing, f"{phrase} {name} the {anchor}")
    return None


MAKERS = {"existence": existence, "colour": partial(_attribute, name="colour"),
          "kind": partial(_attribute, name="kind"), "count": count, "relation": relation,
          "side": side, "caption": caption, "reg": reg, "rec": rec,
          "rec_relational": rec_relational}


def examples(scene: Scene, rng: random.Random, tasks: tuple[str, ...]) -> list[Example]:
    """One example for each named task (names may repeat); a task the scene cannot pose is
    replaced by another of the same list, so the list keeps its length. A photograph chooses
    for itself what to ask in the place of such a task."""
    if not isinstance(scene, Scene):
        return scene.examples(rng, tasks)
    made = []
    for task in tasks:
        always = "reg" if task in REGION_LEVEL else "count"
        tries = [task, *rng.sample(tasks, len(tasks)), always]
        made.append(next(e for t in tries if (e := MAKERS[t](scene, rng)) is not None))
    return made
