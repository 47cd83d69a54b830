"""The union as a system: LION's batches and routes, with Lyrics' objects beside the states."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from lion_min.lion.stages import LionStage
from lion_min.lion.system import LionSystem
from lion_min.lyrics.model import tiny as tiny_lyrics
from lion_min.lyrics.prompt import objects_of
from lion_min.lyrics.refiner_system import load_refiner
from lion_min.union.model import PARTS, Union, UnionInputs, tiny

TRAINS = ("ln_patches", "mqformer", "query_proj", "aggregator", "ln_adapter", "mlp",
          "region_proj", "interaction", "request", "adapters", "soft_prompt")


@dataclass(frozen=True, kw_only=True)
class UnionStage(LionStage):
    """One stage of the union; parts: those that the model has."""

    parts: tuple[str, ...] = PARTS


class UnionSystem(LionSystem):
    """`stage` is a UnionStage."""

    def build(self) -> Union:
        p = self.parts
        settings = replace(tiny(p.vision.settings, len(p.tokenizer), self.stage.parts),
                           **self.stage.changes)
        objects = tiny_lyrics(p.vision.settings, len(p.tokenizer)).refiner
        return Union(settings, p.vision, p.llm, load_refiner(objects, self.tagger, p.out))

    @property
    def depths(self) -> set[int]:
        return {*super().depths, *self.model.settings.request_depths}

    def features(self, states: list[Tensor], images: list) -> dict:
        """States, tags and detected objects of images."""
        refined = self.model.refiner.refine(states)
        return {"states": states, "tags": refined.tags,
                "objects": objects_of(refined, self.tokenizer)}

    def inputs(self, features: dict, prompts: list[str], *rest) -> UnionInputs:
        """LION's inputs with the objects and the bare questions, a request token behind each."""
        x = super().inputs(features, prompts, *rest)
        request = self.tokenizer.eos_id                # any id: its embedding is replaced
        return UnionInputs(**vars(x), objects=features["objects"],
                           questions=[[*self.tokenizer.encode(p), request] for p in prompts])


SYSTEM = UnionSystem
