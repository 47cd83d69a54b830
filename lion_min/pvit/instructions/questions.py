"""What can be asked of a drawn scene in region instructions, and the truth about it.

A `QuestionTemplate` has several wordings and one function that gives the true answer;
`draw_turn` fills one in. Every word of a question and of an answer stands in vocab.txt.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from lion_min.pvit.instructions.forms import region_text
from lion_min.scenes import COLOURS, WORLDS, Scene, Thing, World
from lion_min.tasks import OPPOSITE, SIDES, fits, stands

ATTRIBUTES = {*COLOURS} | {w for world in WORLDS.values() for w in (*world.sizes, *world.textures)}
AMONG = (*COLOURS, "small", "large", "striped")
REFERENCES = ("the object in", "the object in", "the thing in", "the one in")
TRIES = 8              # at one question, to choose its answer from
Truth = Callable[[Scene, list[Thing], str], str | None]  # None: it is unclear


class QuestionTemplate(NamedTuple):
    """In a wording {0} and {1} are references ("the object in <Region>", "it"), {r0}, {r1}, {r2}
    bare regions, and {w} is one of `words`."""

    truth: Truth                           # (scene, things in the question's order, word) -> answer
    wordings: tuple[str, ...]
    words: tuple[str, ...] = ("",)


# ---- truths --------------------------------------------------------------------------------------

def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _value(thing: Thing, attribute: str) -> str:
    return thing.colour if attribute == "colour" else thing.kind


def _words(choice: str) -> list[str]:
    """'small, medium or large' -> its words."""
    return choice.replace(",", "").split()


def _on_side(scene: Scene, things: list[Thing], side: str) -> str | None:
    a, b = things
    return "yes" if stands(a, side, b) else "no" if stands(a, OPPOSITE[side], b) else None


def _which_side(scene: Scene, things: list[Thing], choice: str) -> str | None:
    sides = (side for side in SIDES if side.split()[0] in _words(choice))
    return next((side.split()[0] for side in sides if stands(things[0], side, things[1])), None)


def _count_on_side(scene: Scene, things: list[Thing], side: str) -> str | None:
    """How many objects stand on that side; None when one of them nearly does."""
    answers = [_on_side(scene, [o, things[0]], side) for o in scene.objects if o != things[0]]
    return None if None in answers else str(answers.count("yes"))


def _any_on_side(scene: Scene, things: list[Thing], side: str) -> str | None:
    number = _count_on_side(scene, things, side)
    return number and _yes(number != "0")


def _count_same(scene: Scene, things: list[Thing], attribute: str) -> str:
    """How many objects share an attribute with the first, itself counted."""
    return str(sum(_value(o, attribute) == _value(things[0], attribute) for o in scene.objects))


WHICH = {(1, 0): "the first", (0, 1): "the second", (1, 1): "both", (0, 0): "none"}
_VALUE = ("What {w} is {0}?", "Which {w} does {0} have?", "What is the {w} of {0}?")
_SAME = ("Does {0} have the {w} of {1}?", "Do {r0} and {r1} show objects of the same {w}?",
         "Do the objects in {r0} and {r1} have the same {w}?")
_COUNT = ("How many objects have the {w} of {0}?", "Count the objects of the {w} of {0}.",
          "How many objects in the image have the {w} of {0}?")
TEMPLATES = {name: QuestionTemplate(*template) for name, template in {
    "describe": (lambda s, t, w: "a " + t[0].words(), (
        "Describe {0}.", "Please describe {0}.", "What is in {r0}?", "What is {0}?",
        "What does {r0} show?", "What can you see in {r0}?", "Tell me what you see in {r0}.",
        "Give a short caption for {r0}.", "What object do you see in {r0}?",
        "Please describe {0} using a single short sentence.")),
    "colour": (lambda s, t, w: t[0].colour, _VALUE, ("colour",)),
    "shape": (lambda s, t, w: t[0].kind, _VALUE, ("shape",)),
    "choice": (lambda s, t, w: next((v for v in (t[0].size, t[0].texture) if v in _words(w)), None),
               ("Is {0} {w}?", "Tell me: is {0} {w}?"),
               ("small or large", "small, medium or large", "plain or striped")),
    "is": (lambda s, t, w: _yes(fits(w, t[0])), ("Is {0} {w}?", "Can you see that {0} is {w}?"),
           (*AMONG, "striped", "striped", "striped")),
    "side": (_on_side, ("Is {0} {w} {1}?", "Do you see {0} {w} {1}?"), tuple(SIDES)),
    "which side": (_which_side, ("Is {0} {w} {1}?",), ("left or right of", "above or below")),
    "same colour": (lambda s, t, w: _yes(t[0].colour == t[1].colour), _SAME, ("colour",)),
    "same shape": (lambda s, t, w: _yes(t[0].kind == t[1].kind), _SAME, ("shape",)),
    "which": (lambda s, t, w: WHICH[fits(w, t[0]), fits(w, t[1])], (
        "Which one is {w}, {0} or {1}?", "Which is {w}: {0} or {1}?"), AMONG[-3:]),
    "something": (_any_on_side, ("Is there something {w} {0}?", "Is anything {w} {0}?"), tuple(SIDES)),
    "count side": (_count_on_side, ("How many objects are {w} {0}?", "Count the objects {w} {0}."),
                   tuple(SIDES)),
    "count colour": (_count_same, _COUNT, ("colour",)),
    "count shape": (_count_same, _COUNT, ("shape",)),
    "count among": (lambda s, t, w: str(sum(fits(w, o) for o in t)), (
        "How many of the objects in {r0} and {r1} are {w}?",
        "How many of the objects in {r0}, {r1} and {r2} are {w}?"), AMONG),
}.items()}
OF_TASK = {  # which of them a task asks
    "small": ("describe",), "attribute": ("colour", "shape", "choice", "is"),
    "relation": ("side", "which side", "same colour", "same shape", "which", "something"),
    "several": ("count colour", "count shape", "count side", "count among"),
    "dialogue": tuple(TEMPLATES),
}


# ---- from a template to a question ---------------------------------------------------------------

def draw_turn(names: tuple[str, ...], scene: Scene, things: list[Thing], rng: random.Random,
              first: Thing | None = None, reference: str = "") -> tuple[str, str] | None:
    """(question, true answer) of one of the templates about some of `things`, `first` first.

    reference: stands for the first object; "": its region does. None where all of the templates
    have no words in this world, need more objects or leave the answer unclear.
    """
    for name in rng.sample(names, len(names)):
        by_answer = {}
        for _ in range(TRIES):             # then evenly among their answers: 'no' must not pay
            wording, chosen, word = _fill(name, scene, things, rng, first, reference)
            if wording and (answer := TEMPLATES[name].truth(scene, chosen, word)):
                by_answer.setdefault(answer, (wording, chosen, word))
        if by_answer:
            answer = rng.choice(list(by_answer))
            return _written(*by_answer[answer], rng, reference), answer
    return None


def _fill(name: str, scene: Scene, things: list[Thing], rng: random.Random, first: Thing | None,
          reference: str) -> tuple[str, list[Thing], str]:
    """(wording, its objects, its word) of a question; the wording is '' where there is none."""
    words = _known_words(name, scene.world)
    wordings = [w for w in TEMPLATES[name].wordings if not reference or "{0}" in w]
    others = [t for t in things if t is not first]
    wording = rng.choice(wordings) if words and wordings else ""
    more = wording.count("{") - wording.count("{w}") - (first is not None)
    if not wording or more > len(others):
        return "", [], ""
    return wording, ([first] if first else []) + rng.sample(others, more), rng.choice(words)


def _written(wording: str, things: list[Thing], word: str, rng: random.Random, reference: str) -> str:
    regions = [region_text(t.box) for t in things]
    named = [f"{rng.choice(REFERENCES)} {region}" for region in regions]
    named[0] = reference or named[0]
    text = wording.format(*named, w=word, **{f"r{i}": region for i, region in enumerate(regions)})
    return text[0].upper() + text[1:]


@lru_cache(maxsize=None)
def _known_words(name: str, world: World) -> list[str]:
    """The words of a template that its world knows: never 'striped' where nothing is."""
    known = {*world.colours, *world.sizes, *(world.textures if world.textures[1:] else ())}
    return [w for w in TEMPLATES[name].words if not (ATTRIBUTES - known) & {*_words(w)}]
