"""A small untrained Lyrics and what its refiner found, for test_lyrics_model.py and
test_lyrics_system.py."""

from dataclasses import replace

import torch
from random_pvit import TOKENIZER, VISION

from lion_min.language import LanguageModel
from lion_min.lyrics.model import Lyrics, LyricsSettings, tiny
from lion_min.lyrics.prompt import make_inputs, objects_of
from lion_min.lyrics.refiner import Refined, TinyRefiner
from lion_min.vision import TagHead, VisionEncoder

TAGS = ("red", "blue", "circle", "star")
PROMPTS = ["Is there a red circle?", "How many stars are there?", "Where is the red circle?",
           "Describe the image."]          # two for each of two pictures
ANSWERS = ["yes", "two", "[0.100,0.100,0.500,0.600]", "a small blue star."]


def settings(refiner: bool = True) -> LyricsSettings:
    s = tiny(VISION, len(TOKENIZER), refiner)
    if refiner:                            # an untrained detector must find something
        s = replace(s, refiner=replace(s.refiner, threshold=0.0, text_threshold=0.0))
    return replace(s, language=replace(s.language, layers=2))


def build(refiner: bool = True, kind: type = Lyrics, **changes):
    """A model far from its start, so that a slip shows."""
    torch.manual_seed(0)
    s = replace(settings(refiner), **changes)
    parts = [VisionEncoder(VISION), TinyRefiner(s.refiner, TagHead(32, TAGS)) if refiner else None]
    model = kind(s, *parts, *([LanguageModel(s.language)] if kind is Lyrics else [])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("llm", "loras", "language_projection")):
                parameter.normal_(0, 0.15)
    return model


def found() -> Refined:
    """Two kept objects in the first picture and one that no word names, none in the second."""
    g = torch.Generator().manual_seed(1)
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8], [0, 0, 0.2, 0.2]])
    mask = torch.tensor([[True, True, True] + [False] * 9, [False] * 12])
    labels = [["red circle", "blue star", ""] + ["moon"] * 9, [""] * 12]
    return Refined([["red", "blue", "circle", "star"], []], boxes.repeat(2, 4, 1),
                   torch.rand(2, 12, generator=g), labels, torch.randn(2, 12, 132, generator=g),
                   mask, torch.randn(2, 12, 32, 32, generator=g))


def states(count: int = 2) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    return [torch.randn(count, 65, 32, generator=g) for _ in range(5)]


def inputs(model, prompts=PROMPTS, answers=ANSWERS, rows=(0, 1)):
    objects = objects_of(found(), TOKENIZER).pick([*rows]) if model.refiner else None
    return make_inputs(model, TOKENIZER, [s[[*rows]] for s in states()], objects, prompts, answers)
