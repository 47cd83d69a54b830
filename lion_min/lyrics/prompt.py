"""Pictures' objects and texts -> what Lyrics reads, in both stages.

    an object's line     small red circle <x4> <y1> <l8> <t8> <r6> <b11>      W words, one slot
    stage 1, a pair      [CLS] line [SEP] line [SEP] caption [END]      pairtext.py
    stage 2, a question  [CLS] question [END], for the MQ-Former; the question alone for the LLM

Symbols: B images, S samples (S = n*B), M objects, W words of a line.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from lion_min.boxes import Box, BoxText
from lion_min.padding import pad_rows
from lion_min.lyrics.model import Lyrics, LyricsInputs, LyricsSettings, Objects
from lion_min.lyrics.pairtext import PairText, pair_text
from lion_min.lyrics.refiner import Refined, TinyRefiner
from lion_min.tokenizer import WORDS, TinyTokenizer, box_words

LABEL = 6                                  # words of a label at most: four, and two strays
DIGITS = 34                                # tokens of a box in digits, at most
LINES = 64                                 # objects of a picture that have a line, the surest
NUMBER = re.compile(r"(\d\.\d+)")


def objects_of(refined: Refined, tokenizer: TinyTokenizer, pad: int = 0,
               every: bool = False) -> Objects:
    """The detected objects as the model takes them; a box that no word names is no line.

    pad: what fills a line; every: queries read each detection, kept or not, as published.
    """
    words = WORDS if isinstance(tokenizer, TinyTokenizer) else DIGITS
    shown = refined.mask[:, :LINES]
    lines = torch.full((*shown.shape, LABEL + words), pad)                # [B, <= M, W]
    parts = torch.zeros_like(lines)
    for b, m in shown.nonzero().tolist():
        ids, units = line(tokenizer, refined.labels[b][m], refined.boxes[b, m].tolist())
        for row, values in ((lines, ids), (parts, units)):
            row[b, m, :len(values)] = torch.tensor(values[:LABEL + words], dtype=torch.long)
    device, mask = refined.features.device, refined.mask
    return Objects(refined.features, torch.ones_like(mask) if every else mask,
                   lines.to(device), parts.to(device))


def line(tokenizer: TinyTokenizer, label: str, box: Box) -> tuple[list[int], list[int]]:
    """(ids of an object's label and box, the unit of each): the label is unit 1, each number of the
    box another one, the signs between them are 0. Empty for a label without words."""
    if not (ids := tokenizer.encode(label)[:LABEL]):
        return [], []
    if isinstance(tokenizer, TinyTokenizer):
        pieces = [piece for word in box_words(box) for piece in ([], [tokenizer.ids[word]])]
    else:                                  # '[', '0.352', ',', ...: each second piece is a number
        pieces = [tokenizer.encode(text) for text in NUMBER.split(BoxText().format(box))]
    units = [1] * len(ids)
    for i, piece in enumerate(pieces):
        ids, units = ids + piece, units + [i % 2 * (i // 2 + 2)] * len(piece)
    return ids, units


def refined_features(refiner: TinyRefiner, states: list[Tensor], tokenizer: TinyTokenizer) -> dict:
    """Frozen states with the tags and the objects that the refiner finds in them."""
    refined = refiner.refine(states)
    return {"states": states, "tags": refined.tags, "objects": objects_of(refined, tokenizer)}


def captions(texts: list[str], tokenizer: TinyTokenizer, settings: LyricsSettings,
             objects: Objects | None = None) -> PairText:
    """Texts, each behind its picture's objects or (None) alone. Questions, too, are texts."""
    lines, parts = ([[]] * len(texts), None) if objects is None else (
        objects.lines.tolist(), objects.parts.tolist())
    return pair_text(lines, [tokenizer.encode(t) for t in texts], settings.special,
                     most=settings.mqformer.max_text, parts=parts)


def bert_text(questions, prompts: list[str], most: int) -> PairText:
    """Bare questions in the words of a published Q-Former's own tokenizer."""
    ids = pad_rows([questions.encode(p)[:most] for p in prompts], -1)     # [S, L]
    none = torch.zeros_like(ids)
    return PairText(ids.clamp(min=0), ids >= 0, torch.arange(ids.shape[1]).expand_as(ids), none,
                    none.bool())


def make_inputs(model: Lyrics, tokenizer: TinyTokenizer, states: list[Tensor],
                objects: Objects | None, prompts: list[str],
                answers: list[str] | None = None, questions=None) -> LyricsInputs:
    """Samples of an image stand together: S = n*B. questions: the MQ-Former's own tokenizer
    (published: BERT's); None: it has the LLM's."""
    text = captions(prompts, tokenizer, model.settings) if questions is None else bert_text(
        questions, prompts, model.settings.mqformer.max_text)
    rows = [tokenizer.chat_prompt(tokenizer.encode(p)) for p in prompts]
    return LyricsInputs(states, objects, text.to(states[0].device), rows,
                        answers and [tokenizer.encode(a) for a in answers])
