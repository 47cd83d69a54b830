"""Streams of a command: closed, full, not UTF-8. One line and the contract's exit codes."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ASK, ROOT, SCENE, call, ready, refused, runs, system  # noqa: F401 (fixtures)

import infer
import train
from lion_min import evaluate, scenes, stage_script
from lion_min.checkpoints import __main__ as checkpoints_main
from lion_min.cli import guarded
from lion_min.datasets import __main__ as datasets_main
from lion_min.studies import claims

COMMANDS = {
    "infer": (infer.main, ["scene.png", ASK]), "infer --json": (infer.main, ["scene.png", ASK, "--json"]),
    "train": (train.main, ["--stage", "2", "--plan"]), "evaluate": (evaluate.main, ["--help"]),
    "scenes": (scenes.main, ["made", "--count", "1"]),
    "datasets": (datasets_main.main, ["check", "good.jsonl"]),
    "checkpoints": (checkpoints_main.main, ["--help"]),
    "studies": (claims.main, ["--help"]),
    "stage script": (lambda argv: stage_script.main("lion_min.lion.stage2", argv), ["--help"])}


def broken_pipe():
    """A stream whose reader is gone, as behind `| head -1`."""
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w")


STREAMS = {"full": (lambda: open("/dev/full", "w"), "No space left"),
           "closed": (lambda: None, "stdout: is closed"),
           "pipe": (broken_pipe, "closed by its reader")}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_stdout_that_takes_nothing(ready, capsys, monkeypatch, name, kind):
    """Guards: an answer that is lost with exit code 0, or 120; a traceback out of print()."""
    Path("good.jsonl").write_text(json.dumps({"image": "scene.png", "task": "vqa", "prompt": "What?",
                                              "answer": "A circle"}))
    main, argv = COMMANDS[name]
    monkeypatch.setattr(sys, "stdout", STREAMS[kind][0]())
    assert main(argv) == 2
    sys.stdout and sys.stdout.flush()      # as Python does once more when it ends
    *notes, last = capsys.readouterr().err.splitlines()
    assert last.startswith("error: ") and STREAMS[kind][1] in last
    assert all(line.startswith("note: the answer was cut") for line in notes)


@pytest.mark.parametrize("stream", [lambda: open("/dev/full", "w"), lambda: None, broken_pipe])
def test_a_stderr_that_takes_nothing(ready, capsys, monkeypatch, stream):
    """Guards: an answer lost for its note's sake; notes among the JSON on stdout."""
    monkeypatch.setattr(sys, "stderr", stream())
    assert infer.main(["scene.png", "What is in (0.1,0.1,0.6,0.6)?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preset"] == "tiny"
    assert infer.main(["none.png", ASK]) == 2


@pytest.mark.parametrize("encoding, shown", [("ascii", "caf\\xe9 \\u732b"), ("utf-8", "café 猫"),
                                             ("latin-1", "café \\u732b")])
def test_an_answer_that_the_terminal_cannot_show(ready, monkeypatch, system, encoding, shown):
    """Guards: UnicodeEncodeError after the whole work, under LC_ALL=C."""
    monkeypatch.setattr(system, "answer", lambda *_, **__: ["café 猫"])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw := io.BytesIO(), encoding=encoding))
    assert infer.main(["scene.png", ASK]) == 0 and raw.getvalue().decode(encoding) == shown + "\n"


def test_names_that_are_not_utf_8(ready, capsys):
    """Guards: a traceback for a file whose name is of another time's encoding."""
    odd = os.fsdecode(b"caf\xe9")
    SCENE.save(f"{odd}.png")
    code, out, err = call(infer.main, capsys, f"{odd}.png", ASK, "--save", f"{odd}_out.png", "--show")
    assert code == 0 and Path(f"{odd}_out.png").exists() and Path(f"{odd}_show.png").exists()
    refused(call(infer.main, capsys, f"{odd}.jpg", ASK), r"caf\udce9.jpg", "no such file")
    code, out, _ = call(scenes.main, capsys, odd, "--count", 1)
    assert code == 0 and r"caf\udce9" in out
    Path(odd, "s.jsonl").write_text(json.dumps(
        {"image": "scene_0_0000.png", "task": "vqa", "prompt": "What?", "answer": "A circle"}))
    assert call(datasets_main.main, capsys, "check", f"{odd}/s.jsonl")[0] == 0
    refused(call(train.main, capsys, "--stage", "2", "--data", f"{odd}/none"), r"caf\udce9")
    refused(call(checkpoints_main.main, capsys, "import", "lion", f"{odd}/a.pth", "--out", "o"), "no such")


def test_the_exit_code_that_the_shell_sees(tmp_path):
    """Guards: Python's own last flush, which fails on a full disk with code 120."""
    done = subprocess.run(f"{sys.executable} -m lion_min.scenes {tmp_path / 'made'} --count 1 >/dev/full",
                          shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: output: No space left on device\n")


def test_sigterm_is_an_interrupt(capsys):
    """Guards: a process that is stopped from outside and does not say why it ended."""
    old = signal.getsignal(signal.SIGTERM)
    assert guarded(lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(20))) == 130
    assert capsys.readouterr().err == "interrupted\n" and signal.getsignal(signal.SIGTERM) is old


@pytest.mark.parametrize("error, several, told", [
    (MemoryError(), False, "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), False, "out of memory"),
    (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried"), False, "out of memory"),
    (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True, "another process"),
    (type("DistNetworkError", (RuntimeError,), {})("reset"), True, "another process")])
def test_what_is_no_defect_is_told_in_one_line(capsys, monkeypatch, error, several, told):
    """Guards: a traceback that hides the cause."""
    monkeypatch.setenv("WORLD_SIZE", "2" if several else "1")

    def fail():
        raise error
    assert guarded(fail) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and told in err and err.count("\n") == 1
