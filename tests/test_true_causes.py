"""Messages that name the true cause of a fault, and files of the user's that stay as they are."""

import argparse
import os
from pathlib import Path

import pytest
import torch
from commands import ASK, call, ready, refused, runs, system  # noqa: F401 (fixtures)
from torch import nn

import infer
import train
from lion_min import BadInput, check_file, checkpoints, launch, scenes, stage_script
from lion_min.checkpoints import __main__ as checkpoints_main
from lion_min.cli import positive, whole
from lion_min.datasets.pickles import read_plain_pickle
from lion_min.datasets.records import json_file, json_lines
from lion_min.images import load_image, stored_frame
from lion_min.language import LanguageModel, LanguageSettings, TextBatch
from lion_min.language_build import too_long
from lion_min.pretrained.backbones import load_vision
from lion_min.published import importing, keys
from lion_min.training import Plan, run

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
READERS = {
    "image": load_image, "size": stored_frame, "safetensors": checkpoints.load_tensors,
    "json": checkpoints.load_json, "official": lambda path: importing.read_file(path.rename(f"{path}.pth")),
    "annotations": json_file, "lines": lambda path: list(json_lines(path)), "pickle": read_plain_pickle}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("make, told", [
    (lambda p: p.write_bytes(POINTER), "is a pointer of git-lfs"), (lambda p: p.write_bytes(b""), "empty"),
    (lambda p: p.mkdir(), "is a folder, not a file"), (lambda p: os.mkfifo(p), "not a file")],
    ids=["pointer", "empty", "folder", "pipe"])
def test_what_is_no_file_to_read(tmp_path, name, make, told):
    """Guards: "header too large", "not JSON" or "weights only load failed" for a pointer of
    git-lfs; a wait for ever at a pipe; "Is a directory" without the path."""
    make(path := tmp_path / "file")
    if (name, told) == ("official", "is a folder, not a file"):
        told = "no model.safetensors"      # an official folder is read as well
    with pytest.raises(BadInput, match=told) as caught:
        READERS[name](path)
    assert "file" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_in_the_place_of_a_folder(ready, capsys):
    """Guards: "no such folder" for a file that is there; a pointer among a backbone's files."""
    Path("model.safetensors").write_bytes(POINTER)
    Path("tower").mkdir()
    Path("tower/config.json").write_text("{}")
    Path("tower/model.safetensors").write_bytes(POINTER)
    with pytest.raises(BadInput, match="is a file; give the folder of the run"):
        launch.read_config("lion", Path("model.safetensors"))
    with pytest.raises(BadInput, match="is a file; pass the folder"):
        load_vision("model.safetensors")
    with pytest.raises(BadInput, match="pointer of git-lfs"):
        load_vision("tower")
    for argv in (["--stage", "2", "--out", "model.safetensors"], ["--stage", "2", "--data", "no.jsonl"]):
        refused(call(train.main, capsys, *argv), argv[-1])
    refused(call(scenes.main, capsys, "model.safetensors"), "model.safetensors")


@pytest.mark.parametrize("start, kind", [
    (b"\0\0\0\x20ftypavif", "AVIF"), (b"\0\0\0\x18ftypheic\0", "HEIC"), (b"\0\0\0\x18ftypmif1", "HEIF"),
    (b"\0\0\0\x18ftypisom", "a video"), (b"II*\0\x08", "TIFF"), (b"%PDF-1.7", "PDF"), (b"8BPS\0", "PSD"),
    (b'<svg xmlns="', "SVG"), (b"<!DOCTYPE html><html>", "a web page")])
def test_a_picture_of_another_format_is_named(tmp_path, start, kind):
    """Guards: a phone's HEIC that is called damaged; a download page saved as cat.jpg."""
    (tmp_path / "cat.jpg").write_bytes(start + b"\1" * 99)
    with pytest.raises(BadInput, match=f"not a readable picture, but {kind}; give a PNG"):
        load_image(tmp_path / "cat.jpg")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite_are_named(value, dtype):
    """Guards: nonsense for an answer, or a diverged run taken for a start, without a word."""
    model = nn.ModuleDict({"good": nn.Linear(2, 2), "bad": nn.Linear(2, 2)})
    tensors = {n: p.detach().to(dtype) for n, p in model.named_parameters()}
    checkpoints.load_into(model, tensors, "file")
    tensors["bad.weight"][1, 0] = value
    with pytest.raises(BadInput, match="not finite: bad.weight;|not finite: bad.weight\\)"):
        checkpoints.load_into(model, tensors, "file")
    with pytest.raises(BadInput, match="not finite: bad.weight"):
        keys.check_filled(model, tensors, "file")


@pytest.mark.parametrize("kind, text, told", [
    (whole(1), "1e3", "no whole number from 1 on"), (whole(1), "1,000", "whole"), (whole(1), "-3", "whole"),
    (whole(1), "0", "whole"), (whole(1), "", "whole"), (whole(1), "2.0", "whole"), (whole(1), "٣", "whole"),
    (whole(1, 1024), "5000", "from 1 to 1024"), (whole(0), "9" * 5000, "whole"), (whole(1), "1_0", "whole"),
    (positive, "1,5", "no number above 0, such as"), (positive, "-1", "above"), (positive, "0", "above"),
    (positive, "nan", "above"), (positive, "inf", "above"), (positive, "1e999", "above"),
    (positive, "fast", "above")])
def test_numbers_of_the_command_line(kind, text, told):
    """Guards: "invalid number value", "invalid float value", a traceback, for a slip of the pen."""
    with pytest.raises(argparse.ArgumentTypeError, match=told) as caught:
        kind(text)
    assert len(str(caught.value)) < 120
    assert (whole(1)("12"), positive("2e-3")) == (12, 0.002)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_answer_that_is_cut_gets_a_note(family):
    """Guards: half a sentence that looks like a whole one; a prompt beyond what the LLM can place."""
    torch.manual_seed(0)
    llm = LanguageModel(LanguageSettings(family=family, vocab=12, width=8, layers=1, heads=1, ffn=8,
                                         positions=9)).eval()
    text = TextBatch(ids := torch.tensor([[3, 4, 5]]), torch.ones_like(ids).bool(), ids)
    ended = torch.tensor([[5, 6, llm.settings.eos_id]])
    llm.generate(llm.embed(ids), text, max_new_tokens=3, eos_token_id=None)
    assert llm.notes == ["the answer was cut at 3 tokens, the most that are written"]
    assert too_long(ended, 0, 3, llm.settings) == []
    llm.generate(llm.embed(ids), text, max_new_tokens=7, eos_token_id=None)
    assert "9 positions" in llm.notes[0] or family == "t5"
    assert "cut at 7" in llm.notes[-1]


# ---- the user's files ----------------------------------------------------------------------------

def test_scenes_of_another_command_stay(tmp_path, capsys):
    """Guards: yesterday's data set, its truth replaced beside its old pictures."""
    for argv in (["--count", 2], ["--count", 2]):                  # the same ones again: no harm
        assert call(scenes.main, capsys, tmp_path / "a", *argv)[0] == 0
    before = (tmp_path / "a" / "scenes.jsonl").read_bytes()
    for argv in (["--count", 3], ["--count", 2, "--seed", 1], ["--count", 2, "--world", "rich"]):
        refused(call(scenes.main, capsys, tmp_path / "a", *argv), "lists other scenes")
    assert (tmp_path / "a" / "scenes.jsonl").read_bytes() == before
    assert len(list((tmp_path / "a").iterdir())) == 3
    refused(call(scenes.main, capsys, tmp_path / "b", "--count", 0), "whole number")


@pytest.mark.parametrize("flag", ["--save", "--show"])
def test_no_picture_is_written_through_a_link_or_onto_the_input(ready, capsys, flag):
    """Guards: the only copy of a photograph, replaced by itself with boxes on it."""
    before = Path("scene.png").read_bytes()
    os.link("scene.png", "hard.png")
    Path("soft.png").symlink_to("scene.png")
    Path("dangling.png").symlink_to("elsewhere.png")
    Path("other.png").write_bytes(b"mine")
    Path("to_other.png").symlink_to("other.png")
    for name, told in (("scene.png", "itself"), ("./scene.png", "itself"), ("hard.png", "itself"),
                       ("soft.png", "is a link"), ("dangling.png", "is a link"),
                       ("to_other.png", "is a link")):
        refused(call(infer.main, capsys, "scene.png", ASK, flag, name), told)
    refused(call(infer.main, capsys, "soft.png", ASK, flag, "scene.png"), "itself")
    assert Path("scene.png").read_bytes() == before and Path("other.png").read_bytes() == b"mine"


def test_another_run_stays(tmp_path):
    """Guards: a night's weights lost to the same --out with another --seed, or to a start from
    nothing where the user forgot --resume."""
    model = nn.Linear(2, 1)

    def train_to(steps: int, config: dict, stop: int = -1, **options):
        def loss(step: int, shard: int = 0):
            if step == stop:
                raise KeyboardInterrupt
            return model(torch.ones(1, 2)).sum(), {}
        run(model, loss, Plan(steps, 0.1, save_every=1), tmp_path, config, quiet=True, **options)

    with pytest.raises(KeyboardInterrupt):
        train_to(4, {"seed": 0}, stop=2)
    before = (tmp_path / "state.safetensors").read_bytes()
    for steps, config, told in ((4, {"seed": 0}, "this run up to step 2; go on with --resume"),
                                (4, {"seed": 1}, r"another run \(seed is 1, was 0\)"),
                                (9, {"seed": 0}, r"another run \(plan.steps is 9, was 4\)")):
        with pytest.raises(BadInput, match=told):
            train_to(steps, config)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    train_to(4, {"seed": 0}, resume=True)
    train_to(4, {"seed": 0})                                       # the same, finished: no harm


def test_an_import_goes_into_a_folder_of_its_own(tmp_path, capsys):
    """Guards: files of two checkpoints, or of a run and one, in one folder."""
    for name in ("notes.txt", "state.safetensors", "config.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("mine")
        refused(call(checkpoints_main.main, capsys, "import", "lion", "none.pth", "--out", tmp_path / name),
                "is not empty")


def test_a_jsonl_needs_its_format(ready, capsys):
    """Guards: "not JSON" for a file of one object a line, whose format was not said."""
    Path("a.jsonl").write_text("{}\n{}\n")
    for main, argv in ((train.main, ["--stage", "2"]), (train.main, ["--system", "pvit", "--stage", "1"]),
                       (lambda argv: stage_script.main("lion_min.lion.stage2", argv), [])):
        refused(call(main, capsys, *argv, "--data", "a.jsonl"),
                "a.jsonl: say which format", "--format samples|")


def test_check_file_passes_a_file(tmp_path):
    """Guards: a check that refuses everything."""
    (tmp_path / "a").write_text("x")
    check_file(tmp_path / "a")
    with pytest.raises(BadInput, match="image 'b': no such file"):
        check_file(tmp_path / "b", "image 'b'")
