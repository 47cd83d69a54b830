"""The share of LMEye's attention inside the asked box, on a system whose attention is known."""

import random
from types import SimpleNamespace

import pytest
import torch

from lion_min import BadInput
from lion_min.studies import requests
from lion_min.scenes import WORLDS, Scene, Thing, make_scene
from lion_min.tasks import BOX, MAKERS

RING = Thing("ring", "red", "small", "plain", (0.0, 0.0, 0.25, 0.25))        # rows 0-1, columns 0-1
STAR = Thing("star", "blue", "large", "plain", (0.5, 0.5, 0.75, 1.0))        # rows 4-7, columns 4-5
SCENE = Scene(WORLDS["medium"], (RING, STAR), "by hand")
LOOKS = {RING: [(0, 0), (0, 2)], STAR: [(7, 5), (0, 1)]}     # (row, column) of two requests


class Known:
    """Two requests, each on one patch that depends on the question alone; 8x8 patches."""

    stage = SimpleNamespace(requests=True)

    def __init__(self, control: str = "interactive"):
        self.tokenizer = SimpleNamespace(encode=lambda prompt: [prompt], chat_prompt=list)
        self.model = SimpleNamespace(attention_maps=self.attention_maps, settings=SimpleNamespace(
            request_id=0, slot_id=1, control=control, static="qformer",
            interaction=SimpleNamespace(returned=2)))

    def encode(self, images):
        return {"states": [torch.zeros(len(images), 65, 8)]}

    def attention_maps(self, x):
        maps = torch.zeros(len(x.prompts), 2, 8, 8)
        for one, prompt in zip(maps, x.prompts):
            ring = any(word in prompt[0] for word in ("ring", "red", "small", BOX.format(RING.box)))
            for request, place in zip(one, LOOKS[RING if ring else STAR]):
                request[place] = 1
        return maps.flatten(2)


def test_shares_by_hand():
    """Rows and columns exchanged, one request counted alone, the wrong question's map, a margin
    that moves the box instead of growing it."""
    result = requests.measure(Known(), [SCENE], seed=0)
    assert list(result) == ["rec", "colour", "kind", "reg", "all"]
    assert [row.pop("questions") for row in result.values()] == [2, 2, 2, 2, 8]
    for row in result.values():
        assert row == pytest.approx({
            "asked": 0.5, "other": 0.25, "area": (1 / 16 + 1 / 8) / 2,
            "asked+half": 0.625, "other+half": 0.25,             # (0, 2) is half within reach
            "area+half": (0.3125 ** 2 + 0.375 * 0.5625) / 2})


def test_covered_patches():
    """A patch that is cut by the box counted whole; a box that grows out of the picture."""
    part = requests.covered(torch.tensor([[0.25, 0.0, 0.625, 0.5]]), side=4).view(4, 4)
    assert part.tolist() == [[0, 1, 0.5, 0]] * 2 + [[0] * 4] * 2
    assert torch.equal(requests.covered(torch.tensor([[0.1, 0.1, 0.9, 0.9]]), 4, 0.5), torch.ones(1, 16))


def test_the_named_object_is_the_one_that_the_answer_tells_of():
    """A question's box or words ascribed to another object of the scene."""
    truth = {"rec": lambda t: BOX.format(t.box), "colour": lambda t: t.colour,
             "kind": lambda t: t.kind, "reg": lambda t: "a " + t.words()}
    seen = 0
    for i in range(150):
        scene, rng = make_scene(WORLDS["medium"], "heldout", 5, i), random.Random(i)
        for task in requests.TASKS if len(scene.objects) > 1 else ():
            if example := MAKERS[task](scene, rng):
                assert truth[task](requests.named(scene, example.prompt)) == example.answer
                seen += 1
            two = requests.two_questions(scene, task, rng)
            assert not two or two[0][0] != two[1][0]
    assert seen > 300


def test_the_command(monkeypatch, capsys):
    """Scenes of one object among those counted; a system that asks nothing measured."""
    seen, config = [], {"world": "medium"}
    monkeypatch.setattr(requests.launch, "read_config", lambda *_: config)
    monkeypatch.setattr(requests.launch, "load", lambda *_: Known())
    monkeypatch.setattr(requests, "measure", lambda system, scenes, seed: seen.extend(scenes) or {})
    assert requests.run(20, 3, None) == {} and "asked" in capsys.readouterr().out
    assert len(seen) == 20 and min(len(scene.objects) for scene in seen) == 2
    monkeypatch.setattr(requests.launch, "load", lambda *_: Known("static"))
    with pytest.raises(BadInput, match="asks nothing"):
        requests.run(20, 3, None)
