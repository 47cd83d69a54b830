"""PVIT as a system: built around the frozen parts, trained by region instructions, answering."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from lion_min.features import join
from lion_min.pvit.explain import explain
from lion_min.pvit.instructions import scene_instructions
from lion_min.pvit.instructions.questions import TEMPLATES
from lion_min.pvit.model import Pvit, tiny
from lion_min.pvit.prompt import Turn, make_inputs
from lion_min.pvit.region_encoder import TinyRegions
from lion_min.scenes import Scene, World
from lion_min.system import System
from lion_min.questions import examples

TURNS = (1, 3)                             # of a conversation in an 'instructions' round


class PvitSystem(System):
    """PVIT's two stages; `stage` is a PvitStage."""

    ANSWERS = (1, 2)
    explain = explain                      # what stands behind an answer
    wordings = tuple(wording.format("the object in [0,0,1,1]", "the object in [0,0,1,1]", w=word,
                                    r0="[0,0,1,1]", r1="[0,0,1,1]", r2="[0,0,1,1]")
                     for template in TEMPLATES.values() for wording in template.wordings
                     for word in template.words)

    def build(self) -> Pvit:
        p = self.parts
        settings = p.published or tiny(p.vision.settings, len(p.tokenizer))
        regions = p.beside.get("regions") or TinyRegions(settings.regions)
        settings = replace(settings, regions=regions.settings,
                           representation=self.stage.representation, **self.stage.changes)
        model = Pvit(settings, p.vision, p.llm, regions)
        # LLaVA's projection is trained before the paper's stage 1, this one in stage 2.
        model.sees_image = p.source is None or "mm_projector" in self.stage.trains
        return model

    def announce(self) -> None:
        super().announce()
        if self.keeps_pictures:            # the ViT sees a box of a picture once, whatever the run
            self.model.regions.kept.folder = self.parts.out / self.name / "crops"

    @property
    def depths(self) -> set[int]:
        s = self.model.settings
        return {d % (s.vision.blocks + 1)
                for d in (*s.depths, *getattr(s.regions, "depths", ()), s.vision.blocks)}

    @property
    def pools(self) -> str:
        """What regions are pooled from: see region_encoder.py."""
        return getattr(getattr(self.model, "regions", None), "reads", "states")

    keeps_pictures = property(lambda self: self.pools == "pictures")
    keeps_features = property(lambda self: self.pools != "maps")    # 20 MB a picture

    def features(self, states: list[Tensor], images: list[Image.Image]) -> dict:
        """Frozen features, and what regions are pooled from where that is not the ViT's states, of
        one picture at a time, so that it does not depend on those beside it."""
        features = super().features(states, images)
        if self.pools == "states":
            return features
        with torch.no_grad():
            return features | join([{"maps": self.model.regions.encode_images([image])}
                                    for image in images])

    def batch_loss(self, round_, scenes, features, rng) -> tuple[Tensor, dict[str, Tensor]]:
        """In an 'instructions' round the questions are region instructions; every turn of a
        conversation is a sample that has the earlier ones before it."""
        samples = [sample for scene in scenes for sample in self.samples(scene, round_.tasks, rng)]
        questions, answers, earlier = map(list, zip(*samples))
        return self.model(make_inputs(
            self.model, self.tokenizer, features["states"], questions, answers, earlier,
            features.get("maps"), train=not self.keeps_pictures,       # a kept crop has a fixed box
            generator=torch.Generator().manual_seed(rng.getrandbits(32))))

    @staticmethod
    def samples(scene, tasks: tuple[str, ...], rng) -> list[tuple[str, str, list[Turn]]]:
        """(question, answer, the turns before it) of one scene."""
        if tasks[0] == "instructions" and isinstance(scene, Scene):
            instructions = scene_instructions(scene, rng, len(tasks), TURNS)
            return rng.sample([sample for i in instructions for sample in i.samples()], len(tasks))
        return [(e.prompt, e.answer, list(e.turns)) for e in examples(scene, rng, tasks)]

    def answer(self, features: dict, prompts: list[str],
               turns: list[list[Turn]] | None = None, **options) -> list[str]:
        """One answer a picture; turns: what each sample asked and answered before."""
        x = make_inputs(self.model, self.tokenizer, features["states"], prompts, turns=turns,
                        maps=features.get("maps"))
        return [self.tokenizer.decode(row) for row in self.model.generate(x, **options).tolist()]

    def report(self, world: World, count: int, seed: int) -> dict:
        """PVIT's FineEval (fineeval.py) beside every system's scores."""
        from lion_min.pvit.fineeval import fine_eval
        return {"fine_eval": fine_eval(self, world, count, seed)}


SYSTEM = PvitSystem
