"""Stage 0 as a system: the tiny refiner is trained and scored on scenes; no LLM, no text.

Also what the systems of the later stages have of it: the settings, the refiner it leaves behind.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from lion_min import BadInput, checkpoints
from lion_min.cli import LYRICS
from lion_min.features import encode_images
from lion_min.lyrics.detection_loss import refiner_loss
from lion_min.lyrics.detection_scores import refiner_scores
from lion_min.lyrics.model import LyricsSettings, tiny
from lion_min.lyrics.refiner import RefinerSettings, TinyRefiner
from lion_min.parts import run_folder, say_if_bundled, say_if_stage0_bundled
from lion_min.scenes import World, make_scene
from lion_min.system import System

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

    @property
    def reads_tags(self) -> bool:
        """The published refiner's detector is prompted by them; the tiny one has its tagger."""
        refiner = getattr(self.model, "refiner", None)
        return refiner is not None and not isinstance(refiner, TinyRefiner)

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
