"""LMEye as a system: built around the frozen parts, trained to request, answering."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lion_min.lmeye.explain import explain
from lion_min.lmeye.model import Lmeye, tiny
from lion_min.lmeye.prompt import OTHER, make_inputs
from lion_min.stage import ROUNDS
from lion_min.system import System
from lion_min.questions import examples


class LmeyeSystem(System):
    """LMEye's two stages; `stage` is an LmeyeStage. Stage 1 has no request yet."""

    ANSWERS = (1, 2)
    explain = explain                      # what stands behind an answer

    def build(self) -> Lmeye:
        p = self.parts
        settings = p.published or tiny(p.vision.settings, len(p.tokenizer))
        settings = replace(settings, control=self.stage.control, **self.stage.changes)
        model = Lmeye(settings, p.vision, p.llm)
        if "tower" in p.beside:
            model.interaction.encoder.model.load_state_dict(p.beside["tower"].state_dict())
        return model

    @property
    def depths(self) -> set[int]:
        s = self.model.settings
        states = 1 if s.reads == "pooled" else s.vision.blocks + 1
        return {d % states for d in (*s.depths, -1)}

    def batch_loss(self, round_, scenes, features, rng) -> tuple[Tensor, dict[str, Tensor]]:
        questions = [e for scene in scenes for e in examples(scene, rng, round_.tasks)]
        blind = any(ROUNDS[name] == round_ for name in self.stage.blind)
        return self.model(make_inputs(
            self.model, self.tokenizer, features["states"], [e.prompt for e in questions],
            [e.answer for e in questions], self.stage.requests, blind))

    def answer(self, features: dict, prompts: list[str], **options) -> list[str]:
        """One answer a picture."""
        if self.model.settings.control == "foreign" and len(prompts) == 1:
            # A single sample has no other one's request: add a question about its picture.
            return self.answer(self.index([features], [0, 0]), [*prompts, OTHER], **options)[:1]
        x = make_inputs(self.model, self.tokenizer, features["states"], prompts, requests=self.stage.requests)
        return [self.tokenizer.decode(row) for row in self.model.generate(x, **options).tolist()]


SYSTEM = LmeyeSystem
