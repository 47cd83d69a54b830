"""Where the answer looked: the right patches, in the right place on the picture."""

import pytest
import torch
from commands import call, refused

import infer
from lion_min import launch
from lion_min.adapters import REGION
from lion_min.explanation import OTHERS, AttentionMap, coverage, moved, other_question, touched
from lion_min.lion.explain import explain
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
    real = system.model.query_tokens
    monkeypatch.setattr(system.model, "query_tokens", lambda x, maps=False:
                        (None, [weights] * 3) if maps else real(x))
    seen = explain(system, asked).maps[0]
    assert seen.weights.shape == (3, 4, 12, 64) and seen.moved == 0
    assert seen.share().shape == (8, 8) and seen.share().argmax() == 2 * 8 + 5
    assert torch.isclose(seen.weights.max(), torch.tensor(0.1))


def test_a_box_asks_what_its_own_patches_read(system, monkeypatch):
    """Guards: the attention of all patches averaged into a flat map when a box was asked about;
    rows and columns exchanged, CLS counted as a patch."""
    assert touched([(0, 0, 0.25, 0.125)], 8) == [0, 1] and touched([], 8) == []
    assert touched([(0.875, 0.75, 1, 1)], 8) == [55, 63]
    assert touched([(0.26, 0.26, 0.27, 0.27)], 8) == [2 * 8 + 2]
    assert coverage([(0, 0, 0.75, 0.25)], 2).tolist() == [[0.5, 0.25, 0, 0]]
    weights = torch.zeros(1, 4, 65, 65)
    weights[:, :, :, 7] = 0.5                                     # all patches look at one,
    weights[:, :, 1, 7], weights[:, :, 1, 40] = 0.0, 1.0          # the box's patch at another
    boxed, plain = reply(system, "describe box [0,0,8,8]"), reply(system, "What is there?")
    boxed.boxes, plain.boxes = [], []                             # an untrained model says anything
    real = system.model.aggregated_tokens
    monkeypatch.setattr(system.model, "aggregated_tokens", lambda x, maps=False:
                        (None, [weights] * 2) if maps else real(x))
    one, two = (explain(system, asked).maps[1] for asked in (boxed, plain))
    assert one.share().argmax() == 40 - 1 and two.share().argmax() == 7 - 1
    assert one.moved is None and one.says() == "the same for every question"


def test_real_maps_are_shares_and_the_router_is_that_of_the_route(system):
    """Guards: attention before its softmax; the image route's mix shown for a box, or one route's
    alone; the adapters of the route before this one under the LLM's map."""
    with torch.no_grad():
        for mixture in system.model.adapters:
            mixture.router[:] = torch.eye(2)[:, :, None]
            mixture.router[1, REGION] = 0.25
    found = explain(system, reply(system, "describe box [4,4,40,40]"))
    assert [one.part for one in found.maps] == ["Q-Former", "aggregator", "LLM"] and found.side == 8
    for one in found.maps:
        sums = one.weights.sum(-1)
        assert one.weights.shape[2:] == (len(one.queries), 64) and one.weights.min() >= 0
        assert 0 < sums.min() and sums.max() <= 1 + 1e-5
    layers = len(system.model.adapters)
    assert found.router == {"region": [(1.0, 0.25)] * layers, "image": [(0.0, 1.0)] * layers}
    assert (found.route, found.bins) == ("region", 3)
    assert {m.task for m in system.model.adapters} == {REGION}
    assert explain(system, reply(system, "How many objects are there?")).route == "image"


def test_tokens_are_what_the_llm_reads(system, monkeypatch):
    """Guards: a token of the wrong kind, or a row shorter or longer than the LLM's."""
    lengths = []
    forward = system.model.llm.model.model.forward

    def counted(*args, **options):
        lengths.append(options["inputs_embeds"].shape[1])
        return forward(*args, **options)
    asked = reply(system, "describe box [0.1,0.1,0.5,0.5]")
    monkeypatch.setattr(system.model.llm.model.model, "forward", counted)
    tokens = explain(system, asked).tokens
    assert lengths[0] == len(tokens)
    kinds = [kind for _, kind in tokens]
    queries = system.model.settings.qformer.queries
    assert kinds.count("image") == 1 + 64 + queries and kinds.count("region") == 1
    assert tokens[kinds.index("region") - 1].text.startswith("<b")      # behind its box
    assert [text for text, kind in tokens if kind == "text"][:1] == ["describe"]


def test_moved_by_hand():
    """Guards: a panel that says a map is led by the question where it stays."""
    one, other = (AttentionMap("", torch.tensor(w).view(1, 1, 1, 4), [""])
                  for w in ([.2, .2, 0, 0], [.1, 0, 0, .1]))
    assert moved(one, one) == 0 and moved(one, other) == pytest.approx(.5)
    assert other_question(OTHERS[0].upper()) == OTHERS[1] and other_question("?") == OTHERS[0]


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
