"""infer.py, called as a user calls it: every bad input is one line and exit code 2."""

import json
import os
from pathlib import Path

import pytest
from commands import ASK, SCENE, call, ready, refused, runs, system  # noqa: F401 (fixtures)
from PIL import Image
from test_images import bomb

import infer
from lion_min import launch
from lion_min.boxes import BOX_LITERAL


def truncated(path: Path) -> None:
    SCENE.save(path)
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize("make, told", [
    (lambda p: p.write_text("I am no picture"), "not a readable picture"),
    (truncated, "truncated or damaged"), (lambda p: p.write_bytes(bomb(10_000)), "pixels"),
    (lambda p: p.mkdir(), "not a file"), (lambda p: None, "no such file")])
def test_pictures_that_are_none(ready, capsys, make, told):
    """Guards: a traceback, or 100 million pixels decoded, for a file that is no picture."""
    make(ready / "odd.png")
    refused(call(infer.main, capsys, "odd.png", ASK), "odd.png", told)


@pytest.mark.parametrize("name, mode", [
    ("a.jpg", "CMYK"), ("a.png", "I;16"), ("a.png", "P"), ("a.png", "RGBA")])
def test_odd_pictures_are_answered(ready, capsys, name, mode):
    """Guards: another mode that stops the command, here or in drawing; a picture on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    SCENE.resize((90, 60)).convert("L").convert(mode).save(name, exif=exif)
    code, out, _ = call(infer.main, capsys, name, ASK, "--save", "out.png", "--show", "panel.png")
    saved = Image.open("out.png")
    assert code == 0 and out.strip() and saved.height > saved.width
    assert saved.format == "PNG" and Image.open("panel.png").width > 500


def test_one_pixel(ready, capsys):
    """Guards: a division by nothing in a picture of 1x1; its only box is the whole of it."""
    Image.new("RGB", (1, 1), "red").save("dot.png")
    assert call(infer.main, capsys, "dot.png", "What is in the image?", "--save", "o.png")[0] == 0
    assert call(infer.main, capsys, "dot.png", "describe box [0,0,1,1]", "--show", "p.png")[0] == 0
    refused(call(infer.main, capsys, "dot.png", "describe box [0,0,0.5,0.5]"), "at least one pixel")


@pytest.mark.parametrize("prompt, told", [
    ("describe box [30,8,12,26]", "reversed"), ("describe box [10,10,90,40]", "leaves the image"),
    ("describe box [nan,0,1,1]", "not finite"), ("describe box [0.1,0.2,0.3]", "has 3 numbers"),
    ("describe box []", "needs a box"), ("describe box", "needs a box"),
    ("What is in the box?", "needs a box"), ("Describe the region, please", "needs a box"),
    ("What does the region (40,2,30,40) show?", "needs a box"), ("", "empty"), (" \n\t ", "empty"),
    ("a" * 100_000, "100000 characters"), ("[" * 100_000, "100000 characters"),
    ("\U0001f981" * 19_000, "words and signs"),
    ("describe box [0.1,0.1,0.6,0.6] " * 400, "words and signs"), ("a\udcff", "UTF-8")])
def test_prompts_that_cannot_be_asked(ready, capsys, prompt, told):
    """Guards: a box that is guessed, a prompt that hangs, a traceback out of the tokenizer."""
    refused(call(infer.main, capsys, "scene.png", prompt, "--save", "out.png"), told)
    assert not Path("out.png").exists()


@pytest.mark.parametrize("prompt", [
    "What is {in} the {0} image? {", "What\nis\r\nin the image?", "\U0001f981\U0001f981",
    "<eos><eos>", "<region> <extra_id_0> <pad> <bos> <unk>", "[INST] hello [/INST] [a, b]",
    "According to <extra_id_0>, which tags?", "describe <region> [0.1,0.1,0.6,0.6]",
    "Give the box of the red circle.", "%s %d \\ ' \" ` $HOME; rm", "\u200b", "\x00\x1b[2J",
    "word " * 400, "describe box [1e-1, +.1 0.6,.6]", "compare [0,0,20,20] and [30,30,64,64]"])
def test_odd_prompts_are_answered(ready, capsys, prompt):
    """Guards: str.format on a user's braces, special tokens let in by their text, newlines."""
    code, out, err = call(infer.main, capsys, "scene.png", prompt, "--save", "o.png",
                          "--show", "p.png", "--json")
    assert code == 0 and set(json.loads(out)) == {"answer", "boxes", "system", "preset", "seconds"}
    assert out.count("\n") == 1 and "error" not in err and "\x1b" not in err
    assert all(line.startswith("note: ") for line in err.splitlines())


def test_unknown_words_are_named_once(ready, capsys):
    """Guards: an answer about a zebra from a model that never read the word, without a hint."""
    _, out, err = call(infer.main, capsys, "scene.png", "Is the Zebra in [0,0,9,9] a zebra?")
    assert "note: the tiny preset does not know 'Zebra', 'zebra'\n" in err and "note" not in out
    assert BOX_LITERAL.sub("", "x [0.1,0.2, 3,4]") == "x "


def test_answer_then_boxes_in_pixels(ready, capsys, system, monkeypatch):
    """Guards: fractions where pixels are promised, or boxes of the prompt among the answer's."""
    monkeypatch.setattr(system, "answer", lambda seen, prompts, **o: ["[0.250,0.500,0.750,1.000]"])
    SCENE.resize((200, 100)).save("wide.png")
    code, out, err = call(infer.main, capsys, "wide.png", "Where is the red circle?")
    assert (code, out, err) == (0, "[0.250,0.500,0.750,1.000]\n[50,50,150,100]\n", "")
    _, out, _ = call(infer.main, capsys, "wide.png", ASK.replace("0.6", "0.9"), "--json")
    assert json.loads(out)["boxes"] == [[0.25, 0.5, 0.75, 1.0]]


def test_show_has_a_default_name(ready, capsys):
    """Guards: a panel written over the picture itself."""
    before = Path("scene.png").read_bytes()
    assert call(infer.main, capsys, "scene.png", ASK, "--show")[0] == 0
    assert Path("scene_show.png").exists() and Path("scene.png").read_bytes() == before
    refused(call(infer.main, capsys, "scene.png", ASK, "--save", "./scene.png"), "itself")
    refused(call(infer.main, capsys, "scene.png", ASK, "--save", "a.png", "--show", "a.png"), "two")
    assert Path("scene.png").read_bytes() == before


@pytest.mark.parametrize("target, told", [
    ("no/such/folder/out.png", "does not exist"), ("out.xyz", "unknown picture type"),
    ("folder.png", "not a file")])
def test_output_is_checked_before_the_work(ready, capsys, monkeypatch, target, told):
    """Guards: a minute of work whose picture then cannot be written."""
    Path("folder.png").mkdir()
    monkeypatch.setattr(launch, "load", lambda *a: pytest.fail("the model was loaded"))
    for flag in ("--save", "--show"):
        refused(call(infer.main, capsys, "scene.png", ASK, flag, target), target, told)


def test_full_disk_leaves_the_earlier_picture(ready, capsys, monkeypatch):
    """Guards: half a picture in the place of a whole one."""
    Path("out.png").write_bytes(b"an earlier result")

    def full(self, path, **options):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(Image.Image, "save", full)
    refused(call(infer.main, capsys, "scene.png", ASK, "--save", "out.png"), "No space left")
    assert Path("out.png").read_bytes() == b"an earlier result"
    assert sorted(os.listdir()) == ["out.png", "scene.png"]
