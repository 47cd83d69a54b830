"""The union of the four systems: every part has a gradient, and can be left out."""

import random

import pytest
import torch

from lion_min import launch
from lion_min.adapters import IMAGE, set_task
from lion_min.scenes import WORLDS, make_scene
from lion_min.stage import ROUNDS
from lion_min.studies.conditions import union
from lion_min.union.model import PARTS
from lion_min.union.system import TRAINS, UnionSystem

WORLD = WORLDS["medium"]
# parameter prefixes that go with a part
OF_PART = {"aggregator": {"aggregator", "ln_adapter", "mlp"}, "queries": {"mqformer", "query_proj"},
           "region": {"region_proj"}, "request": {"interaction", "request"}, "objects": set()}


def opened(tmp_path, parts=PARTS):
    torch.manual_seed(0)
    return UnionSystem(launch.parts_for(tmp_path), union(parts=parts))


def loss_of(system, level: str):
    scenes = [make_scene(WORLD, "train", 0, i) for i in range(2)]
    features = system.encode([s.draw() for s in scenes])
    return system.batch_loss(ROUNDS[level], scenes, features, random.Random(0))[0]


def test_every_part_learns(tmp_path):
    """Guards: a branch that is built and never read."""
    system = opened(tmp_path)
    names = {n for n, p in system.model.named_parameters() if n.startswith(TRAINS)}
    for name, parameter in system.model.named_parameters():
        parameter.requires_grad_(name in names)
    for mixture in system.model.adapters:                # zero at first, so is what they pass back
        for adapter in mixture.adapters:
            adapter.up.weight.data.normal_(0, 0.02)
    torch.nn.init.normal_(system.model.interaction.transmit.weight, 0, 0.02)
    for level in ("vqa", "region"):
        loss_of(system, level).backward()
    heard = {n.split(".")[0] for n, p in system.model.named_parameters()
             if n in names and p.grad is not None and p.grad.any()}
    assert heard == {*TRAINS} - {"soft_prompt"}          # no tags in these rounds


@pytest.mark.parametrize("part", PARTS)
def test_a_part_can_be_left_out(part, tmp_path):
    """Guards: a row of the claims that keeps what it is named to lack."""
    system = opened(tmp_path, tuple(p for p in PARTS if p != part))
    names = {n.split(".")[0] for n, _ in system.model.named_parameters()}
    assert names.isdisjoint(OF_PART[part])
    assert any("object_cross" in n for n, _ in system.model.named_parameters()) == (
        part not in ("objects", "queries"))
    scene = make_scene(WORLD, "train", 0, 0)
    features = system.encode([scene.draw()])
    system.model.eval()
    assert isinstance(system.answer(features, ["Where is the star?"], max_new_tokens=3)[0], str)


def test_the_request_depends_on_the_question(tmp_path):
    """Guards: a request that stands before the question, or a padded row's last token."""
    system = opened(tmp_path)
    features = system.encode([make_scene(WORLD, "train", 0, 0).draw()])
    system.model.interaction.request.weight.data.normal_()
    set_task(system.model.adapters, IMAGE)

    def returned(prompts):
        x = system.inputs(system.index([features], [0] * len(prompts)), prompts, IMAGE)
        with torch.no_grad():
            return system.model.returned_tokens(x, system.model.aggregated_tokens(x))

    short, long = "Is there a star?", "Is there a large red striped star in the image?"
    both = returned([short, long])
    assert torch.allclose(both[0], returned([short])[0], atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-3
