"""Text to the inputs of Lmeye: question, request token, return slots, and the question again.

The paper's own form, whose image is added onto <img>, is asked as officially (spec section 3):
"Image: <img>", the question, "<img-d> x5\\nAnswer:". The tiny LLM was trained on a scene and then
its question, so elsewhere the question follows the slots.
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
    rows = [prompt_ids(model, tokenizer, p, requests) for p in prompts]
    return LmeyeInputs(states, rows, answers and [tokenizer.encode(a) for a in answers], blind)


def prompt_ids(model: Lmeye, tokenizer: TinyTokenizer, prompt: str,
               requests: bool = True) -> list[int]:
    """[question | <img-q> | <img-d> x m | question], or the question alone, as a chat's turn."""
    s, ids = model.settings, tokenizer.encode(prompt)
    slots = [s.slot_id] * s.interaction.returned * requests
    if s.static == "pooled":
        image, answer = ([*tokenizer.encode("Image:"), s.img_id], tokenizer.encode("\nAnswer:"))
        ids = [*image, *tokenizer.encode("\n"), *ids, *slots, *answer]
    elif requests:
        ids = [*ids, s.request_id, *slots, *ids]
    return tokenizer.chat_prompt(ids)
