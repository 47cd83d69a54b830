"""Where the answer looked: the right patches, in the right place on the picture."""

import pytest
import torch
from commands import call, refused

import infer
from lion_min import launch
from lion_min.adapters import REGION
from lion_min.lion.explain import _inside, explain
from lion_min.scenes import WORLDS, make_scene

IMAGE = make_scene(WORLDS["medium"], "heldout", 2, 1).draw()


@pytest.fixture
def system(trained):
    return trained.opened("lion", 3)


def reply(system, prompt):
    return system.ask(IMAGE, prompt)


def test_the_map_stands_upright(system, monkeypatch):
    """Guards: a heat map turned or mirrored against the picture, or led by the CLS token."""
    weights = torch.zeros(1, 4, 12, 65)
    weights[..., 0], weights[..., 1 + 2 * 8 + 5] = 0.9, 0.1       # CLS; row 2, column 5
    asked = reply(system, "What is in the image?")
    monkeypatch.setattr(system.model, "query_tokens", lambda x, maps: (None, [weights] * 3))
    (_, seen), _ = explain(system, asked)[0]
    assert seen.shape == (8, 8) and seen.argmax() == 2 * 8 + 5
    assert torch.isclose(seen.max(), torch.tensor(0.1))


def test_a_box_asks_what_its_own_patches_read(system, monkeypatch):
    """Guards: the attention of all patches averaged into a flat map when a box was asked about;
    rows and columns exchanged, CLS counted as a patch."""
    assert _inside([(0, 0, 0.25, 0.125)], 64) == [1, 2]
    assert _inside([(0.875, 0.75, 1, 1)], 64) == [56, 64]
    assert _inside([(0.26, 0.26, 0.27, 0.27)], 64) == [1 + 2 * 8 + 2]
    weights = torch.zeros(1, 4, 65, 65)
    weights[:, :, :, 7] = 0.5                                     # all patches look at one,
    weights[:, :, 1, 7], weights[:, :, 1, 40] = 0.0, 1.0          # the box's patch at another
    boxed, plain = reply(system, "describe box [0,0,8,8]"), reply(system, "What is there?")
    boxed.boxes, plain.boxes = [], []                             # an untrained model says anything
    monkeypatch.setattr(system.model, "aggregated_tokens", lambda x, maps: (None, [weights] * 2))
    assert explain(system, boxed)[0][1][1].argmax() == 40 - 1
    assert explain(system, plain)[0][1][1].argmax() == 7 - 1


def test_real_maps_are_shares_and_the_router_is_that_of_the_route(system):
    """Guards: attention before its softmax; the image route's mix shown for a box."""
    with torch.no_grad():
        for mixture in system.model.adapters:
            mixture.router[:] = torch.eye(2)[:, :, None]
            mixture.router[1, REGION] = 0.25
    maps, bars = explain(system, reply(system, "describe box [4,4,40,40]"))
    assert len(maps) == 2 and len(bars) == len(system.model.adapters)
    assert all(0 < m.sum() <= 1 + 1e-5 and m.min() >= 0 for _, m in maps)
    assert bars == [(1.0, 0.25)] * len(bars)
    assert explain(system, reply(system, "How many objects are there?"))[1][0] == (0.0, 1.0)


def test_pvit_shows_one_two_and_five_boxes(trained, monkeypatch, tmp_path, capsys):
    """Guards: a second region that is lost, or read as words; a traceback, or an answer, for a
    region that test_pvit_prompt.py refuses."""
    system, box = trained.opened("pvit", 2), "[0.1,0.1,0.5,0.5]"
    monkeypatch.setattr(launch, "load", lambda *_: system)
    monkeypatch.chdir(tmp_path)
    IMAGE.save("scene.png")
    for prompt in (f"What is in {box}?", f"Is <Region>{box}</Region> left of [0.5,0.5,0.9,0.9]?",
                   "Which is red, " + ", ".join([box] * 5) + "?"):
        code, out, err = call(infer.main, capsys, "scene.png", prompt, "--system", "pvit",
                              "--show", "shown.png")
        assert code == 0 and "error" not in err, err
    for prompt in (f"<Region>{box} what?", "What is in the region?", f"{box} and [9,9,8,8]?"):
        refused(call(infer.main, capsys, "scene.png", prompt, "--system", "pvit"))
