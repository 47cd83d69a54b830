"""What stands behind an answer: the tokens that the LLM read, attention, regions, the router.

`System.explain` returns an `Explanation`. The panel of `infer.py --show` (panel.py) and the page in
the browser (page/) draw the same one.

Symbols: L layers, H heads, Q queries, N patches of a square grid, M objects, T tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lion_min.boxes import BOX_LITERAL, Box
from lion_min.language import LanguageModel
from lion_min.tokenizer import TinyTokenizer

IMAGE, REGION, SOFT, REQUEST, TEXT = KINDS = "image", "region", "soft prompt", "request", "text"
OTHERS = "What is in the image?", "How many objects are there?"


class Token(NamedTuple):
    """One position of the LLM's input."""

    text: str
    kind: str                              # one of KINDS


@dataclass
class AttentionMap:
    """The attention of some queries to the patches; CLS is left out."""

    part: str                              # 'Q-Former', 'aggregator', ...
    weights: Tensor                        # [L, H, Q, N]
    queries: list[str]                     # what each of the Q queries is
    start: list[int] | None = None         # the queries that matter for the question; None: all
    moved: float | None = None             # how much of it moves with the question, 0 to 1; None:
    #                                        it is the same for every question

    def share(self) -> Tensor:
        """The mean over layers, heads and the queries of `start`, scaled to sum 1: [side, side]."""
        rows = range(len(self.queries)) if self.start is None else self.start
        mean = self.weights[:, :, [*rows]].mean((0, 1, 2))
        side = math.isqrt(len(mean))
        return (mean / mean.sum().clamp(min=1e-12)).view(side, side)

    def says(self) -> str:
        """In words how much of the map depends on the question."""
        return "the same for every question" if self.moved is None \
            else f"{self.moved:.0%} of it moves with the question"


@dataclass
class Detection:
    """An object that a refiner found."""

    label: str
    score: float
    box: Box
    mask: Tensor | None = None             # [P, P] of the whole picture, 0 to 1


@dataclass
class Explanation:
    """All that is known about one answer; what a system does not have is empty or None."""

    side: int                              # patches along a side of the grid
    tokens: list[Token]
    maps: list[AttentionMap]
    bins: int | None = None                # RoIAlign pools a box to bins x bins; None: no pooling
    router: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    #                                        each route's (region, image) shares, a pair a layer
    route: str | None = None               # the one that was taken
    tags: list[str] | None = None
    detections: list[Detection] | None = None
    before: str | None = None              # the answer where nothing is returned to the request


def other_question(prompt: str) -> str:
    """A question to compare with: a map that does not move with the question is said to stay."""
    return OTHERS[prompt.strip().lower() == OTHERS[0].lower()]


def moved(one: AttentionMap, other: AttentionMap) -> float:
    """The share of attention that lies elsewhere in another map of the same part, 0 to 1."""
    return float((one.share() - other.share()).abs().sum() / 2)


def patch_names(side: int) -> list[str]:
    """'column 1, row 1', ...: the patches row by row."""
    return [f"column {i % side + 1}, row {i // side + 1}" for i in range(side * side)]


def numbered(name: str, count: int) -> list[str]:
    return [f"{name} {i}" for i in range(1, count + 1)]


def coverage(boxes: Iterable[Box], side: int) -> Tensor:
    """How much of each patch every box covers, 0 to 1: [M, N]."""
    boxes = torch.tensor([*boxes]).view(-1, 4) * side                     # [M, 4], cells
    cell = torch.arange(side)
    columns, rows = ((torch.minimum(boxes[:, axis + 2, None], cell + 1)
                      - torch.maximum(boxes[:, axis, None], cell)).clamp(min=0)
                     for axis in (0, 1))                                  # [M, side] each
    return (rows[:, :, None] * columns[:, None]).flatten(1)


def touched(boxes: Iterable[Box], side: int) -> list[int]:
    """The patches that any box touches; [] without boxes."""
    return coverage(boxes, side).sum(0).nonzero()[:, 0].tolist()


def text_tokens(tokenizer: TinyTokenizer, ids: list[int],
                special: dict[int, Token]) -> list[Token]:
    """A prompt's ids as tokens; special: what stands for the ids that are no words."""
    return [special.get(i) or Token(tokenizer.piece(i) or "·", TEXT) for i in ids]


def visual_tokens(name: str, count: int, kind: str = IMAGE) -> list[Token]:
    return [Token(text, kind) for text in numbered(name, count)]


@torch.no_grad()
def last_token_attention(llm: LanguageModel, embeds: Tensor) -> Tensor:
    """What the last token of a decoder-only LLM's row [1, T, D] attends to: [L, H, T]."""
    llm.model.set_attn_implementation("eager")                            # fused ones hide it
    out = llm.model(inputs_embeds=embeds, output_attentions=True)
    return torch.stack(out.attentions)[:, 0, :, -1]


def bare(prompt: str) -> str:
    """A question without its boxes."""
    return " ".join(BOX_LITERAL.sub("", prompt).split())
