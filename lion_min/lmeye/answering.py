"""An LMEye that is ready to be asked: model and tokenizer behind see / select / answer."""

from __future__ import annotations

from lion_min.parts import Seen
from lion_min.lmeye.model import Lmeye
from lion_min.lmeye.prompt import make_inputs
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead


OTHER = "What is in the image?"


class LmeyeSystem(Seen):
    """What infer.py and evaluation.py talk to. asks False: stage 1, which has no request yet."""

    def __init__(self, model: Lmeye, tokenizer: TinyTokenizer, tagger: TagHead, asks: bool):
        self.model, self.tokenizer, self.tagger = model.eval(), tokenizer, tagger.eval()
        self.asks = asks

    def answer(self, features: dict, prompts: list[str], **options) -> list[str]:
        """One answer an image."""
        if self.model.settings.control == "foreign" and len(prompts) == 1:
            # Alone it has no other question's request to take: lend it one about its picture.
            return self.answer(self.select([features], [0, 0]), [*prompts, OTHER], **options)[:1]
        x = make_inputs(self.model, self.tokenizer, features["states"], prompts, asks=self.asks)
        return [self.tokenizer.decode(row) for row in self.model.generate(x, **options).tolist()]
