"""The commands, called as a user calls them: every bad input is one line and exit code 2."""

import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image
from random_lion import write_stage, write_stage0

import infer
from lion_min import checkpoints, evaluate
from lion_min.asking import BOX_LITERAL, unknown_words
from lion_min.cli import guarded
from lion_min.lion import loading
from lion_min.scenes import WORLDS, make_scene, write_scenes
from lion_min.tokenizer import TinyTokenizer
from lion_min.training import NonFinite

ROOT = Path(__file__).resolve().parents[1]
SCENE = make_scene(WORLDS["medium"], "heldout", 5, 0).draw()
ASK = "describe box [0.1,0.1,0.6,0.6]"


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """OUT with an untrained stage 0 and stages 1 to 4."""
    out = tmp_path_factory.mktemp("runs")
    write_stage0(out)
    for number in (1, 2, 3, 4):
        write_stage(out, number)
    return out


@pytest.fixture(scope="session")
def system(runs):
    return loading.load_system(runs / "lion" / "stage4")


@pytest.fixture
def ready(system, monkeypatch, tmp_path):
    """A folder to work in with scene.png; the system is loaded already."""
    monkeypatch.setattr(loading, "load_system", lambda weights, device: system)
    monkeypatch.chdir(tmp_path)
    SCENE.save("scene.png")
    return tmp_path


def call(main, capsys, *argv) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command; an exception that leaves it fails the test."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def refused(result: tuple[int, str, str], *told: str) -> None:
    code, out, err = result
    assert code == 2 and out == "", result
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for words in told:
        assert words in err, err


# ---- pictures ----------------------------------------------------------------------------------

def bomb(path: Path) -> None:
    """10^8 pixels in a few kilobytes."""
    side, flat = 10_000, zlib.compressobj(9)
    rows = b"".join([flat.compress(bytes(side // 8 + 1)) for _ in range(side)] + [flat.flush()])
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", rows),
              (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks))


def truncated(path: Path) -> None:
    SCENE.save(path)
    path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize("make, told", [
    (lambda p: p.write_text("I am no picture"), "not a readable picture"),
    (truncated, "truncated or damaged"), (bomb, "pixels"), (lambda p: p.touch(), "empty"),
    (lambda p: p.mkdir(), "not a file"), (lambda p: None, "no such file")])
def test_pictures_that_are_none(ready, capsys, make, told):
    """Guards: a traceback, or 100 million pixels decoded, for a file that is no picture."""
    make(ready / "odd.png")
    refused(call(infer.main, capsys, "odd.png", ASK), "odd.png", told)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    SCENE.resize((90, 60)).save(path, exif=exif)


@pytest.mark.parametrize("name, make", [
    ("animated.gif", lambda p: SCENE.save(p, save_all=True, append_images=[SCENE.rotate(90)])),
    ("rotated.jpg", rotated),
    ("cmyk.jpg", lambda p: SCENE.convert("CMYK").save(p)),
    ("deep.png", lambda p: SCENE.convert("L").convert("I;16").save(p)),
    ("palette.png", lambda p: SCENE.convert("P").save(p)),
    ("transparent.png", lambda p: SCENE.convert("RGBA").save(p))])
def test_odd_pictures_are_answered(ready, capsys, name, make):
    """Guards: a picture of another mode that stops the command, here or in drawing."""
    make(ready / name)
    code, out, _ = call(infer.main, capsys, name, ASK, "--save", "out.png", "--show", "panel.png")
    assert code == 0 and out.strip()
    saved = Image.open("out.png")
    assert saved.format == "PNG" and Image.open("panel.png").width > 500
    if name == "rotated.jpg":
        assert saved.height > saved.width, "the picture was answered lying on its side"


def test_one_pixel(ready, capsys):
    """Guards: a division by nothing in a picture of 1x1; its only box is the whole of it."""
    Image.new("RGB", (1, 1), "red").save("dot.png")
    assert call(infer.main, capsys, "dot.png", "What is in the image?", "--save", "o.png")[0] == 0
    assert call(infer.main, capsys, "dot.png", "describe box [0,0,1,1]", "--show", "p.png")[0] == 0
    refused(call(infer.main, capsys, "dot.png", "describe box [0,0,0.5,0.5]"), "at least one pixel")


# ---- prompts -----------------------------------------------------------------------------------

@pytest.mark.parametrize("prompt, told", [
    ("describe box [0.6,0.1,0.1,0.6]", "reversed"), ("describe box [30,8,12,26]", "reversed"),
    ("describe box [-0.3,0.5,0.4,0.9]", "leaves the image"),
    ("describe box [10,10,90,40]", "leaves the image"),
    ("describe box [nan,0,1,1]", "not finite"), ("describe box [0,0,inf,1]", "not finite"),
    ("describe box [0.1,0.2,0.3]", "has 3 numbers"),
    ("describe box [0.1,0.2,0.3,0.4,0.5]", "has 5 numbers"),
    ("describe box [0.1,,0.3,0.4]", "empty place"), ("describe box []", "needs a box"),
    ("describe box", "needs a box"), ("What is in the box?", "needs a box"),
    ("Describe the region, please", "needs a box"),
    ("What does the region (1,2,30,40) show?", "needs a box"),
    ("", "empty"), (" \n\t ", "empty"), ("a" * 100_000, "100000 characters"),
    ("[" * 100_000, "100000 characters"), ("\U0001f981" * 19_000, "words and signs"),
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
    assert err == "note: the tiny preset does not know 'Zebra', 'zebra'\n" and "note" not in out
    tokenizer = TinyTokenizer()
    assert unknown_words(tokenizer, "What colour is the circle in [0.100,0.100,0.6,1]?") == []
    assert BOX_LITERAL.sub("", "x [0.1,0.2, 3,4]") == "x "


# ---- output ------------------------------------------------------------------------------------

def test_answer_then_boxes_in_pixels(ready, capsys, system, monkeypatch):
    """Guards: fractions where pixels are promised, or boxes of the prompt among the answer's."""
    monkeypatch.setattr(system, "answer", lambda seen, prompts: ["[0.250,0.500,0.750,1.000]"])
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
    monkeypatch.setattr(loading, "load_system", lambda *a: pytest.fail("the model was loaded"))
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


# ---- weights -----------------------------------------------------------------------------------

def cut(folder: Path) -> None:
    model = folder / checkpoints.MODEL
    model.write_bytes(model.read_bytes()[:-1000])


def config(**changed):
    def change(folder: Path) -> None:
        old = checkpoints.load_json(folder / checkpoints.CONFIG)
        checkpoints.save_run(folder, checkpoints.load_tensors(folder / checkpoints.MODEL),
                             old | changed)
    return change


@pytest.mark.parametrize("damage, told", [
    (lambda f: shutil.rmtree(f), "no such folder"),
    (lambda f: (f / "config.json").unlink(), "no such file"),
    (lambda f: (f / "config.json").write_text("{"), "JSON"),
    (lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    (lambda f: (f / "model.safetensors").unlink(), "no such file"), (cut, "safetensors"),
    (config(system="pvit"), "system is 'pvit'"), (config(stage=0), "stage is 0"),
    (config(stage=1), "does not fit"), (config(world=["medium"]), "world is ['medium']"),
    (config(settings=None), "family is None"),
    (config(settings={"language": {"family": "llama"}}), "another version"),
    (lambda f: (f.parent / "stage0" / "llama" / "model.safetensors").write_text(""),
     "safetensors"),
    (lambda f: f.parent.rename(f.parents[1] / "renamed"), "'lion'")])
def test_weights_that_do_not_fit(runs, tmp_path, monkeypatch, capsys, damage, told):
    """Guards: weights loaded in part and in silence, or around other frozen parts."""
    monkeypatch.chdir(tmp_path)
    SCENE.save("scene.png")
    for stage in ("stage0", "stage4"):
        shutil.copytree(runs / "lion" / stage, tmp_path / "lion" / stage)
    damage(tmp_path / "lion" / "stage4")
    where = next(tmp_path.glob("*/stage4"), tmp_path / "lion" / "stage4")
    refused(call(infer.main, capsys, "scene.png", ASK, "--weights", where), told)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_every_stage_can_be_asked(runs, ready, capsys, monkeypatch, number):
    """Guards: a stage whose own checkpoint its own command cannot read or explain."""
    monkeypatch.undo()
    where = runs / "lion" / f"stage{number}"
    for prompt in (ASK, "How many circles are there?"):
        code, out, _ = call(infer.main, capsys, ready / "scene.png", prompt, "--weights", where,
                            "--show", ready / "panel.png")
        assert code == 0 and (ready / "panel.png").exists()


# ---- the other commands ------------------------------------------------------------------------

def test_evaluate_prints_one_object(runs, ready, capsys, system):
    """Guards: a score that the contract names and the report lacks; a shuffled floor left out."""
    code, out, err = call(evaluate.main, capsys, "--weights", runs / "lion" / "stage4",
                          "--count", 4, "--seed", 7, "--json")
    result = json.loads(out)
    assert code == 0 and err == "" and out.count("\n") == 1
    assert result.keys() >= {
        "rec_acc50", "rec_acc50_relational", "rec_miou", "reg_exact", "reg_exact_heldout_pairs",
        "reg_kind", "reg_colour", "vqa_acc", "vqa_by_type", "relation_acc", "exist_acc",
        "exist_yes_rate", "caption_object_f1", "shuffled", "n", "seed", "seconds", "system",
        "weights", "world"}
    assert result["world"] == "medium" and result["seed"] == 7 and result["n"]["reg"] == 4
    assert "rec_acc50" in result["shuffled"]


def test_evaluate_on_a_folder(runs, ready, capsys):
    """Guards: --data that scores generated scenes all the same."""
    write_scenes(ready / "data", 3, 1, "small")
    words = ["--weights", runs / "lion" / "stage4", "--data", "data", "--no-shuffled"]
    code, out, _ = call(evaluate.main, capsys, *words)
    assert code == 0 and "\n3 scenes of the world medium" in out and "shuffled" not in out
    (ready / "data" / "scene_1_0001.png").write_text("no picture")
    refused(call(evaluate.main, capsys, *words), "scene_1_0001.png")
    refused(call(evaluate.main, capsys, "--data", "data", "--format", "coco"), "photographs")
    refused(call(evaluate.main, capsys, "--count", "1"), "--count")
    refused(call(evaluate.main, capsys, "--weights", "nowhere"), "nowhere")


@pytest.mark.parametrize("argv", [("scene.png",), ("scene.png", ASK, "--seed", "-1"),
                                  ("scene.png", ASK, "--device", "tpu"),
                                  ("scene.png", ASK, "--system", "lyrics")])
def test_usage_is_one_line_too(ready, capsys, argv):
    """Guards: argparse's own usage block in the place of one line."""
    refused(call(infer.main, capsys, *argv))


def test_guarded_tells_a_loss_that_is_not_finite(capsys):
    """Guards: a traceback at the end of a night of training; other errors hidden as bad input."""
    def fail(error):
        raise error
    assert guarded(lambda: fail(NonFinite("step 7: loss nan"))) == 2
    assert capsys.readouterr().err == "error: step 7: loss nan\n"
    assert guarded(lambda: fail(KeyboardInterrupt())) == 130
    with pytest.raises(RuntimeError, match="a defect"):
        guarded(lambda: fail(RuntimeError("a defect")))


def test_help_is_instant():
    """Guards: three seconds of imports before the first word of --help."""
    code = """
import sys, infer, train
from lion_min import evaluate
for main in (infer.main, train.main, evaluate.main):
    try: main(["--help"])
    except SystemExit as end: assert end.code == 0
heavy = {"torch", "transformers", "numpy"} & set(sys.modules)
assert not heavy, heavy"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--show" in done.stdout and "--resume" in done.stdout


def test_the_script_itself(tmp_path):
    """Guards: an exit code lost between main() and the shell; a script that needs its folder."""
    done = subprocess.run([sys.executable, str(ROOT / "infer.py"), "nothing.png", ASK],
                          cwd=tmp_path, capture_output=True, text=True)
    refused((done.returncode, done.stdout, done.stderr), "nothing.png")
