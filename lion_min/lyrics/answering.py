"""A Lyrics that is ready to be asked: model and tokenizer behind see / select / answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image

from lion_min.parts import Seen, look
from lion_min.lyrics.detection_scores import refiner_scores
from lion_min.lyrics.model import Alignment, Lyrics, Objects
from lion_min.lyrics.prompt import make_inputs, objects_of
from lion_min.lyrics.retrieval import retrieval
from lion_min.scenes import World, make_scene
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead


class LyricsSystem(Seen):
    """What infer.py and evaluation.py talk to. A picture is refined once, in `see`.

    aligned: loads the model of stage 1, which `report` asks to find pictures and captions; None
    while a stage trains.
    """

    def __init__(self, model: Lyrics, tokenizer: TinyTokenizer, tagger: TagHead,
                 aligned: Callable[[], Alignment] | None = None):
        self.model, self.tokenizer, self.tagger = model.eval(), tokenizer, tagger.eval()
        self.aligned = aligned

    def see(self, images: list[Image.Image]) -> dict:
        """Frozen features, tags and objects of images; computed once, asked often."""
        if self.model.refiner is None:
            return super().see(images) | {"refined": None, "objects": None}
        with torch.no_grad():
            states = look(self.model.vision, images)
        refined = self.model.refiner.refine(states)
        return {"states": states, "tags": refined.tags, "refined": refined,
                "objects": objects_of(refined, self.tokenizer)}

    @staticmethod
    def select(seen: list[dict], rows: list[int]) -> dict:
        """Rows of several chunks of `see`, one image for each prompt to come."""
        picked = Seen.select(seen, rows) | {"objects": None}
        if seen[0]["objects"] is not None:
            size = len(seen[0]["tags"])
            each = [vars(seen[r // size]["objects"].pick([r % size])).values() for r in rows]
            picked["objects"] = Objects(*map(torch.cat, zip(*each)))
        return picked

    def answer(self, features: dict, prompts: list[str], **options) -> list[str]:
        """One answer an image."""
        x = make_inputs(self.model, self.tokenizer, features["states"], features["objects"],
                        prompts)
        return [self.tokenizer.decode(row) for row in self.model.generate(x, **options).tolist()]

    def report(self, world: World, count: int, seed: int) -> dict:
        """What `python -m lion_min.evaluate --system lyrics` adds to every system's scores."""
        scenes, added = [make_scene(world, "heldout", seed, i) for i in range(count)], {}
        if self.model.refiner is not None:
            with torch.no_grad():
                states = look(self.model.vision, [s.draw() for s in scenes])
            added["refiner"] = refiner_scores(self.model.refiner, states, scenes)
        if self.aligned is not None:
            added["retrieval"] = retrieval(self.aligned(), self.tokenizer, scenes[:256])
        return added
