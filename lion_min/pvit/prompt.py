"""Prompts with boxes -> ids with region placeholders, and the boxes in reading order.

A box stands in a prompt as `[x1,y1,x2,y2]` or, as the paper writes it, with marks of its own,
`<Region>[x1, y1, x2, y2]</Region>`; both mean the same. In the LLM's input it becomes

    feature    <Region> <region> </Region>            3 positions, one pooled feature
    location   <Region> <region> x 4 </Region>        6 positions, four location tokens
    text       <x4> <y1> <l8> <t8> <r6> <b11>         6 words, as the tokenizer writes a box

The two marks have the ids len(tokenizer) and len(tokenizer) + 1, which the LLM's vocabulary
lacks: no text can name them, and `Pvit.markers` stands in for their embeddings.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from lion_min import BadInput
from lion_min.boxes import BRACKETS, Box, BoxText
from lion_min.pvit.model import SLOTS, Pvit, PvitInputs, PvitSettings
from lion_min.tokenizer import TinyTokenizer

MARKS = re.compile(r"(</?Region>)", re.IGNORECASE)
BOX = BoxText()
Move = Callable[[list[Box]], list[Box]]
Turn = tuple[str, str]                     # question, answer


def pieces(text: str) -> list[str | Box]:
    """The text cut at its boxes. BadInput for unpaired marks and for marks without one box."""
    fields = MARKS.split(text)             # text, mark, text, mark, ..., text
    marks = [mark.lower() for mark in fields[1::2]]
    if marks != ["<region>", "</region>"] * (len(marks) // 2):
        raise BadInput(f"prompt: {marks.count('<region>')} <Region> and "
                       f"{marks.count('</region>')} </Region> do not pair up; "
                       "write each region as <Region>[x1,y1,x2,y2]</Region>")
    for inside in fields[2::4]:
        if not (BRACKETS.fullmatch(inside.strip()) and BOX.parse(inside)):
            raise BadInput(f"prompt: <Region>{' '.join(inside.split())[:60]}</Region> holds no "
                           "box; write [x1,y1,x2,y2] there, fractions with x1 < x2 and y1 < y2")
    return [piece for i, field in enumerate(fields[::2])
            for piece in (BOX.parse(field) if i % 2 else _cut(field))]


def _cut(text: str) -> list[str | Box]:
    """Text without marks; brackets that hold no box are words like any others."""
    parts, end = [], 0
    for match in BRACKETS.finditer(text):
        if boxes := BOX.parse(match[0]):
            parts += [text[end:match.start()], *boxes]
            end = match.end()
    return [*parts, text[end:]]


def encode(tokenizer: TinyTokenizer, text: str, representation: str = "feature",
           move: Move | None = None) -> tuple[list[int], list[Box]]:
    """(ids, boxes of their regions); 'text' has no regions, so no boxes. move: `jitter`."""
    parts = pieces(text)
    boxes = [piece for piece in parts if not isinstance(piece, str)]
    boxes = move(boxes) if move and boxes else boxes
    ids, rest = [], iter(boxes)
    for piece in parts:
        if isinstance(piece, str):
            ids += tokenizer.encode(piece)
        elif representation == "text":
            ids += tokenizer.encode(BOX.format(next(rest)))
        else:
            slots = [tokenizer.region_id] * SLOTS[representation]
            ids += [len(tokenizer), *slots, len(tokenizer) + 1]
    return ids, [] if representation == "text" else boxes


def conversation(tokenizer: TinyTokenizer, turns: list[Turn], question: str,
                 representation: str = "feature", move: Move | None = None,
                 picture: tuple[int, ...] = ()) -> tuple[list[int], list[Box]]:
    """Earlier turns, each answer closed by <eos>, then the question: (ids, boxes) of one prompt.
    Boxes of earlier answers stay words, as the model wrote them. picture: ids before the first
    question."""
    ids, boxes = [], []
    for i, (question, answer) in enumerate([*turns, (question, None)]):
        question_ids, question_boxes = encode(tokenizer, question, representation, move)
        question_ids = [*picture * (i == 0), *question_ids]
        ids, boxes = ids + tokenizer.chat_prompt(question_ids), boxes + question_boxes
        if answer is not None:
            ids += [*tokenizer.encode(answer), tokenizer.eos_id]
    return ids, boxes


def picture_ids(tokenizer: TinyTokenizer, s: PvitSettings) -> tuple[int, ...]:
    """Where the text holds the picture's tokens: <im_start>, <im_patch> for each, <im_end>, then a
    line's end; else nothing. The ids of patch, start and end follow one another."""
    if (patch := s.image_id) is None:
        return ()
    return (patch + 1, *[patch] * s.vision.side ** 2, patch + 2, *tokenizer.encode("\n"))


def jitter(boxes: Tensor, share: float = 0.02, generator: torch.Generator | None = None) -> Tensor:
    """Each coordinate moved by up to `share` of the box's own side, inside the image: [R, 4].
    Training only (official code, spec 4): annotated boxes are exact, drawn ones are not."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)                    # [R, 4]: w, h, w, h
    noise = torch.rand(boxes.shape, generator=generator) * 2 - 1
    return (boxes + share * noise * sides).clamp(0, 1)


def make_inputs(model: Pvit, tokenizer: TinyTokenizer, states: list[Tensor], prompts: list[str],
                answers: list[str] | None = None, turns: list[list[Turn]] | None = None,
                maps: list | None = None, train: bool = False,
                generator: torch.Generator | None = None) -> PvitInputs:
    """Text to ids and boxes. Samples of an image stand together: S = n*B.
    turns: the earlier turns of each sample; None: none of them has any.
    maps: model.regions.encode_images(images); TinyRegions needs none.
    train: jitter the boxes, by `generator` (a CPU one) or else by torch's own.
    """
    def move(boxes: list[Box]) -> list[Box]:
        return [tuple(b) for b in jitter(torch.tensor(boxes), generator=generator).tolist()]

    picture = picture_ids(tokenizer, model.settings)
    rows = [conversation(tokenizer, before, prompt, model.settings.representation,
                         move if train else None, picture)
            for prompt, before in zip(prompts, turns or [[]] * len(prompts), strict=True)]
    return PvitInputs(states, [ids for ids, _ in rows], [boxes for _, boxes in rows],
                      answers and [tokenizer.encode(a) for a in answers], maps)
