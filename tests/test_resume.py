"""Resuming after every kind of end gives the uninterrupted run bit for bit."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_run import CONFIG, log, same_run, train, whole  # noqa: F401 (whole is a fixture)

from lion_min import BadInput, checkpoints
from lion_min.training import NonFinite

@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_equals_the_uninterrupted_run(tmp_path, precision):
    """The resumed run drew other dropout masks, restarted the schedule or lost the moments."""
    train(tmp_path / "whole", precision=precision)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", precision=precision, stop_at=6)
    assert checkpoints.read_state(tmp_path / "cut")[0] == 7, "the step was finished and saved"
    train(tmp_path / "cut", precision=precision, resume=True)
    same_run(tmp_path / "whole", tmp_path / "cut")


def test_log_lines_are_unique_after_a_resume(tmp_path, whole):
    """Steps after the last checkpoint stood twice in the log, after half a line of the kill."""
    with pytest.raises(NonFinite):
        train(tmp_path / "cut", poison=8)  # the checkpoint is at 5, the log at 8
    with open(tmp_path / "cut" / "log.jsonl", "a") as file:
        file.write('{"step": 8, "lo')
    train(tmp_path / "cut", resume=True)
    same_run(whole, tmp_path / "cut")


def test_killed_between_the_two_renames(tmp_path, whole, monkeypatch):
    """state.safetensors of step 10 met model.safetensors of step 5: a mixed, wrong model; resuming
    a finished state with no model file wrote no model file."""
    save_run, saves = checkpoints.save_run, []

    def killed_on_second(*arguments):
        saves.append(1)
        if len(saves) == 2:
            raise SystemError("killed")
        save_run(*arguments)
    monkeypatch.setattr(checkpoints, "save_run", killed_on_second)
    with pytest.raises(SystemError):
        train(tmp_path / "cut")
    monkeypatch.undo()
    train(tmp_path / "cut", resume=True)
    same_run(whole, tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").unlink()
    train(tmp_path / "cut", resume=True)
    same_run(whole, tmp_path / "cut")


def test_resume_with_other_settings_is_refused(whole, monkeypatch):
    """A resumed run with another schedule or seed passed for the run it was not; stage 3 resumed
    stage 2's state."""
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    for changed, message in (({"steps": 20}, "plan.steps is 20, was 12"), ({"lr": 0.1}, "plan.lr"),
                             ({"seed": 1}, "plan.seed")):
        with pytest.raises(BadInput, match=message):
            train(whole, resume=True, **changed)
        assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    train(whole, resume=True, save_every=1)  # how often to save is no setting of the result
    monkeypatch.setitem(CONFIG, "stage", 3)
    with pytest.raises(BadInput, match="stage is 3, was 2"):
        train(whole, resume=True)


@pytest.mark.parametrize("damage", ["missing", "half", "foreign", "other model"])
def test_resume_from_a_bad_state_is_told(whole, damage):
    """A damaged state.safetensors ended in a KeyError, or training began from nothing."""
    path = whole / "state.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "half":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "foreign":
        checkpoints.save_tensors({"w": torch.ones(2)}, path)
    else:
        optimizer = torch.optim.AdamW([("else", nn.Parameter(torch.ones(2)))])
        checkpoints.save_state(whole, optimizer, 3, checkpoints.read_state(whole)[1])
    with pytest.raises(BadInput, match="state.safetensors"):
        train(whole, resume=True)


def test_a_fresh_run_keeps_the_earlier_log(whole):
    """Training again in the same folder wiped the only record of the earlier curve; an hour of
    training, and then the folder could not be written."""
    earlier = (whole / "log.jsonl").read_bytes()
    with pytest.raises(NonFinite):
        train(whole, poison=1)
    assert (whole / "log.previous.jsonl").read_bytes() == earlier
    assert [line["step"] for line in log(whole)] == [0]
    with pytest.raises(BadInput, match="cannot be written"):
        train(whole / "log.jsonl" / "run", poison=0)


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["torch", "torch._dynamo"])  # imported once for all three


def toy_process(out: Path, step: int) -> None:
    torch.set_num_threads(1)
    try:
        train(out, hold=step)
    except KeyboardInterrupt:
        sys.exit(130)


def end_by(number: int, out: Path, step: int) -> int:
    """Starts the toy run in a process and sends it a signal in `step`; its exit code."""
    process = PROCESSES.Process(target=toy_process, args=(out, step))
    process.start()
    try:
        end = time.monotonic() + 60
        while not (out / "log.jsonl").exists() or len(log(out)) < step:
            assert process.is_alive() and time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, number)
        (out.parent / "go").touch()
        process.join(30)
        return process.exitcode
    finally:
        process.kill()


@pytest.mark.parametrize("number, step, code, saved", [
    (signal.SIGKILL, 7, -signal.SIGKILL, 5), (signal.SIGINT, 3, 130, 4),
    (signal.SIGTERM, 3, 130, 4)])
def test_a_killed_run_resumes(tmp_path, whole, number, step, code, saved):
    """After kill -9 the folder held half a file, or the resumed run differed. Ctrl-C, or a
    scheduler's SIGTERM, threw away every step since the last checkpoint."""
    assert end_by(number, tmp_path / "cut", step) == code
    assert checkpoints.read_state(tmp_path / "cut")[0] == saved
    if code == 130:
        assert len(log(tmp_path / "cut")) == saved
        checkpoints.load_run(tmp_path / "cut")
    train(tmp_path / "cut", resume=True)
    same_run(whole, tmp_path / "cut")
