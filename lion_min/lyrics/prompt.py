"""Pictures' objects and texts -> what Lyrics reads, in both stages.

    an object's line     small red circle <x4> <y1> <l8> <t8> <r6> <b11>      W words, one slot
    stage 1, a pair      [CLS] line [SEP] line [SEP] caption [END]      pairtext.py
    stage 2, a question  [CLS] question [END], for the MQ-Former; the question alone for the LLM

Symbols: B images, S samples (S = n*B), M objects, W words of a line.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lion_min.lyrics.model import Lyrics, LyricsInputs, LyricsSettings, Objects
from lion_min.lyrics.pairtext import PairText, pair_text
from lion_min.lyrics.refiner import Refined, TinyRefiner
from lion_min.tokenizer import WORDS, TinyTokenizer, box_words

LABEL = 6                                  # words of a label at most: four, and two strays


def objects_of(refined: Refined, tokenizer: TinyTokenizer) -> Objects:
    """The detected objects as the model takes them; a box that no word names is no line."""
    lines = torch.full((*refined.mask.shape, LABEL + WORDS), tokenizer.pad_id)  # [B, M, W]
    for b, m in refined.mask.nonzero().tolist():
        if label := tokenizer.encode(refined.labels[b][m])[:LABEL]:
            words = box_words(refined.boxes[b, m].tolist())
            ids = label + [tokenizer.ids[w] for w in words]
            lines[b, m, :len(ids)] = torch.tensor(ids)
    return Objects(refined.features, refined.mask, lines.to(refined.features.device))


def refined_features(refiner: TinyRefiner, states: list[Tensor], tokenizer: TinyTokenizer) -> dict:
    """Frozen states with the tags and the objects that the refiner finds in them."""
    refined = refiner.refine(states)
    return {"states": states, "tags": refined.tags, "objects": objects_of(refined, tokenizer)}


def captions(texts: list[str], tokenizer: TinyTokenizer, settings: LyricsSettings,
             objects: Objects | None = None) -> PairText:
    """Texts, each behind its picture's objects or (None) alone. Questions, too, are texts."""
    lines = [[]] * len(texts) if objects is None else objects.lines.tolist()
    return pair_text(lines, [tokenizer.encode(t) for t in texts], settings.special,
                     most=settings.mqformer.max_text)


def make_inputs(model: Lyrics, tokenizer: TinyTokenizer, states: list[Tensor],
                objects: Objects | None, prompts: list[str],
                answers: list[str] | None = None) -> LyricsInputs:
    """Samples of an image stand together: S = n*B."""
    text = captions(prompts, tokenizer, model.settings).to(states[0].device)
    return LyricsInputs(states, objects, text, [tokenizer.encode(p) for p in prompts],
                        answers and [tokenizer.encode(a) for a in answers])
