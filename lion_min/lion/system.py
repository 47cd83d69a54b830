"""LION as a system: built around the frozen parts, trained by rounds, answering by route."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lion_min.adapters import IMAGE, REGION
from lion_min.lion.explain import explain
from lion_min.lion.model import Lion, LionInputs, tiny
from lion_min.lion.prompt import make_inputs, route
from lion_min.lion.softprompt import noisy_tags
from lion_min.system import System
from lion_min.questions import examples


class LionSystem(System):
    """LION's stages 1-4; `stage` is a LionStage."""

    ANSWERS = ("joint", 1, 2, 3, 4)
    explain = explain                      # what stands behind an answer
    question_tokenizer = None              # the Q-Former's, where not the LLM's (published: BERT's)

    def build(self) -> Lion:
        p = self.parts
        settings = p.published or tiny(p.vision.settings, len(p.tokenizer),
                                       llm=p.llm.settings.family)
        settings = replace(settings, mode=self.stage.mode, **self.stage.changes)
        return Lion(settings, p.vision, p.llm)

    @property
    def depths(self) -> set[int]:
        return {*self.model.settings.depths, *self.model.settings.region_depths}

    @property
    def reads_tags(self) -> bool:
        """Stage 4 and an imported LION do."""
        return "soft_prompt" in self.stage.trains

    def batch_loss(self, round_, scenes, features, rng) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch is of one level, as the router needs; some boxes stay text alone; in stage 4
        every prompt has its tags, some of them wrong."""
        s = self.stage
        questions = [e for scene in scenes for e in examples(scene, rng, round_.tasks)]
        # Tags from outside have their mistakes already.
        tags = [t if self.tags_of else noisy_tags(t, self.tagger.tags, rng, s.tag_noise)
                for t in features["tags"] for _ in round_.tasks] if s.tags else None
        as_text = [rng.random() < s.box_as_text for _ in questions]
        task = REGION if round_.level == "region" else IMAGE
        return self.model(self.inputs(features, [e.prompt for e in questions], task,
                                      [e.answer for e in questions], tags, as_text))

    def inputs(self, features: dict, prompts: list[str], task: int, answers=None, tags=None,
               as_text=None) -> LionInputs:
        """The model's inputs; tags: not the tagger's own. See make_inputs."""
        tags = tags or (features["tags"] if self.stage.tags or self.tags_of else None)
        return make_inputs(self.model, self.tokenizer, features["states"], prompts, task, answers,
                           tags, as_text, self.question_tokenizer)

    def answer(self, features: dict, prompts: list[str], **options) -> list[str]:
        """One answer a picture; a batch may mix prompts of both routes."""
        answers = [""] * len(prompts)
        for task in (REGION, IMAGE):
            if rows := [i for i, p in enumerate(prompts) if route(p) == task]:
                x = self.inputs(self.index([features], rows), [prompts[i] for i in rows], task)
                for i, ids in zip(rows, self.model.generate(x, **options).tolist()):
                    answers[i] = self.tokenizer.decode(ids)
        return answers


SYSTEM = LionSystem
