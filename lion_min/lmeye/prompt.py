"""Text to the inputs of Lmeye: question, request token, return slots, and the question again.

The official prompts end in "<img-d> x5\\nAnswer:" (spec section 3). The tiny LLM was trained on a
scene and then its question, so here the question follows the slots.
"""

from __future__ import annotations

from torch import Tensor

from lion_min.lmeye.model import Lmeye, LmeyeInputs
from lion_min.tokenizer import TinyTokenizer

OTHER = "What is in the image?"              # a question to compare with, or to borrow from


def make_inputs(model: Lmeye, tokenizer: TinyTokenizer, states: list[Tensor], prompts: list[str],
                answers: list[str] | None = None, requests: bool = True,
                blind: bool = False) -> LmeyeInputs:
    """Samples of an image stand together, S = n*B; without `requests` no request, no slots."""
    rows = [prompt_ids(model, tokenizer, p) if requests else tokenizer.encode(p) for p in prompts]
    return LmeyeInputs(states, rows, answers and [tokenizer.encode(a) for a in answers], blind)


def prompt_ids(model: Lmeye, tokenizer: TinyTokenizer, prompt: str) -> list[int]:
    """[question | <img-q> | <img-d> x m | question]."""
    s, ids = model.settings, tokenizer.encode(prompt)
    return [*ids, s.request_id, *[s.slot_id] * s.interaction.returned, *ids]
