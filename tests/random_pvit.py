"""A small untrained Pvit and two pictures, for test_pvit_model.py and test_pvit_prompt.py."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from lion_min.images import to_pixels
from lion_min.language import LanguageModel
from lion_min.pvit.model import Pvit, tiny
from lion_min.pvit.prompt import make_inputs
from lion_min.pvit.region_encoder import TinyRegions
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import VisionEncoder, VisionSettings

TOKENIZER = TinyTokenizer()
VISION = VisionSettings(image=64, patch=8, width=32, blocks=4, heads=2, mlp=64, stem=(8, 16))
A, B = "[0.100,0.100,0.500,0.600]", "[0.400,0.300,0.900,0.800]"
PROMPTS = [f"Describe box {A}", "How many circles are there?", f"Is {A} left of {B}?",
           f"What is in {B}?"]  # two for each of two images; one without a region
ANSWERS = ["a large red circle", "two", "yes", "a small blue star"]
ABOUT = pytest.mark.parametrize("representation, positions", [("feature", 3), ("location", 6), ("text", 6)])


def build(representation: str = "feature", **changes) -> Pvit:
    torch.manual_seed(0)
    settings = replace(tiny(VISION, len(TOKENIZER), representation), **changes)
    llm = LanguageModel(settings.language)
    for parameter in llm.parameters():  # far from uniform answers, so that a slip changes them
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    model = Pvit(settings, VisionEncoder(VISION), llm, TinyRegions(settings.regions)).eval()
    for name, parameter in model.named_parameters():
        if name in ("markers", "bbox_fc.weight"):
            torch.nn.init.normal_(parameter)
    return model


def pictures(count: int = 2) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(0, 256, (count, 8 * 8 * 3), generator=generator, dtype=torch.uint8)
    return [Image.frombytes("RGB", (8, 8), bytes(n.tolist())).resize((80, 64)) for n in noise]


@pytest.fixture(scope="module")
def states() -> list[torch.Tensor]:
    """The ViT's states of two pictures; every model that `build` makes has the same ViT."""
    with torch.no_grad():
        return build().vision(to_pixels(pictures(), VISION.image))


def inputs(model, states, prompts=PROMPTS, answers=ANSWERS, **options):
    return make_inputs(model, TOKENIZER, states, prompts, answers, **options)
