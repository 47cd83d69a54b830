"""Regions and replies as text: how they are written and parsed, and the paper's filters (A.4).

A reply of another form is dropped, one with a region in an answer, and, in dialogues and the
general strategy, one with no region in any question. We also ask the last of conversions: one
whose object the question does not name teaches nothing about regions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lion_min.boxes import Box, BoxText

Turns = tuple[tuple[str, str], ...]            # (question, answer)
REGION = re.compile(r"<Region>\s*(\[[^\[\]<>]*\])\s*</Region>")
FEWEST = 3                                     # questions of a dialogue
FORMAT, IN_ANSWER, NO_REGION = (
    "broken format", "region in an answer", "no region in any question")


def region_text(box: Box) -> str:
    """A box (xyxy fractions) -> '<Region>[0.250, 0.500, 0.750, 1.000]</Region>' (spec 3.2)."""
    return f"<Region>{BoxText().format(box).replace(',', ', ')}</Region>"


def as_pairs(turns: Iterable[tuple[str, str]], bar: str = "===") -> str:
    """Turns in the form that a request of questions with answers asks for."""
    return f"\n{bar}\n".join(f"Question: {q}\n{bar}\nAnswer: {a}" for q, a in turns)


def as_single(question: str, answer: str) -> str:
    """One turn in the form that a request of a single turn asks for."""
    return as_pairs([(question, answer)], "======")


def as_questions(questions: Iterable[str]) -> str:
    """Questions in the form that the first request of a dialogue asks for."""
    return "\n===\n".join(f"Question: {q}" for q in questions)


def parse_single(reply: str) -> Turns | None:
    """'Question: ..\\n======\\nAnswer: ..' -> one turn; None for any other form."""
    turns = parse_pairs(reply, "={6}")
    return turns if turns and len(turns) == 1 else None


def parse_pairs(reply: str, bar: str = "={3}") -> Turns | None:
    """Questions and answers in turn, '===' on a line between them; None for any other form."""
    fields = [_labelled(part, ("Question", "Answer")[i % 2])
              for i, part in enumerate(_parts(reply, bar))]
    return tuple(zip(fields[::2], fields[1::2])) if len(fields) % 2 == 0 and all(fields) else None


def parse_questions(reply: str) -> tuple[str, ...] | None:
    """Questions alone, '===' between them; None for any other form or fewer than three."""
    fields = tuple(_labelled(part, "Question") for part in _parts(reply))
    return fields if len(fields) >= FEWEST and all(fields) else None


def _parts(reply: str, bar: str = "={3}") -> list[str]:
    return re.split(rf"\n\s*{bar}[ \t]*\n", reply)


def _labelled(part: str, label: str) -> str:
    """What stands behind 'Question:', on one line; "" when it does not or more labels follow."""
    match = re.fullmatch(rf"\s*{label}:(.*)", part, re.DOTALL)
    text = " ".join(match[1].split()) if match else ""
    return "" if re.search(r"(Question|Answer):|===", text) else text


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
