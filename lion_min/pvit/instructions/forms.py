"""Regions and replies as text: how they are written and parsed, and the paper's filters (A.4).

A reply of another form is dropped, one with a region in an answer, and, in dialogues and the
general strategy, one with no region in any question. We also ask the last of conversions: one
whose object the question does not name teaches nothing about regions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import cycle

from lion_min.boxes import Box, BoxText

Turns = tuple[tuple[str, str], ...]            # (question, answer)
REGION = re.compile(r"<Region>\s*(\[[^\[\]<>]*\])\s*</Region>")
FEWEST = 3                                     # questions of a dialogue
FORMAT, IN_ANSWER, NO_REGION = ("broken format", "region in an answer", "no region in any question")


def region_text(box: Box) -> str:
    """A box (xyxy fractions) -> '<Region>[0.250, 0.500, 0.750, 1.000]</Region>' (spec 3.2)."""
    return f"<Region>{BoxText().format(box).replace(',', ', ')}</Region>"


@dataclass(frozen=True)
class Form:
    """The form of a reply: rows of labelled fields with a bar on a line between any two of them.
    text: the instruction to a chat model, before the example."""

    text: str
    example: tuple[tuple[str, str], ...] = (
        ("the first question", "its answer"), ("the second question", "its answer"))
    labels: tuple[str, ...] = ("Question", "Answer")
    bar: str = "==="
    rows: tuple[float, float] = (1, math.inf)  # fewest and most

    def format(self, rows: Iterable[tuple[str, ...]]) -> str:
        """'Question: ..\\n===\\nAnswer: ..', row after row; '' for no rows."""
        return f"\n{self.bar}\n".join(f"{label}: {field}" for row in rows
                                      for label, field in zip(self.labels, row))

    def parse(self, reply: str) -> tuple[tuple[str, ...], ...]:
        """The rows of a reply, each field on one line; () for a reply of any other form."""
        parts, width = re.split(rf"\n\s*{self.bar}[ \t]*\n", reply), len(self.labels)
        matches = [re.fullmatch(rf"\s*{label}:(.*)", part, re.DOTALL)
                   for label, part in zip(cycle(self.labels), parts)]
        fields = [" ".join(match[1].split()) if match else "" for match in matches]
        whole = all(f and not re.search(r"(Question|Answer):|===", f) for f in fields)
        fits = len(fields) % width == 0 and self.rows[0] <= len(fields) // width <= self.rows[1]
        return tuple(zip(*[iter(fields)] * width)) if whole and fits else ()


SINGLE = Form("Reply in exactly this form:", (("the question", "the answer"),), bar="======", rows=(1, 1))
QUESTIONS = Form("Reply with questions alone, in exactly this form:", labels=("Question",),
                 rows=(FEWEST, math.inf))
PAIRS = Form("Reply in exactly this form, the questions with their answers in turn:")
DIALOGUE = replace(PAIRS, rows=(FEWEST, math.inf))


def filtered(turns: Turns, must_point: bool = True) -> Turns | str:
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
