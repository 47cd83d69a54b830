"""Lyrics as three systems, one a stage: the refiner, the alignment, the instructions.

Only the last has an LLM and answers prompts; the other two have losses and scores of their own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from lion_min import BadInput, checkpoints
from lion_min.cli import LYRICS
from lion_min.features import encode_images
from lion_min.lyrics.detection_loss import refiner_loss
from lion_min.lyrics.detection_scores import refiner_scores
from lion_min.lyrics.explain import explain
from lion_min.lyrics.model import Alignment, Lyrics, LyricsSettings, tiny
from lion_min.lyrics.prompt import captions, make_inputs, objects_of
from lion_min.lyrics.refiner import Refined, RefinerSettings, TinyRefiner
from lion_min.lyrics.retrieval import retrieval
from lion_min.parts import run_folder, say_if_bundled, say_if_stage0_bundled
from lion_min.scenes import World, make_scene
from lion_min.system import System
from lion_min.questions import examples

CHECKS = 256                               # held-out scenes of stages 0 and 1


def load_refiner(settings: RefinerSettings, tagger: nn.Module, out: Path) -> TinyRefiner:
    """The refiner that stage 0 trained, in `out` or bundled."""
    refiner = TinyRefiner(settings, tagger)
    folder = run_folder(LYRICS, out, 0)
    checkpoints.load_into(refiner, checkpoints.load_run(folder)[0], folder / checkpoints.MODEL,
                          [n for n, p in refiner.named_parameters() if p.requires_grad])
    return refiner


class RefinerSystem(System):
    """Stage 0: boxes, words and masks from the frozen ViT's states. No LLM, no text."""

    frozen_parts = ("vision",)             # of the tiny stage 0

    def build(self) -> nn.Module:
        return TinyRefiner(self.settings.refiner, self.tagger)

    @property
    def settings(self) -> LyricsSettings:
        settings = self.parts.published or tiny(
            self.parts.vision.settings, len(self.tokenizer), self.stage.refiner)
        return replace(settings, **self.stage.changes)

    @property
    def depths(self) -> set[int]:
        s, states = self.settings, self.parts.vision.settings.blocks + 1
        return {d % states for d in (*s.depths, *getattr(s.refiner, "depths", ()), -1)}

    def announce(self) -> None:
        if self.parts.source is not None:
            if not self.tagger.tags and not self.tags_of:
                raise BadInput(f"{self.parts.out}: has no tag head, and tags prompt the detector; give "
                               "--tags FILE, or train one on named objects: --stage 0 --data COCO")
            # a detector takes long: it sees a picture once
            self.model.refiner.keep = self.parts.out / self.name / "refined"
            return
        say_if_stage0_bundled(self.parts.out, *self.frozen_parts)
        if self.stage.number and self.settings.refiner is not None:
            say_if_bundled(self.name, self.parts.out, 0)

    def batch_loss(self, round_, scenes, features, rng) -> tuple[Tensor, dict[str, Tensor]]:
        return refiner_loss(self.model, features["states"], scenes)

    def score(self, world: World, seed: int, checks: int | None = None) -> dict:
        return self.score_scenes([make_scene(world, "heldout", 2**20 + seed, i)
                                  for i in range(checks or CHECKS)])

    def score_scenes(self, scenes: list) -> dict:
        states = encode_images(self.parts.vision, [s.draw() for s in scenes])
        return refiner_scores(self.model, states, scenes)

    def trained_refiner(self) -> nn.Module | None:
        """The refiner of stage 0, in --out or bundled, or the pretrained one; None where the stage
        has none."""
        settings = self.settings.refiner
        return self.parts.beside.get("refiner") or (
            settings and load_refiner(settings, self.tagger, self.parts.out))

    def refined(self, states: list[Tensor], images: list[Image.Image]) -> Refined:
        """What the refiner finds: the tiny one in the ViT's states, the published one, led by the
        tags, in the pictures."""
        refiner = self.model.refiner
        if isinstance(refiner, TinyRefiner):
            return refiner.refine(states)
        return refiner.refine(images, self.tags(states, images))


class AlignmentSystem(RefinerSystem):
    """Stage 1: MQ-Former and heads on ITC, ITM, ICG and MSP."""

    @property
    def reads_tags(self) -> bool:
        """The published refiner's detector is prompted by them; the tiny one has its tagger."""
        return self.model.refiner is not None and not isinstance(self.model.refiner, TinyRefiner)

    def build(self) -> Alignment:
        return Alignment(self.settings, self.parts.vision, self.trained_refiner())

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
    question_tokenizer = None              # the MQ-Former's, if not the LLM's (published: BERT's)
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
                           prompts, answers, self.question_tokenizer)

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
