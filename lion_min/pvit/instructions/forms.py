"""Regions and replies as text: how they are written and parsed, and the paper's filters (A.4).

A reply of another form is dropped, one with a region in an answer, and, in dialogues and the
general strategy, one with no region in any question. We also ask the last of conversions: one
whose object the question does not name teaches nothing about regions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import cycle

from lion_min.boxes import Box, BoxText

Turns = tuple[tuple[str, str], ...]            # (question, answer)
REGION = re.compile(r"<Region>\s*(\[[^\[\]<>]*\])\s*</Region>")
SINGLE_BAR = "======"                          # between the question and answer of one turn
FEWEST = 3                                     # questions of a dialogue
FORMAT, IN_ANSWER, NO_REGION = (
    "broken format", "region in an answer", "no region in any question")


def region_text(box: Box) -> str:
    """A box (xyxy fractions) -> '<Region>[0.250, 0.500, 0.750, 1.000]</Region>' (spec 3.2)."""
    return f"<Region>{BoxText().format(box).replace(',', ', ')}</Region>"


def as_pairs(turns: Iterable[tuple[str, str]], bar: str = "===") -> str:
    """'Question: ..\\n===\\nAnswer: ..', turn after turn."""
    return f"\n{bar}\n".join(f"Question: {q}\n{bar}\nAnswer: {a}" for q, a in turns)


def as_questions(questions: Iterable[str]) -> str:
    return "\n===\n".join(f"Question: {q}" for q in questions)


def parse_single(reply: str) -> Turns | None:
    """'Question: ..\\n======\\nAnswer: ..' -> one turn; None for any other form."""
    turns = parse_pairs(reply, 6)
    return turns if turns and len(turns) == 1 else None


def parse_pairs(reply: str, bar: int = 3) -> Turns | None:
    """Questions and answers in turn, '===' on a line between them; None for any other form."""
    fields = _fields(reply, ("Question", "Answer"), bar)
    return tuple(zip(fields[::2], fields[1::2])) if fields and len(fields) % 2 == 0 else None


def parse_questions(reply: str) -> tuple[str, ...] | None:
    """Questions alone, '===' between them; None for any other form or fewer than three."""
    fields = _fields(reply, ("Question",))
    return fields if len(fields) >= FEWEST else None


def _fields(reply: str, labels: tuple[str, ...], bar: int = 3) -> tuple[str, ...]:
    """What stands behind the labels, each on one line; () when a part has another label or two."""
    parts = re.split(rf"\n\s*={{{bar}}}[ \t]*\n", reply)
    matches = [re.fullmatch(rf"\s*{label}:(.*)", part, re.DOTALL)
               for label, part in zip(cycle(labels), parts)]
    fields = tuple(" ".join(match[1].split()) if match else "" for match in matches)
    return fields if all(f and not re.search(r"(Question|Answer):|===", f) for f in fields) else ()


def filtered(turns: Turns | None, must_point: bool = True) -> Turns | str:
    """The turns with their regions in our own form, or the filter that dropped them.

    must_point: some question needs a region.
    """
    if not turns:
        return FORMAT
    if any(_has_region(answer) for _, answer in turns):
        return IN_ANSWER
    if any(_has_region(REGION.sub("", q)) or not all(map(BoxText().parse, REGION.findall(q)))
           for q, _ in turns):           # a tag without its partner, a box without tags, no box
        return FORMAT
    if must_point and not any(REGION.search(q) for q, _ in turns):
        return NO_REGION
    return tuple((REGION.sub(lambda m: region_text(BoxText().parse(m[1])[0]), question), answer)
                 for question, answer in turns)


def _has_region(text: str) -> bool:
    return "region>" in text.lower() or bool(BoxText().parse(text))
