"""Pvit beside test_parity_pvit.py and test_models.py: starts, location tokens, turns, which counts are
refused."""

from dataclasses import replace

import pytest
import torch
from random_pvit import (PROMPTS, TOKENIZER, VISION, A, B, build, inputs, pictures,
                         states)  # noqa: F401 (states is a fixture)

from lion_min.language import LanguageModel
from lion_min.pvit.model import Pvit, tiny
from lion_min.published.regionclip import RegionCLIP, RegionCLIPSettings
from lion_min.pvit.region_encoder import TinyRegions
from lion_min.vision import VisionEncoder


@pytest.fixture(scope="module")
def model() -> Pvit:
    return build()


# ---- the splice --------------------------------------------------------------------------------

def test_markers_start_as_the_mean_word():
    """Guards: markers at random, far from every embedding the LLM knows."""
    settings = tiny(VISION, len(TOKENIZER))
    model = Pvit(settings, VisionEncoder(VISION), LanguageModel(settings.language),
                 TinyRegions(settings.regions))
    mean = model.llm.model.get_input_embeddings().weight.mean(0)
    assert torch.equal(model.markers, torch.stack([mean, mean]))
    assert all(p.requires_grad for p in model.llm.parameters())
    assert not any(p.requires_grad for p in model.vision.parameters())


def test_location_tokens_are_looked_up():
    """Guards: a coordinate of 1.0 beyond its table; x1 and y1 reading the same rows."""
    model = build("location", location_bins=10)
    x = inputs(model, [torch.zeros(1, 65, 32)] * 5, ["[0,0.55,1,1]"], None)
    rows = [0, 10 + 5, 20 + 9, 30 + 9]
    assert torch.equal(model.region_tokens(x), model.locations[rows])


@torch.no_grad()
def test_places_in_the_text_are_a_prefix(model, states):
    """Guards: the published form, whose image stands in the text: wrong image, region slots of the
    same id overwritten, image tokens that differ from the shared ones."""
    settings = replace(model.settings, image_id=TOKENIZER.region_id)      # as <im_patch> is both
    inside = Pvit(settings, model.vision, model.llm, model.regions).eval()
    inside.load_state_dict(model.state_dict())
    x = inputs(model, states)
    y = replace(x, prompts=[[TOKENIZER.region_id] * 64 + row for row in x.prompts])
    torch.testing.assert_close(inside(y)[0], model(x)[0], rtol=0, atol=1e-5)
    y.prompts[3].pop(0)
    with pytest.raises(ValueError, match="sample 3: 63 image places for 64 image tokens"):
        inside(y)


# ---- batches -----------------------------------------------------------------------------------

@torch.no_grad()
def test_an_earlier_region_is_seen(model, states):
    """Guards: history written into the prompt and its regions left empty."""
    def told(box):
        x = inputs(model, states, PROMPTS, turns=[[(f"Describe {box}", "a star")]] + [[]] * 3)
        return model(x)[0]
    assert abs(told(A) - told(B)) > 1e-5


def test_an_image_is_looked_at_once_a_conversation(states, monkeypatch):
    """Guards: the region encoder's backbone run again for every turn, box or decoded token."""
    settings = replace(tiny(VISION, len(TOKENIZER)), regions=RegionCLIPSettings(
        layers=(1, 1, 1, 1), width=8, heads=4, output=12, resolution=64, shortest=64, longest=96))
    regions, looks = RegionCLIP(settings.regions), []
    model = Pvit(settings, VisionEncoder(VISION), LanguageModel(settings.language), regions).eval()
    regions.layer3.register_forward_hook(lambda *_: looks.append(1))
    model.vision.register_forward_hook(lambda *_: looks.append(1))
    maps, turns = regions.encode_images(pictures(1)), []
    for question in (f"Describe {A}", f"Describe {B}", f"{A} or {B}?"):
        x = inputs(model, [s[:1] for s in states], [question], None, turns=[turns], maps=maps)
        ids = model.generate(x, max_new_tokens=3)
        turns.append((question, TOKENIZER.decode(ids[0].tolist())))
    assert len(looks) == 1


# ---- training ----------------------------------------------------------------------------------

def test_autocast_keeps_the_corners(model, states):
    """Guards: boxes rounded to bfloat16 (1/256 of the image) before bbox_fc."""
    x = inputs(model, states)
    exact = model.bbox_fc(torch.tensor(sum(x.boxes, [])))
    with torch.autocast("cpu", torch.bfloat16):
        pooled = model.prompt_projector(model.regions.pool(x.states, *boxes_of(x)))
        assert torch.equal(model.region_tokens(x), pooled + exact)
        assert torch.isfinite(model(x)[0])


def boxes_of(x):
    return torch.tensor(sum(x.boxes, [])), torch.tensor([0, 1, 1, 1])


# ---- what is refused ---------------------------------------------------------------------------

@pytest.mark.parametrize("spoil, told", [
    (lambda x: x.boxes[2].pop(), "sample 2: 2 <Region> and 2 </Region>.* for 1 boxes"),
    (lambda x: x.boxes[1].append((0., 0., 1., 1.)), "sample 1: 0 <Region>.* for 1 boxes"),
    (lambda x: x.prompts[3].remove(len(TOKENIZER) + 1), "sample 3: 1 <Region> and 0 </Region>"),
    (lambda x: x.prompts[0].remove(4), "sample 0: .* with 0 whole regions .* for 1 boxes"),
    (lambda x: x.prompts[0].insert(-1, 4), "sample 0: .* with 0 whole regions"),
    (lambda x: x.prompts.pop(), "3 prompts and 4 lists of boxes for 2 images")])
def test_counts_that_differ_are_named(model, states, spoil, told):
    """Guards: a truncated region whose box slides to the next sample, as in the official code."""
    for use in (model, model.generate):
        x = inputs(model, states)
        spoil(x)
        with pytest.raises(ValueError, match=told) as error:
            use(x)
        assert "\n" not in str(error.value)


def test_wrong_settings_are_told():
    """Guards: a misspelt representation that trains something else in silence."""
    settings = tiny(VISION, 30, "features")
    with pytest.raises(ValueError, match="feature, location, text"):
        Pvit(settings, VisionEncoder(VISION), LanguageModel(settings.language))
    with pytest.raises(ValueError, match="region encoder"):
        Pvit(tiny(VISION, 30), VisionEncoder(VISION), LanguageModel(settings.language))
