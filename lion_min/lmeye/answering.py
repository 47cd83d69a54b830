"""An LMEye that is ready to be asked: model and tokenizer behind see / select / answer."""

from __future__ import annotations

from lion_min.frozen import Seen
from lion_min.lmeye.model import Lmeye
from lion_min.lmeye.prompt import make_inputs
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead


class LmeyeSystem(Seen):
    """What infer.py and evaluation.py talk to. asks False: stage 1, which has no request yet."""

    def __init__(self, model: Lmeye, tokenizer: TinyTokenizer, tagger: TagHead, asks: bool):
        self.model, self.tokenizer, self.tagger = model.eval(), tokenizer, tagger.eval()
        self.asks = asks

    def answer(self, features: dict, prompts: list[str], **options) -> list[str]:
        """One answer an image."""
        x = make_inputs(self.model, self.tokenizer, features["states"], prompts, asks=self.asks)
        return [self.tokenizer.decode(row) for row in self.model.generate(x, **options).tolist()]
