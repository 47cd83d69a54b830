"""One question about one picture, for any system: checks, the answer, its boxes, its drawing.

A system is what evaluation.py talks to: `see`, `answer`, and a `tokenizer`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from PIL import Image

from lion_min import BadInput
from lion_min.boxes import Box, BoxText, prompt_boxes
from lion_min.drawing import draw_boxes
from lion_min.tiny.is_drawn import is_drawn
from lion_min.tokenizer import TinyTokenizer

MAX_TOKENS = 512         # of a question; the tiny LLMs were trained on far shorter ones
ABOUT_A_BOX = re.compile(r"\b(describe|in|inside|within|does)\s+((the|this|that)\s+)?"
                         r"(box|region)\b", re.IGNORECASE)
BOX_LITERAL = re.compile(r"\[[0-9., ]*\]")


@dataclass
class Reply:
    """What was asked and answered. Boxes are xyxy fractions of the upright picture."""

    prompt: str                # as the model read it
    answer: str
    asked: list[Box]           # boxes of the prompt
    boxes: list[Box]           # boxes of the answer
    seconds: float             # from the picture in memory to the answer, loading not counted
    features: object           # what the system saw; for its explanation


def read_prompt(prompt: str, image: Image.Image) -> tuple[str, list[Box], list[str]]:
    """(prompt in the model's text, its boxes, notes); BadInput for what cannot be asked."""
    text, boxes, notes = prompt_boxes(prompt, *image.size)
    if ABOUT_A_BOX.search(text) and not boxes:
        raise BadInput('prompt: it needs a box, such as "describe box [x1,y1,x2,y2]" '
                       "with fractions or pixels of the picture")
    return text, boxes, notes


def ask(system, image: Image.Image, prompt: str, asked: list[Box]) -> Reply:
    """Ask a system; `prompt` and `asked` come from read_prompt."""
    tokens = len(system.tokenizer.encode(prompt))
    if not 1 <= tokens <= MAX_TOKENS:
        raise BadInput(f"prompt: {tokens} words and signs; from 1 to {MAX_TOKENS} are read")
    start = time.perf_counter()
    features = system.see([image])
    answer = system.answer(features, [prompt])[0]
    return Reply(prompt, answer, asked, BoxText().parse(answer), time.perf_counter() - start,
                 features)


def doubts(tokenizer, image: Image.Image, prompt: str) -> list[str]:
    """What the user should know beside the answer: a photograph, words never learnt."""
    if not isinstance(tokenizer, TinyTokenizer):       # of a pretrained LLM: any words, any picture
        return []
    notes = [] if is_drawn(image) else [
        "this looks like a photograph; the tiny preset only knows the drawn world of "
        "lion_min.scenes, so do not trust its answer"]
    if words := unknown_words(tokenizer, prompt):
        told = ", ".join(map(ascii, words[:5])) + (", ..." if words[5:] else "")
        notes.append(f"the tiny preset does not know {told}")
    return notes


def unknown_words(tokenizer, prompt: str) -> list[str]:
    """Words and signs outside the vocabulary, each once, in reading order; boxes left out."""
    pieces = re.findall(r"[^\W\d_]+|[^\w\s]|_", BOX_LITERAL.sub(" ", prompt))
    return list(dict.fromkeys(p for p in pieces if tokenizer.unk_id in tokenizer.encode(p)))


def in_pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Whole pixels of the displayed picture, at least one apart."""
    (x1, x2), (y1, y2) = (_side(box[i], box[i + 2], n) for i, n in ((0, width), (1, height)))
    return x1, y1, x2, y2


def _side(low: float, high: float, length: int) -> tuple[int, int]:
    first = min(round(low * length), length - 1)
    return first, max(first + 1, round(high * length))


def drawn_reply(image: Image.Image, reply: Reply) -> Image.Image:
    """The picture with every box of prompt and answer, each with its label."""
    one = len(reply.asked) == 1 and not reply.boxes       # the answer describes that box
    labels = [reply.answer if one else f"box {i}" for i in range(1, len(reply.asked) + 1)]
    question = " ".join(BOX_LITERAL.sub("", reply.prompt).split())
    return draw_boxes(image, reply.asked + reply.boxes, labels + [question] * len(reply.boxes))
