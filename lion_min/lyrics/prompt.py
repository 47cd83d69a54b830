"""Pictures' objects and texts -> what Lyrics reads, in both stages.

    an object's line     small red circle <x4> <y1> <l8> <t8> <r6> <b11>      W words, one slot
    stage 1, a pair      [CLS] line [SEP] line [SEP] caption [END]      pairtext.py
    stage 2, a question  [CLS] question [END], for the MQ-Former; the question alone for the LLM

Symbols: B images, S samples (S = n*B), M objects, W words of a line.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lion_min.boxes import Box
from lion_min.lyrics.model import Lyrics, LyricsInputs, LyricsSettings, Objects
from lion_min.lyrics.pairtext import PairText, pair_text
from lion_min.lyrics.refiner import Refined
from lion_min.tokenizer import TinyTokenizer

LABEL = 6                                  # words of a label at most: four, and two strays
LINES = 64                                 # objects of a picture that have a line, the surest


def objects_of(refined: Refined, tokenizer: TinyTokenizer, pad: int = 0,
               every: bool = False) -> Objects:
    """The detected objects as the model takes them; a box that no word names is no line.

    pad: what fills a line; every: queries read each detection, kept or not, as published.
    """
    shown, most = refined.mask[:, :LINES], LABEL + tokenizer.box_length
    lines = torch.full((*shown.shape, most), pad)                         # [B, <= M, W]
    parts = torch.zeros_like(lines)
    for b, m in shown.nonzero().tolist():
        ids, units = line(tokenizer, refined.labels[b][m], refined.boxes[b, m].tolist())
        for row, values in ((lines, ids), (parts, units)):
            row[b, m, :len(values)] = torch.tensor(values[:most], dtype=torch.long)
    mask = torch.ones_like(refined.mask) if every else refined.mask
    return Objects(refined.features, mask, lines, parts).to(mask.device)


def line(tokenizer: TinyTokenizer, label: str, box: Box) -> tuple[list[int], list[int]]:
    """(ids of an object's label and box, the unit of each): the label is unit 1, each number of the
    box another one, the signs between them are 0. Empty for a label without words."""
    if not (ids := tokenizer.encode(label)[:LABEL]):
        return [], []
    units = [1] * len(ids)
    for i, piece in enumerate(tokenizer.box_pieces(box)):  # each second piece is a number
        ids, units = ids + piece, units + [i % 2 * (i // 2 + 2)] * len(piece)
    return ids, units


def captions(texts: list[str], tokenizer: TinyTokenizer, settings: LyricsSettings,
             objects: Objects | None = None) -> PairText:
    """Texts, each behind its picture's objects or (None) alone. Questions, too, are texts."""
    lines, parts = ([[[]] * len(texts)] * 2 if objects is None else
                    (objects.lines.tolist(), objects.parts.tolist()))
    return pair_text(lines, parts, [tokenizer.encode(t) for t in texts], settings.special,
                     most=settings.mqformer.max_text)


def make_inputs(model: Lyrics, tokenizer: TinyTokenizer, states: list[Tensor],
                objects: Objects | None, prompts: list[str],
                answers: list[str] | None = None,
                text_of: Callable[[list[str]], PairText] | None = None) -> LyricsInputs:
    """Samples of an image stand together: S = n*B. text_of: the prompts as the MQ-Former reads
    them; None: in the LLM's words."""
    text = text_of(prompts) if text_of else captions(prompts, tokenizer, model.settings)
    rows = [tokenizer.chat_prompt(tokenizer.encode(p)) for p in prompts]
    return LyricsInputs(states, objects, text.to(states[0].device), rows,
                        answers and [tokenizer.encode(a) for a in answers])
