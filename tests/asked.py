"""The truth about a region instruction, from its words and the scene's boxes alone."""

import re

from lion_min.pvit.instructions import Instruction
from lion_min.scenes import Scene, Thing, make_scene

NUMBER = r"\d\.\d{3}"
MARK = re.compile(rf"<Region>\[({NUMBER}), ({NUMBER}), ({NUMBER}), ({NUMBER})\]</Region>")
SIDE = {"left": (0, 1), "right": (0, -1), "above": (1, 1), "below": (1, -1)}


def scenes(world, count: int, seed: int = 3) -> list[Scene]:
    return [make_scene(world, "train", seed, i) for i in range(count)]


def section(text: str, title: str) -> list[str]:
    """The lines of one list of a request's query; [] when it is missing or says 'none'."""
    match = re.search(rf"^{title}:\n((?:- .*\n?)+)", text, re.MULTILINE)
    lines = [line[2:] for line in match[1].splitlines()] if match else []
    return [] if lines == ["none"] else lines


def at(scene, numbers) -> Thing:
    box = [float(v) for v in numbers]
    thing, = (t for t in scene.objects if all(abs(u - v) < 6e-4 for u, v in zip(t.box, box)))
    return thing


def gap(a: Thing, b: Thing, side: str) -> float:
    axis, sign = SIDE[side]
    a, b = ((t.box[axis] + t.box[axis + 2]) / 2 for t in (a, b))
    return sign * (b - a)


def yes(holds) -> str:
    return "yes" if holds else "no"


def clearly(a: Thing, b: Thing, side: str) -> bool:
    """Is a on that side of b? Fails where the question had better not been asked."""
    assert abs(gap(a, b, side)) > 0.08 - 1e-9, (a, side, b)
    return gap(a, b, side) > 0


def number_of(scene, first: Thing, text: str) -> int:
    side = next((s for s in SIDE if s in text), None)
    if side:
        return sum(clearly(o, first, side) for o in scene.objects if o is not first)
    name = "colour" if "colour" in text else "kind"
    return [getattr(o, name) for o in scene.objects].count(getattr(first, name))


def truth(scene, question: str, it: Thing | None) -> tuple[str, Thing]:
    """(answer, what 'it' is next), by the words that stand in the question."""
    things = [at(scene, m.groups()) for m in MARK.finditer(question)]
    text = MARK.sub("R", question).lower()
    plain = re.sub(r"\b(it is true|is it true)\b", "", text)
    if re.search(r"\bit\b", plain):
        things = [it, *things]
    first, second = things[0], things[1] if things[1:] else None
    side = next((s for s in SIDE if re.search(rf"\b{s}\b", text)), None)
    if "true" in text:
        return ("true" if clearly(first, second, side) else "false"), first
    if text.startswith("how many of"):
        word = text.rstrip("?").split()[-1]
        return str(sum(word in t.words().split() for t in things)), first
    if text.startswith(("how many", "count")):
        return str(number_of(scene, first, text)), first
    if re.search("something|anything", text):
        return yes(number_of(scene, first, text)), first
    if text.startswith("which") and " or " in text:
        word, = re.findall(r"is (\w+)", text)
        has = [word in t.words().split() for t in things]
        return {(True, True): "both", (False, False): "none", (True, False): "the first",
                (False, True): "the second"}[tuple(has)], first
    if "left or right" in text or "above or below" in text:
        sides = ("left", "right") if "left" in text else ("above", "below")
        return next(s for s in sides if clearly(first, second, s)), first
    if side:
        return yes(clearly(first, second, side)), first
    if second and "colour" in text:
        return yes(first.colour == second.colour), first
    if second:
        assert "shape" in text, text
        return yes(first.kind == second.kind), first
    if " or " in text:
        words = re.findall("small|medium|large|plain|striped", text)
        return next(w for w in words if w in (first.size, first.texture)), first
    if "colour" in text:
        return first.colour, first
    if re.search("shape|kind", text):
        return first.kind, first
    if word := re.search(r"(?:^is|see that) .* (\w+)\?$|^is it (\w+)\?$", text):
        return yes((word[1] or word[2]) in first.words().split()), first
    assert re.match("describe|please describe|what|tell me what|give a short", text), text
    return "a " + first.words(), first


def check_vcr(scene, question: str, answer: str) -> None:
    """The numbering of its objects, and 'Yes.' or 'No.' with a rationale that is true as well."""
    places = re.findall(rf"(first|second|third) (\w+) in {MARK.pattern}", question)
    named = {}
    for ordinal, kind, *numbers in places:
        same = [t for t in scene.objects if t.kind == kind]
        named[f"{ordinal} {kind}"] = thing = at(scene, numbers)
        assert same.index(thing) == ("first", "second", "third").index(ordinal)
    a, b = named.values()
    side = next((s for s in SIDE if s in question), None)
    holds = clearly(a, b, side) if side else a.colour == b.colour
    verdict, why = re.fullmatch(r"(Yes|No)\. (.+)\.", answer).groups()
    assert holds == (verdict == "Yes"), (question, answer)
    if side:
        one, said, other = re.fullmatch(r"The (\w+ \w+) is (\w+)(?: of)? the (\w+ \w+)",
                                        why).groups()
        assert clearly(named[one], named[other], said)
    elif holds:
        assert why == f"They are both {a.colour}"
    else:
        assert why == " and ".join(f"the {n} is {t.colour}" for n, t in named.items()).capitalize()


def check(scene, made: Instruction) -> None:
    it = None
    for question, answer in made.turns:
        assert question.count("<Region>") == len(MARK.findall(question)), question
        if made.task == "vcr":
            check_vcr(scene, question, answer)
            continue
        expected, it = truth(scene, question, it)
        assert answer == expected, (scene.objects, question, answer, expected)
