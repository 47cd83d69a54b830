"""Lyrics as three systems, one a stage: the refiner, the alignment, the instructions.

Only the last has an LLM and answers prompts; the other two have losses and scores of their own.
"""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from lion_min.lyrics.explain import explain
from lion_min.lyrics.model import Alignment, Lyrics
from lion_min.lyrics.prompt import captions, make_inputs, objects_of
from lion_min.lyrics.refiner import Refined, TinyRefiner
from lion_min.lyrics.refiner_system import CHECKS, RefinerSystem
from lion_min.lyrics.retrieval import retrieval
from lion_min.scenes import World, make_scene
from lion_min.system import System
from lion_min.questions import examples


class AlignmentSystem(RefinerSystem):
    """Stage 1: MQ-Former and heads on ITC, ITM, ICG and MSP."""

    def build(self) -> Alignment:
        return Alignment(self.settings, self.parts.vision, self.trained_refiner())

    def refined(self, states: list[Tensor], images: list[Image.Image]) -> Refined:
        """What the refiner finds: the tiny one in states, the published one in pictures."""
        seen = images if self.reads_tags else states
        return self.model.refiner.refine(seen, self.tags(states, images))

    def features(self, states: list[Tensor], images: list[Image.Image]) -> dict:
        """Frozen features, tags and objects of images."""
        if self.model.refiner is None:
            return super().features(states, images) | {"objects": None}
        refined, s = self.refined(states, images), self.model.settings
        objects = objects_of(refined, self.tokenizer, s.special.pad, every=not s.object_lines)
        return {"states": states, "tags": refined.tags, "objects": objects}

    def batch_loss(self, round_, scenes, features, rng) -> tuple[Tensor, dict[str, Tensor]]:
        text = captions([s.caption() for s in scenes], self.tokenizer, self.model.settings,
                        features["objects"])
        return self.model(features["states"], features["objects"],
                          text.to(features["states"][0].device))

    def score_scenes(self, scenes: list) -> dict:
        return retrieval(self, scenes)


class LyricsSystem(AlignmentSystem):
    """Stage 2: what the queries read becomes tokens of a frozen LLM, which LoRA adapts."""

    ANSWERS = (2,)
    explain = explain                      # what stands behind an answer
    question_text = None                   # prompts -> PairText in other words (published: BERT's)
    frozen_parts = ("vision", "llama")
    score = System.score

    def build(self) -> Lyrics:
        return Lyrics(self.settings, self.parts.vision, self.trained_refiner(), self.parts.llm)

    def batch_loss(self, round_, scenes, features, rng) -> tuple[Tensor, dict[str, Tensor]]:
        samples = [e for scene in scenes for e in examples(scene, rng, round_.tasks)]
        return self.model(self.inputs(features, [e.prompt for e in samples],
                                      [e.answer for e in samples]))

    def inputs(self, features: dict, prompts: list[str], answers: list[str] | None = None):
        """The model's inputs, see make_inputs."""
        return make_inputs(self.model, self.tokenizer, features["states"], features["objects"],
                           prompts, answers, self.question_text)

    def answer(self, features: dict, prompts: list[str], **options) -> list[str]:
        """One answer a picture."""
        x = self.inputs(features, prompts)
        return [self.tokenizer.decode(row) for row in self.model.generate(x, **options).tolist()]

    def report(self, world: World, count: int, seed: int) -> dict:
        """The scores of stages 0 and 1 beside every system's."""
        scenes, report = [make_scene(world, "heldout", seed, i) for i in range(count)], {}
        if isinstance(self.model.refiner, TinyRefiner):
            stage0 = RefinerSystem(self.parts, self.stage, self.model.refiner)
            report["refiner"] = stage0.score_scenes(scenes)
        if self.open_stage is not None:
            report["retrieval"] = self.open_stage(1).score_scenes(scenes[:CHECKS])
        return report


def SYSTEM(parts, stage, model=None) -> RefinerSystem:
    """The system of a stage: each of the three stages has a model of its own."""
    return (RefinerSystem, AlignmentSystem, LyricsSystem)[stage.number](parts, stage, model)
