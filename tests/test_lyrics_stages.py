"""Lyrics' three stages on random parts, in seconds: what moves, what loads, what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from few_steps import few_steps, opened, trains, untrained
from random_lion import write_stage0

import train
from lion_min import BadInput, checkpoints, features, launch
from lion_min.lyrics import system as module
from lion_min.scenes import WORLDS, make_scene
from lion_min.stage import row_sampler
from lion_min.studies import conditions
from lion_min.vision import TagHead

WORLD = WORLDS["medium"]
QUESTIONS = ["What is in [0.1,0.1,0.5,0.5]?", "Describe the image.", "Is there a red circle?"]
# Never run, so never moved: in stage 2 nobody reads the text half of the last layer.
IDLE = {0: (), 1: (), 2: ("mqformer.layers.2.text_ffn.",)}


@pytest.fixture(scope="module", autouse=True)
def finds_something():
    """An untrained tagger and detector find nothing at the thresholds of trained ones."""
    tiny, predict = module.tiny, TagHead.predict

    def lenient(*arguments):
        s = tiny(*arguments)
        return s if s.refiner is None else replace(s, refiner=replace(
            s.refiner, threshold=0.0, text_threshold=0.0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "tiny", lenient)
        patch.setattr(TagHead, "predict", lambda tagger, state: predict(tagger, state, 0.0))
        yield


def stage_of(number: int):
    return launch.stage_of("lyrics", number)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """(OUT with every stage after a few steps, {stage: parameters before, after})."""
    out = tmp_path_factory.mktemp("lyrics")
    write_stage0(out)
    return out, {number: few_steps("lyrics", stage_of(number), out) for number in (0, 1, 2)}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_stage_moves_exactly_what_it_trains(trained, number):
    """Guards: a tagger, ViT, refiner or LLM that a stray gradient moves; a part left untrained,
    or that the file lacks."""
    before, after = trained[1][number]
    own = trains(stage_of(number), before)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in own if not n.startswith(IDLE[number])}
    saved = checkpoints.load_run(trained[0] / "lyrics" / f"stage{number}")[0]
    assert saved.keys() == own and all(torch.equal(saved[n], after[n]) for n in saved)


def test_stages_start_from_the_ones_before(trained):
    """Guards: a refiner or an MQ-Former that is random again; heads that stage 2 cannot hold."""
    moves = trained[1]
    for number in (1, 2):
        for name, tensor in moves[0][1].items():
            assert torch.equal(moves[number][0][f"refiner.{name}"], tensor), name
    shared = [n for n in moves[2][0] if n.startswith(("ln_vision.", "mqformer."))]
    assert shared and all(torch.equal(moves[2][0][n], moves[1][1][n]) for n in shared)


def test_what_loads_is_what_was_trained(trained):
    """Guards: a part that is random again after loading; retrieval asked of stage 2's MQ-Former;
    a stage without LLM that is asked."""
    out, moves = trained
    system = opened(out / "lyrics" / "stage2")
    for model, number in ((system.model, 2), (system.open_stage(1).model, 1)):
        loaded, after = dict(model.named_parameters()), moves[number][1]
        assert loaded.keys() == after.keys()
        assert all(torch.equal(loaded[n], after[n]) for n in loaded)
        assert not any(p.requires_grad for p in loaded.values()) and not model.training
    x = system.encode([make_scene(WORLD, "heldout", 0, 0).draw()])
    answers = [system.answer(x, [q], max_new_tokens=6) for q in QUESTIONS]
    assert all(len(a) == 1 and isinstance(a[0], str) for a in answers)
    with pytest.raises(BadInput, match="stage is 1, not one of 2"):
        opened(out / "lyrics" / "stage1")


def test_report(trained):
    """Guards: an evaluate that scores stage 2 and says nothing of refiner and retrieval."""
    report = opened(trained[0] / "lyrics" / "stage2").report(WORLD, 5, 0)
    assert {"ap50", "labelled_ap50", "mask_iou"} <= report["refiner"].keys()
    assert report["retrieval"].keys() == {"image_to_text", "text_to_image", "image_to_text_itm",
                                          "text_to_image_itm", "count"}
    assert report["retrieval"]["count"] == 5
    assert all(0 <= v <= 1 for n, v in report["retrieval"].items() if n != "count")


def test_init_goes_on_from_the_same_stage(trained, tmp_path):
    """Guards: --init that Lyrics' stages 0 and 1 do not know, or that starts at random."""
    shutil.copytree(trained[0], tmp_path / "out")
    for number in (0, 1):
        before, _ = few_steps("lyrics", stage_of(number), tmp_path / "out",
                              init=trained[0] / "lyrics" / f"stage{number}")
        own = trains(stage_of(number), before)
        assert all(torch.equal(before[n], trained[1][number][1][n]) for n in own)


def test_the_ablation_without_refiner(trained):
    """Guards: a row without refiner that has object parts, or that starts at random."""
    out, moves = trained
    before, after = few_steps("lyrics", conditions.lyrics(refiner=False), out)
    assert not [n for n in after if "object" in n or "refiner" in n]
    kept = moves[1][1]["mqformer.query_tokens"][:, :8]
    assert torch.equal(before["mqformer.query_tokens"], kept)
    name = "mqformer.layers.1.cross.key.weight"
    assert torch.equal(before[name], moves[1][1][name])


# ---- batches -----------------------------------------------------------------------------------

def test_no_caption_twice_in_a_batch():
    """Guards: a true pair that counts as a wrong one; a step whose batch depends on the last."""
    scenes = [make_scene(WORLD, "train", 0, i % 5) for i in range(40)]
    rows = row_sampler(stage_of(1), scenes, 8)
    drawn = [rows(None, step, Random(step)) for step in (3, 4, 3)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(len({scenes[r].caption() for r in d}) == len(d) for d in drawn)
    assert len(row_sampler(stage_of(1), scenes[:5], 8)(None, 0, Random(0))) == 5
    for few, batch in ((scenes[:1], 8), ([scenes[0], scenes[5]], 8), (scenes, 1)):
        with pytest.raises(BadInput, match="two scenes of different captions.*--batch-size"):
            row_sampler(stage_of(1), few, batch)


def test_objects_of_the_cache_are_those_of_their_scene(trained, monkeypatch):
    """Guards: objects that shift against the cache's rows at the border of two chunks."""
    system = untrained("lyrics", stage_of(1), trained[0])
    scenes = [make_scene(WORLD, "train", 0, i) for i in range(7)]
    rows = [*range(7)]
    whole = features.FeatureCache(system, scenes).take(rows)
    monkeypatch.setattr(features, "CHUNK", 3)
    parted = features.FeatureCache(system, scenes).take(rows)
    assert whole["tags"] == parted["tags"] and len(whole["tags"]) == 7
    for name in ("features", "lines"):
        one, two = (getattr(f["objects"], name) for f in (whole, parted))
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)


# ---- the command line --------------------------------------------------------------------------

@pytest.mark.parametrize("words, told", [
    (["--stage", "0", "--labels", "coarse"], "leave it out"), (["--stage", "3"], "has the stages"),
    (["--stage", "0", "--part", "vision"], "only stage 0 of lion has parts"),
    (["--stage", "all", "--labels", "dense"], "leave it out"),
    (["--stage", "1", "--batch-size", "1", "--steps", "1"], "--batch-size")])
def test_bad_commands_are_one_line(trained, words, told, capsys, monkeypatch):
    """Guards: a traceback, or an option that is silently ignored."""
    monkeypatch.setattr(module, "retrieval", lambda *a: {})
    code = train.main(["--system", "lyrics", "--out", str(trained[0]), *words])
    err = capsys.readouterr().err
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and told in err
    assert launch.bundled("lyrics").parts[-2:] == ("lyrics", "stage2")
