"""PVIT strategy (a): annotated questions become region instructions (spec 4.2, paper B.1).

GQA names an object and has its box: the region is written right behind the mention. VCR has
markers such as <person1>: each becomes "the first person in" its region. Drawn scenes are
converted alike, from the questions of tasks.py or questions in VCR's manner.
"""

from __future__ import annotations

import random
import re
from collections import Counter

from lion_min import BadInput
from lion_min.boxes import Box
from lion_min.pvit.instructions.forms import region_text
from lion_min.scenes import Scene, Thing
from lion_min.tasks import OPPOSITE, SIDES, TEMPLATES, matching, stands

Turn = tuple[str, str]
MARKER = re.compile(r"<([a-z][a-z ]*?)(\d+)>")
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()


def convert_gqa(question: str, answer: str, mentions: list[tuple[str, Box]]) -> Turn:
    """'What colour is the cup?', 'red', [('cup', box)] -> ('... the cup in <Region>..?', 'red').

    A mention takes its first place in the question that no longer mention has taken; one that
    does not occur is left out, and the filter then drops a question without any region.
    """
    spans: list[tuple[int, int, Box]] = []
    for phrase, box in sorted(mentions, key=lambda m: -len(m[0])):
        for match in re.finditer(rf"\b{re.escape(phrase)}\b", question, re.IGNORECASE):
            if all(match.end() <= start or end <= match.start() for start, end, _ in spans):
                spans.append((*match.span(), box))
                break
    for _, end, box in sorted(spans, reverse=True):   # from the right: the ends stay true
        question = f"{question[:end]} in {region_text(box)}{question[end:]}"
    return question, answer


def convert_vcr(question: str, answer: str, rationale: str, boxes: dict[str, Box]) -> Turn:
    """'Why does <person1> smile?', {'person1': box} -> '... the first person in <Region>.. ...'.

    Markers count from 1 within their class. The target is answer and rationale, its markers
    without regions: a region in an answer would be dropped by the paper's own filter. Raises
    BadInput for a marker of the question without a box.
    """
    def named(match: re.Match) -> str:
        name, number = match[1], int(match[2])
        ordinal = ORDINALS[number - 1] if 0 < number <= len(ORDINALS) else f"{number}th"
        return f"the {ordinal} {name}"

    def located(match: re.Match) -> str:
        if (box := boxes.get(match[1] + match[2])) is None:
            raise BadInput(f"VCR question {question[:60]!r}: {match[0]} has no box; "
                           f"there are boxes for {', '.join(boxes) or 'nothing'}")
        return f"{named(match)} in {region_text(box)}"

    target = " ".join(_upper(MARKER.sub(named, part)) for part in (answer, rationale))
    return _upper(MARKER.sub(located, question)), target


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---- drawn scenes as GQA and as VCR --------------------------------------------------------------

def _named(scene: Scene, *forms: str) -> list[tuple[list[str], Thing]]:
    """For every object the forms ('{size} {kind}', ...) that, filled in, are true of it alone."""
    filled = [([form.format(**vars(thing)) for form in forms], thing) for thing in scene.objects]
    return [([name for name in names if matching(name, scene) == 1], thing) for names, thing in filled]


def _side(rng: random.Random, a: Thing, b: Thing) -> str | None:
    """A side of b on which a stands."""
    return rng.choice([name for name in SIDES if stands(a, name, b)] or [None])


def gqa_turn(scene: Scene, rng: random.Random) -> Turn | None:
    """A GQA-style question about objects that words single out; None when the scene has none."""
    makers = [_gqa_attribute, _gqa_relation]
    rng.shuffle(makers)
    return next((turn for make in makers if (turn := make(scene, rng))), None)


def _gqa_attribute(scene: Scene, rng: random.Random) -> Turn | None:
    task, *forms = rng.choice((("colour", "{kind}", "{size} {kind}", "{texture} {kind}"),
                               ("kind", "{colour} object", "{size} {colour} object")))
    chances = [(name, thing) for names, thing in _named(scene, *forms) for name in names]
    if not chances:
        return None
    name, thing = rng.choice(chances)
    question = rng.choice(TEMPLATES[task]).format(name)
    return convert_gqa(question, getattr(thing, task), [(name, thing.box)])


def _gqa_relation(scene: Scene, rng: random.Random) -> Turn | None:
    forms = ("{kind}", "{colour} {kind}", "{size} {kind}", "{size} {colour} {kind}")
    named = [(rng.choice(names), thing) for names, thing in _named(scene, *forms) if names]
    if len(named) < 2:
        return None
    (first, a), (second, b) = rng.sample(named, 2)
    if (side := _side(rng, a, b)) is None:
        return None
    claim = rng.choice((side, OPPOSITE[side]))
    question = rng.choice(TEMPLATES["relation"]).format(f"the {first}", claim, f"the {second}")
    return convert_gqa(_upper(question), "true" if claim == side else "false",
                       [(first, a.box), (second, b.box)])


def vcr_turn(scene: Scene, rng: random.Random) -> Turn | None:
    """A VCR-style question about two objects, distinguished by number; None below two objects."""
    counts, marked = Counter(), {}
    for thing in scene.objects:                      # in reading order, as VCR's lists are
        counts[thing.kind] += 1
        if counts[thing.kind] <= 3:                  # the tiny vocabulary counts to "third"
            marked[f"{thing.kind}{counts[thing.kind]}"] = thing
    if len(marked) < 2:
        return None
    (a, first), (b, second) = rng.sample(list(marked.items()), 2)
    side = _side(rng, first, second)
    if side is None or rng.random() < 0.5:
        holds = first.colour == second.colour
        question = f"Do <{a}> and <{b}> have the same colour?"
        why = (f"They are both {first.colour}." if holds else
               f"<{a}> is {first.colour} and <{b}> is {second.colour}.")
    else:
        claim = rng.choice((side, OPPOSITE[side]))
        holds, question = claim == side, f"Is <{a}> {claim} <{b}>?"
        why = f"<{b}> is {OPPOSITE[side]} <{a}>." if holds else f"<{a}> is {side} <{b}>."
    return convert_vcr(question, "Yes." if holds else "No.", why, {a: first.box, b: second.box})
