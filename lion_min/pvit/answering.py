"""A PVIT that is ready to be asked: model and tokenizer behind see / select / answer."""

from __future__ import annotations

from lion_min.parts import Seen
from lion_min.pvit.fineeval import fine_eval
from lion_min.pvit.model import Pvit
from lion_min.pvit.prompt import Turn, make_inputs
from lion_min.scenes import World
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead


class PvitSystem(Seen):
    """What infer.py and evaluation.py talk to. An image's map is computed once, in `see`."""

    def __init__(self, model: Pvit, tokenizer: TinyTokenizer, tagger: TagHead):
        self.model, self.tokenizer, self.tagger = model.eval(), tokenizer, tagger.eval()

    def answer(self, features: dict, prompts: list[str],
               turns: list[list[Turn]] | None = None, **options) -> list[str]:
        """One answer an image; turns: what each sample asked and answered before."""
        x = make_inputs(self.model, self.tokenizer, features["states"], prompts, turns=turns)
        return [self.tokenizer.decode(row) for row in self.model.generate(x, **options).tolist()]

    def report(self, world: World, count: int, seed: int) -> dict:
        """What `python -m lion_min.evaluate --system pvit` adds to every system's scores."""
        return {"fine_eval": fine_eval(self, world, count, seed)}
