"""Weights that do not fit, the evaluate command, and what all commands share."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ASK, ROOT, SCENE, call, ready, refused, runs, system  # noqa: F401
from few_steps import SCORES

import infer
import lion_min
from lion_min import BadInput, checkpoints, evaluate, launch, scores
from lion_min.cli import SYSTEMS, guarded
from lion_min.scenes import write_scenes
from lion_min.training import NonFinite


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
    (config(stage=1), "mode is qformer"), (config(stage=3), "does not fit"),
    (config(world=["medium"]), "world is ['medium']"), (config(settings=None), "family is None"),
    (config(settings={"language": {"family": "llama"}}), "another version"),
    (lambda f: (f.parent / "stage0" / "llama" / "model.safetensors").write_text(""), "safetensors"),
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


def test_evaluate_tells_a_system_s_own_report(runs, ready, capsys, system, monkeypatch):
    """Guards: minutes spent on numbers that only --json shows."""
    report = {"refiner": {"ap50": 0.98765}, "fine": {"counting": {"accuracy": 1.0, "n": 4}}}
    monkeypatch.setattr(type(system), "report", lambda *_: report, raising=False)
    scored = SCORES | {"n": {"reg": 4}, "count": 4, "world": "medium", "seed": 0, "seconds": 1}
    monkeypatch.setattr(scores, "evaluate", lambda *_, **__: scored)
    words = ["--weights", runs / "lion" / "stage4", "--count", 4, "--no-shuffled"]
    _, out, _ = call(evaluate.main, capsys, *words)
    lines = [line.split() for line in out.splitlines()]
    at = lines.index(["refiner"])
    assert lines[at:at + 6] == [["refiner"], ["ap50", "0.988"], ["fine"], ["counting"],
                                ["accuracy", "1.000"], ["n", "4"]]
    assert json.loads(call(evaluate.main, capsys, *words, "--json")[1]).items() >= report.items()


@pytest.mark.parametrize("name", SYSTEMS)
def test_evaluate_of_every_bundled_system(capsys, name):
    """Guards: a documented command that ends in a traceback for one of the four systems."""
    code, out, err = call(evaluate.main, capsys, "--system", name, "--count", 4, "--seed", 7)
    assert (code, err) == (0, "") and "reg_exact" in out and "shuffled" in out


def test_weights_named_from_within_their_folder(runs, monkeypatch):
    """Guards: a folder that exists and is refused because its path does not spell out `lion`."""
    monkeypatch.chdir(runs / "lion")
    assert launch.read_config("lion", Path("stage4"))["stage"] == 4


@pytest.mark.parametrize("argv", [("scene.png",), ("scene.png", ASK, "--seed", "-1"),
                                  ("scene.png", ASK, "--device", "tpu"),
                                  ("scene.png", ASK, "--system", "gpt")])
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


def test_the_script_itself(tmp_path):
    """Guards: an exit code lost between main() and the shell; a script that needs its folder."""
    done = subprocess.run([sys.executable, str(ROOT / "infer.py"), "nothing.png", ASK],
                          cwd=tmp_path, capture_output=True, text=True)
    refused((done.returncode, done.stdout, done.stderr), "nothing.png")


def test_load_refuses_in_one_line(runs, tmp_path):
    """Guards: a KeyError out of `lion_min.load`, or the bundled weights in the place of others."""
    for wanted, told in (({"system": "cat"}, "there is lion, pvit, lyrics, lmeye"),
                         ({"weights": tmp_path / "none"}, "no such folder"),
                         ({"preset": "clip-smollm2"}, "nothing is bundled"),
                         ({"weights": runs / "lion" / "stage4", "llm": "x"}, "has its own"),
                         ({"device": "tpu"}, "must be auto, cpu or cuda")):
        with pytest.raises(BadInput, match=told):
            lion_min.load(**wanted)


def test_ask_takes_a_path_or_a_picture(system, tmp_path):
    """Guards: a Python user's reply that differs from the command's."""
    SCENE.save(tmp_path / "scene.png")
    one, two = (system.ask(image, ASK) for image in (SCENE, str(tmp_path / "scene.png")))
    assert one.answer == two.answer and one.prompt_boxes == [(0.1, 0.1, 0.6, 0.6)]
    assert one.prompt == "describe box [0.100,0.100,0.600,0.600]" and system.explain(one).maps
    with pytest.raises(BadInput, match="needs a box"):
        system.ask(SCENE, "describe box")
