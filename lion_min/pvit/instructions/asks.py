"""What can be asked of a drawn scene in region instructions, and the truth about it.

Each `Ask` has templates and one function that gives the true answer. `draft` poses a question
from a template, `read` finds the template of a written question again and answers it. Every word
of a question and of an answer stands in vocab.txt.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from lion_min.boxes import Box
from lion_min.pvit.instructions.messages import REGION, region_boxes, region_text
from lion_min.scenes import COLOURS, WORLDS, Scene, Thing, World
from lion_min.tasks import OPPOSITE, SIDES, stands

ATTRIBUTES = {*COLOURS} | {w for world in WORLDS.values() for w in (*world.sizes, *world.textures)}


class Ask(NamedTuple):
    """truth(scene, things in the question's order, word) -> answer, None when it is unclear.

    In a template {0} and {1} are references ("the object in <Region>", "it"), {r0}, {r1}, {r2}
    bare regions, and {w} is one of `words`.
    """

    truth: Callable[[Scene, list[Thing], str], str | None]
    templates: tuple[str, ...]
    words: tuple[str, ...] = ("",)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _choice(scene: Scene, things: list[Thing], word: str) -> str | None:
    options = {things[0].size, things[0].texture} & set(re.findall("[a-z]+", word))
    return next(iter(options), None)


def _side(scene: Scene, things: list[Thing], word: str) -> str | None:
    a, b = things
    clear = stands(a, word, b) or stands(a, OPPOSITE[word], b)
    return _yes(stands(a, word, b)) if clear else None


def _which_side(scene: Scene, things: list[Thing], word: str) -> str | None:
    sides = [s for s in SIDES if s.split()[0] in word.split() and stands(things[0], s, things[1])]
    return sides[0].split()[0] if sides else None


def _which(scene: Scene, things: list[Thing], word: str) -> str:
    has = tuple(_has(t, word) for t in things)
    return {(1, 0): "the first", (0, 1): "the second", (1, 1): "both", (0, 0): "none"}[has]


def _on_side(scene: Scene, things: list[Thing], word: str) -> str | None:
    """How many objects stand on that side; None when one of them nearly does."""
    told = [_side(scene, [o, things[0]], word) for o in scene.objects if o != things[0]]
    return None if None in told else str(told.count("yes"))


def _something(scene: Scene, things: list[Thing], word: str) -> str | None:
    number = _on_side(scene, things, word)
    return number and _yes(number != "0")


def _has(thing: Thing, word: str) -> bool:
    return word in (thing.colour, thing.size, thing.texture)


def _same(scene: Scene, thing: Thing, name: str) -> str:
    """How many objects share an attribute with this one, itself counted."""
    return str(sum(getattr(o, name) == getattr(thing, name) for o in scene.objects))


AMONG = (*COLOURS, "small", "large", "striped")
ASKS = {
    "describe": Ask(lambda s, t, w: "a " + t[0].words(), (
        "Describe {0}.", "Please describe {0}.", "What is in {r0}?", "What is {0}?",
        "What does {r0} show?", "What can you see in {r0}?", "Tell me what you see in {r0}.",
        "Give a short caption for {r0}.", "What object do you see in {r0}?",
        "Please describe {0} using a single short sentence.")),
    "colour": Ask(lambda s, t, w: t[0].colour, (
        "What colour is {0}?", "Which colour does {0} have?", "What is the colour of {0}?")),
    "shape": Ask(lambda s, t, w: t[0].kind, (
        "What shape is {0}?", "Which shape does {0} have?", "What is the shape of {0}?")),
    "choice": Ask(_choice, ("Is {0} {w}?", "Tell me: is {0} {w}?"), (
        "small or large", "small, medium or large", "plain or striped")),
    "is": Ask(lambda s, t, w: _yes(_has(t[0], w)), ("Is {0} {w}?", "Can you see that {0} is {w}?"),
              (*AMONG, "striped", "striped", "striped")),
    "side": Ask(_side, ("Is {0} {w} {1}?", "Do you see {0} {w} {1}?"), tuple(SIDES)),
    "which side": Ask(_which_side, ("Is {0} {w} {1}?",), ("left or right of", "above or below")),
    "same colour": Ask(lambda s, t, w: _yes(t[0].colour == t[1].colour), (
        "Does {0} have the colour of {1}?", "Do {r0} and {r1} show objects of the same colour?",
        "Do the objects in {r0} and {r1} have the same colour?")),
    "same shape": Ask(lambda s, t, w: _yes(t[0].kind == t[1].kind), (
        "Does {0} have the shape of {1}?", "Do {r0} and {r1} show objects of the same shape?",
        "Do the objects in {r0} and {r1} have the same shape?")),
    "which": Ask(_which, ("Which one is {w}, {0} or {1}?", "Which is {w}: {0} or {1}?"),
                 ("small", "large", "striped")),
    "something": Ask(_something, ("Is there something {w} {0}?", "Is anything {w} {0}?"),
                     tuple(SIDES)),
    "count side": Ask(_on_side, ("How many objects are {w} {0}?", "Count the objects {w} {0}."),
                      tuple(SIDES)),
    "count colour": Ask(lambda s, t, w: _same(s, t[0], "colour"), (
        "How many objects have the colour of {0}?", "Count the objects of the colour of {0}.",
        "How many objects in the image have the colour of {0}?")),
    "count shape": Ask(lambda s, t, w: _same(s, t[0], "kind"), (
        "How many objects have the shape of {0}?", "Count the objects of the shape of {0}.",
        "How many objects in the image have the shape of {0}?")),
    "count among": Ask(lambda s, t, w: str(sum(_has(o, w) for o in t)), (
        "How many of the objects in {r0} and {r1} are {w}?",
        "How many of the objects in {r0}, {r1} and {r2} are {w}?"), AMONG),
}
OF_TASK = {  # which of them a task asks
    "small": ("describe",), "attribute": ("colour", "shape", "choice", "is"),
    "relation": ("side", "which side", "same colour", "same shape", "which", "something"),
    "several": ("count colour", "count shape", "count side", "count among"),
    "dialogue": tuple(ASKS),
}
REFERENCES = ("the object in", "the object in", "the thing in", "the one in")
REFERENCE = "((?:the (?:object|thing|one) in )?<region>|it)"


# ---- from a template to a question -----------------------------------------------------------

class Draft(NamedTuple):
    """A question before it is written; `said` stands for the first object ("" = its region)."""

    ask: Ask
    template: str
    things: list[Thing]
    word: str
    said: str = ""

    def answer(self, scene: Scene) -> str | None:
        return self.ask.truth(scene, self.things, self.word)

    def written(self, rng: random.Random) -> str:
        regions = [region_text(t.box) for t in self.things]
        named = [f"{rng.choice(REFERENCES)} {region}" for region in regions]
        named[0] = self.said or named[0]
        bare = {f"r{i}": region for i, region in enumerate(regions)}
        question = self.template.format(*named, w=self.word, **bare)
        return question[0].upper() + question[1:]


def draft(name: str, scene: Scene, things: list[Thing], rng: random.Random,
          first: Thing | None = None, said: str = "") -> Draft | None:
    """A question of this name about some of `things`, `first` first; None when it has no words
    in this world or needs more objects."""
    words = _words(name, scene.world)
    templates = [t for t in ASKS[name].templates if not said or "{0}" in t]
    rest = [t for t in things if t is not first]
    if not words or not templates:
        return None
    template = rng.choice(templates)
    more = _slots(template) - (first is not None)
    if more > len(rest):
        return None
    chosen = ([first] if first else []) + rng.sample(rest, more)
    return Draft(ASKS[name], template, chosen, rng.choice(words), said)


@lru_cache(maxsize=None)
def _slots(template: str) -> int:
    """How many objects it names."""
    return len(re.findall(r"\{r?\d\}", template))


@lru_cache(maxsize=None)
def _words(name: str, world: World) -> list[str]:
    """The words of a question that its world knows: never 'striped' where nothing is."""
    known = {*world.colours, *world.sizes, *(world.textures if world.textures[1:] else ())}
    foreign = ATTRIBUTES - known
    return [w for w in ASKS[name].words if not foreign & set(re.findall("[a-z]+", w))]


# ---- from a question back to its template --------------------------------------------------------

def _pattern(template: str, words: tuple[str, ...]) -> re.Pattern:
    """Reads a question, its regions reduced to '<region>': references as groups, and a word."""
    said = f"(?P<word>{'|'.join(sorted(set(words), key=len, reverse=True))})"
    forms = {"{w}": said, "{0}": REFERENCE, "{1}": REFERENCE}
    parts = re.split(r"(\{r?\d\}|\{w\})", template.lower())
    return re.compile("".join(forms.get(p, "(<region>)" if p[:1] == "{" else re.escape(p))
                              for p in parts))


PATTERNS = [(ask, _pattern(t, ask.words)) for ask in ASKS.values() for t in ask.templates]


def thing_at(scene: Scene, box: Box) -> Thing | None:
    """The object with this box, as printed with three decimals."""
    return next((t for t in scene.objects
                 if max(abs(u - v) for u, v in zip(t.box, box)) < 2e-3), None)


def read(question: str, scene: Scene, it: Thing | None = None
         ) -> tuple[str | None, Thing | None]:
    """(answer, what 'it' means in the next question: the first object that this one names).

    The answer is None for a question of no template, and where the truth is unclear.
    """
    boxes = iter(region_boxes(question))
    skeleton = REGION.sub("<region>", question).lower()
    for ask, pattern in PATTERNS:
        if match := pattern.fullmatch(skeleton):
            word = pattern.groupindex.get("word")
            said = [g for i, g in enumerate(match.groups(), 1) if i != word]
            things = [it if g == "it" else thing_at(scene, next(boxes)) for g in said]
            if None in things:
                return None, it
            return ask.truth(scene, things, match[word] if word else ""), things[0]
    return None, it
