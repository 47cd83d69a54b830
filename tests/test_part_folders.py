"""Folders of parts on the command line: a mistake in one is told before any weights are read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import call, refused
from random_backbones import LLMS, TOWERS, folder, write_clip, write_llama  # noqa: F401
from PIL import Image

import infer
import train
from lion_min import launch
from lion_min.pretrained import backbones, plan
from lion_min.pretrained.backbones import load_language, load_vision
from lion_min.published import importing


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A CLIP, a Llama, and a dozen ways not to be another part."""
    root = tmp_path_factory.mktemp("parts")
    write_clip(root / "clip"), write_llama(root / "llama")
    (root / "empty").mkdir()
    (root / "torn").mkdir()
    (root / "torn" / "config.json").write_text('{"model_type": "lla')
    (root / "words.txt").write_text("no weights")
    Image.new("RGB", (40, 30)).save(root / "photo.jpg")
    return root


@pytest.fixture
def nothing_read(monkeypatch, place):
    """No weights and no data set are read; what would read them fails the test."""
    monkeypatch.chdir(place)
    for module, name in ((backbones, "_weights"), (importing, "_pickled"), (launch.Options, "scenes")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("was read"))


GOOD = {"vision": "clip", "llm": "llama"}
WRONG = [
    ("pvit", "clip-smollm2", {"llm": "nowhere"}, "nowhere: no such folder"),
    ("pvit", "clip-smollm2", {"llm": "empty"}, "empty: holds no config.json"),
    ("pvit", "clip-smollm2", {"llm": "torn"}, "torn: cannot be read"),
    ("pvit", "clip-smollm2", {"llm": "clip"}, "a 'clip' is no LLM known here"),
    ("pvit", "clip-smollm2", {"vision": "llama"}, "a 'llama' is no vision tower known here"),
    ("pvit", "clip-smollm2", {"regions": "gone.pth"}, "gone.pth: no such file"),
    ("pvit", "clip-smollm2", {"regions": "words.txt"}, "words.txt: neither a .pth"),
    ("lyrics", "clip-smollm2", {"detector": "clip"}, "model_type is grounding-dino"),
    ("lyrics", "clip-smollm2", {"detector": "empty", "segmenter": "clip"}, "--detector FOLDER"),
    ("lmeye", "lmeye-flant5-xl", {"tower": "empty"}, "--tower FOLDER"),
    ("lmeye", "lmeye-flant5-xl", {"tower": "llama"}, "model_type is clip")]


def flags(parts: dict[str, str]) -> list[str]:
    return [word for name, folder in parts.items() for word in (f"--{name}", folder)]


@pytest.mark.parametrize("system, preset, wrong, told", WRONG)
def test_a_wrong_part_is_told_before_any_is_read(place, nothing_read, tmp_path, capsys, system, preset,
                                                 wrong, told):
    """Guards: minutes of loading an LLM of 13 GB, then the typing mistake in a folder's name."""
    words = ["--system", system, "--stage", "1", "--preset", preset, "--data", "clip", "--out", tmp_path]
    refused(call(train.main, capsys, *words, *flags(GOOD | wrong)), told)
    with pytest.raises(launch.BadInput, match=told.split(":")[0]):
        launch.parts_for(tmp_path, preset, GOOD | wrong, system=system)


def test_published_lmeye_wants_a_whole_clip(place, nothing_read, tmp_path, capsys):
    """Guards: a tower without text, told when the LLM is in memory."""
    config = json.loads((place / "clip/config.json").read_text())
    (tmp_path / "half").mkdir()
    (tmp_path / "half/config.json").write_text(json.dumps(
        config["vision_config"] | {"model_type": "clip_vision_model"}))
    refused(call(train.main, capsys, "--system", "lmeye", "--stage", "1", "--preset", "lmeye-llama7b",
                 "--llm", "llama", "--vision", tmp_path / "half"), "'clip_vision_model' is no CLIPModel")


def test_wrong_tags_are_told_before_the_system_is_read(place, monkeypatch, capsys):
    """Guards: --tags FILE of another folder, told behind the LLM."""
    monkeypatch.setattr(launch, "load", lambda *_, **__: pytest.fail("was read"))
    refused(call(infer.main, capsys, place / "photo.jpg", "What?", "--tags", place / "gone.jsonl"),
            "gone.jsonl")


# ---- --plan --------------------------------------------------------------------------------------

PLANS = [("lion", "clip-smollm2", 3, ("vision", "llm")), ("lion", "lion-flant5-xl", 4, ("llm",)),
         ("pvit", "pvit-7b", 2, ("llm",)), ("lyrics", "clip-smollm2", 2, ("vision", "llm")),
         ("lyrics", "lyrics-vicuna13b", 1, ("vision",)), ("lmeye", "clip-smollm2", 2, ("llm",)),
         ("lmeye", "lmeye-llama7b", 2, ("vision", "llm")),
         ("lmeye", "lmeye-flant5-xl", 2, ("llm",))]


@pytest.mark.parametrize("system, preset, number, given", PLANS)
def test_a_plan_counts_the_parts_that_are_given(place, nothing_read, capsys, system, preset, number,
                                                given):
    """Guards: a plan for the preset's own backbones where others are given; a download of them."""
    words = ["--system", system, "--stage", number, "--preset", preset, "--plan"]
    code, out, err = call(train.main, capsys, *words, *flags({name: GOOD[name] for name in given}))
    assert code == 0 and "TFLOP/sample" in out, err
    parts = plan.by_part(plan.build(system, preset, number, {name: GOOD[name] for name in given}))
    for name, read in (("vision", lambda: plan.vision_shapes("clip")),
                       ("llm", lambda: plan.language_shapes("llama"))):
        if name in given and name in parts:
            assert parts[name][0] == sum(p.numel() for p in read().parameters())


@pytest.mark.parametrize("system, preset, wrong, told", WRONG)
def test_a_plan_refuses_a_wrong_part(place, nothing_read, capsys, system, preset, wrong, told):
    """Guards: a table of sizes for a folder that is not there."""
    refused(call(train.main, capsys, "--system", system, "--stage", 1, "--preset", preset, "--plan",
                 *flags(wrong)), told)


@pytest.mark.parametrize("name", [*TOWERS, *LLMS])
def test_shapes_are_those_of_the_weights(folder, name):
    """Guards: a head counted once that the file has twice, or twice where the two are one."""
    if name in TOWERS:
        shapes, real = plan.vision_shapes(folder(name)), load_vision(folder(name))
    else:
        shapes, real = plan.language_shapes(folder(name)), load_language(folder(name))[0]
    assert {n: p.shape for n, p in shapes.named_parameters()} == {
        n: p.shape for n, p in real.named_parameters()}
    assert all(p.is_meta for p in shapes.parameters())
    ids = {k: v for k, v in vars(real.settings).items() if k.endswith("_id")}
    assert replace(shapes.settings, **ids) == real.settings
