"""Reads what users type to the tiny preset, which knows some two hundred words.

A word that was never taught is mended: by a table of synonyms, or where one taught word alone is
a single slip of the keyboard away. Every mending is noted, and what stays unknown, and a question
that is unlike every wording taught: objects, numbers, boxes and places are put into slots, and the
words and pairs of words that it shares with the nearest wording are counted (Dice's coefficient).

Measured with UNLIKE = 0.6, on held-out wordings and on questions about other things: see
tests/test_typed.py.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from PIL import Image

from lion_min import tasks, wordings
from lion_min.boxes import BOX_LITERAL
from lion_min.questions import FAMILIES
from lion_min.scenes import COLOURS, KINDS, WORLDS, make_scene
from lion_min.talk import NUMBERS, PLACES, SAID
from lion_min.tiny.is_drawn import is_drawn
from lion_min.tokenizer import TinyTokenizer

UNLIKE = 0.6               # below this likeness a question is unlike all that was taught
LENGTH = 4                 # shorter words have too many neighbours to be mended, and one of this
                           # length with another letter is mostly another word: tree, true
PHRASES = {"on top of": "above", "thank you": "thanks", "bounding box": "box", "upper": "top",
           "lower": "bottom", "what s": "what is", "where s": "where is", "who s": "who is",
           "it s": "it is", "there s": "there is"}
SYNONYMS = {word: taught for taught, words in {
    "large": "big huge giant", "small": "little tiny", "image": "picture photo scene drawing pic",
    "object": "item figure", "objects": "items figures things", "shape": "form", "shapes": "forms kinds",
    "below": "under beneath underneath", "above": "over", "in": "inside within", "purple": "violet",
    "cyan": "turquoise", "hello": "hi hey", "thanks": "thx", "striped": "stripy stripes stripe",
    "plain": "solid", "the": "teh", "what": "wat", "texture": "pattern", "diamond": "rhombus",
    "moon": "crescent", "name": "identify",
    "find": "spot detect", "coordinates": "position location", "show": "display",
    "have": "contain", "please": "pls plz", "you": "u", "what is": "whats", "where is": "wheres",
    "who is": "whos", "are": "exist", "colour": "hue"}.items() for word in words.split()}
SIZES = {size for world in WORLDS.values() for size in world.sizes}
TEXTURES = {texture for world in WORLDS.values() for texture in world.textures}
PLURALS = {tasks.plural(kind): kind for kind in (*KINDS, "object", "shape")}
WORLD = {*COLOURS, *KINDS, *SIZES, *TEXTURES, *PLURALS, *PLURALS.values(), "thing"}
WORD = re.compile(r"[^\W\d_]+")


@lru_cache
def slotted() -> re.Pattern:
    """What fills the slots of wordings; a named group a sort."""
    def any_of(words: Iterable[str]) -> str:
        return "|".join(sorted(words, key=len, reverse=True))
    value = any_of({*COLOURS, *SIZES, *TEXTURES})
    kind = any_of({*KINDS, *PLURALS, "object", "thing"})
    sorts = {
        "box": r"\[[0-9., ]*\]",
        "place": any_of(f"{place} of the image|{place}" for place in PLACES),
        "object": rf"(?:(?:an?|the|all|any) )*(?:(?:{value}) )*(?:{kind})",
        "value": value, "side": any_of(s for said in SAID.values() for s in said),
        "than": "more than|at least|fewer than", "size": "bigger|larger|smaller",
        "number": rf"\d|{any_of(NUMBERS[1:])}"}
    return re.compile("|".join(rf"(?P<{name}>(?<!\w)(?:{words})(?!\w))"
                               for name, words in sorts.items()).replace(r"(?<!\w)(?:\[", r"(?:\[", 1)
                      .replace(r"\])(?!\w)", r"\])", 1))


def likeness_of(text: str) -> Counter:
    """The words of a question, its slots named by their sort, and its pairs of neighbours."""
    text = slotted().sub(lambda m: f" _{m.lastgroup} ", text.lower().replace("color", "colour"))
    words = re.findall(r"\w+", text)
    return Counter(words) + Counter(zip(["^", *words], [*words, "$"]))


class Reader:
    """Reads prompts for a tokenizer; more: wordings that the system was taught beside the shared."""

    def __init__(self, tokenizer: TinyTokenizer, more: Iterable[str] = ()):
        self.tokenizer = tokenizer
        self.questions = [*taught_questions(), *more]
        self.shapes = [likeness_of(question) for question in self.questions]
        texts = [*self.questions, *PLACES, *NUMBERS, " ".join(WORLD), "a an or color colors region",
                 "left right above below to of more than at least fewer bigger larger smaller"]
        texts += [text for families in (tasks.TEMPLATES, wordings.TRAINING)
                  for family in families.values() for text in family]
        self.words = {word for text in texts for word in WORD.findall(text.lower())}

    def __call__(self, image: Image.Image, prompt: str) -> tuple[str, list[str]]:
        """(the prompt as the model reads it, notes for the user)."""
        notes = [] if is_drawn(image) else [
            "this looks like a photograph; the tiny preset only knows the drawn world of "
            "lion_min.scenes, so do not trust its answer"]
        text, mended = self.mend(prompt)
        notes += [f'read "{word}" as "{taught}"' for word, taught in mended.items()]
        if words := self.unknown(text):
            listed = ", ".join(map(ascii, words[:5])) + (", ..." if words[5:] else "")
            notes.append(f"the tiny preset does not know {listed}")
        if self.likeness(text) < UNLIKE:
            notes.append("this question is unlike those that the tiny preset was taught, so do not "
                         "trust its answer")
        return text, notes

    def mend(self, prompt: str) -> tuple[str, dict[str, str]]:
        """(the prompt in taught words as far as they can be guessed, what was read as what)."""
        mended = {}

        def word(match: re.Match) -> str:
            taught = self.taught(match[0].lower())
            if taught is None:
                return match[0]
            mended[match[0]] = taught
            return taught.capitalize() if match[0][0].isupper() else taught

        def phrase(match: re.Match) -> str:
            taught = PHRASES[re.sub(r"\W+", " ", match[0].lower())]
            if " is" not in taught:
                mended[match[0]] = taught
            return taught.capitalize() if match[0][0].isupper() else taught

        pattern = "|".join(name.replace(" s", r"['\u2019]s").replace(" ", r"\s+") for name in PHRASES)
        text = re.sub(rf"\b(?:{pattern})\b", phrase, prompt,
                      flags=re.IGNORECASE | re.ASCII)
        return WORD.sub(word, text), mended

    def taught(self, word: str) -> str | None:
        """What a word that was not taught stands for; None: it was taught, or nothing is near."""
        if word in self.words or word in SYNONYMS:
            return None if word in self.words else SYNONYMS[word]
        near = {w.replace("color", "colour") for w in self.words - {*NUMBERS} if one_slip(word, w)
                and (max(len(w), len(word)) > LENGTH or sorted(w) == sorted(word))}
        near = near if len(near) < 2 else near & WORLD                    # yelow: yellow, not below
        return near.pop() if len(near) == 1 and len(word) >= LENGTH else None

    def unknown(self, prompt: str) -> list[str]:
        """Words never taught and signs outside the vocabulary, each once, in reading order."""
        pieces = re.findall(r"[^\W\d_]+|[^\w\s]|_", BOX_LITERAL.sub(" ", prompt))
        return list(dict.fromkeys(
            p for p in pieces if self.tokenizer.unk_id in self.tokenizer.encode(p)
            or (p.isalpha() and p.lower() not in self.words)))

    def likeness(self, prompt: str) -> float:
        """Dice's coefficient with the nearest wording taught, from 0 to 1."""
        shape = likeness_of(prompt)
        return max(2 * (shape & other).total() / (shape.total() + other.total())
                   for other in self.shapes)


@lru_cache
def taught_questions() -> tuple[str, ...]:
    """Every training wording, filled from a few scenes; one for each way it looks in slots."""
    found = {}
    for i in range(24):
        scene, rng = make_scene(WORLDS["medium"], "text", 0, i, "any"), random.Random(i)
        for make in (*FAMILIES.values(), tasks.side):
            example = make(scene, rng)
            if example is None:
                continue
            for text in tasks.TEMPLATES.get(example.family, ()) + wordings.TRAINING[example.family]:
                text = wordings.filled(text, example.slots)
                found.setdefault(frozenset(likeness_of(text).items()), text)
    return tuple(found.values())


def one_slip(word: str, other: str) -> bool:
    """Whether one letter is missing, too many, wrong, or exchanged with its neighbour."""
    if abs(len(word) - len(other)) > 1 or word == other:
        return False
    start = next((i for i, (a, b) in enumerate(zip(word, other)) if a != b),
                 min(len(word), len(other)))
    a, b = word[start:], other[start:]
    return a[1:] == b or a == b[1:] or a[1:] == b[1:] or (
        a[:2] == b[1::-1] and len(b) > 1 and a[2:] == b[2:])
