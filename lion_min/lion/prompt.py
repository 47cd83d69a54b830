"""Text to the inputs of Lion: ids with placeholders, region rows, the tag preface, the task.

Symbols: B images, S samples (S = n*B), Lq tokens of a question.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from lion_min.adapters import IMAGE, REGION
from lion_min.boxes import BoxText
from lion_min.padding import pad_rows
from lion_min.lion.model import Lion, LionInputs
from lion_min.lion.softprompt import with_tags
from lion_min.tokenizer import TinyTokenizer

WANTS_A_BOX = re.compile(r"\b(where|find|locate|coordinates|box(es)? of|point to|show me)\b",
                         re.IGNORECASE)


def route(prompt: str) -> int:
    """LION's category of a prompt: REGION when it holds a box or requests one, else IMAGE. In the
    official code the caller decides, and a flag of the wrong type means IMAGE (spec 2.9)."""
    return REGION if BoxText().parse(prompt) or WANTS_A_BOX.search(prompt) else IMAGE


def question_batch(tokenizer: TinyTokenizer, prompts: list[str], most: int,
                   device) -> tuple[Tensor, Tensor]:
    """The bare questions for the Q-Former: ids and mask [S, Lq], cut on the right at `most`."""
    ids = pad_rows([tokenizer.encode(p)[:most] or [tokenizer.unk_id or 0] for p in prompts], -1)
    return ids.masked_fill(ids < 0, tokenizer.pad_id).to(device), (ids >= 0).to(device)


def make_inputs(model: Lion, tokenizer: TinyTokenizer, states: list[Tensor], prompts: list[str],
                task: int, answers: list[str] | None = None, tags: list[list[str]] | None = None,
                as_text: list[bool] | None = None, questions=None) -> LionInputs:
    """Text to ids, boxes to region rows. Samples of an image stand together: S = n*B.

    tags: of each sample, for the preface with the soft prompt (stage 4); None: no preface.
    as_text: samples whose boxes stay text alone, without region tokens; None: none of them.
    questions: the Q-Former's tokenizer (published: BERT's); None: the LLM's."""
    s, device = model.settings, states[0].device
    n = len(prompts) // len(states[0])
    region = [s.region_tokens and s.mode != "qformer" and not text
              for text in as_text or [False] * len(prompts)]
    rows = [tokenizer.encode(p, r) for p, r in zip(prompts, region)]
    if tags is not None:
        rows = [tag_ids(tokenizer, t) + row for t, row in zip(tags, rows)]
    rows = [tokenizer.chat_prompt(row) for row in rows]
    boxes = [(i // n, b) for i, p in enumerate(prompts) if region[i] for b in BoxText().parse(p)]
    ids, mask = question_batch(questions or tokenizer, prompts, s.qformer.max_text, device)
    return LionInputs(
        states, ids, mask, rows, task,
        answers and [tokenizer.encode(a) for a in answers],
        torch.tensor([b for _, b in boxes], device=device) if boxes else None,
        torch.tensor([i for i, _ in boxes], device=device) if boxes else None)


def tag_ids(tokenizer: TinyTokenizer, tags: list[str]) -> list[int]:
    """The tag preface; only here does <extra_id_0> become the token that the vector replaces."""
    before, after = with_tags("", tags).split("<extra_id_0>")
    return [*tokenizer.encode(before), tokenizer.hint_id, *tokenizer.encode(after)]
