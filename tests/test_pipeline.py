"""train.py's road from the command line to the stages; no stage is trained here."""

import os
import signal
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from pathlib import Path

import pytest
from commands import call, refused
from few_steps import SCORES

import train
from lion_min import checkpoints, launch, training
from lion_min.launch import module_of as stage_module_of
from lion_min.parts import Parts
from lion_min.scenes import write_scenes
from lion_min.tiny import pipeline, stage0


@pytest.fixture
def called(monkeypatch, tmp_path) -> list[tuple]:
    """What the two training functions were called with, in order."""
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage0, "train", lambda part, out, world, seed, resume, device, plan, **k:
                        calls.append((part, k | {"plan": plan, "resume": resume})))
    monkeypatch.setattr(launch, "parts_for", lambda out, *_, **__: Parts(*[None] * 4, out))
    monkeypatch.setattr(launch, "module_of", lambda system, part: Named(stage_module_of(system, part)))
    monkeypatch.setattr(launch, "run_stage", lambda system, o: (
        calls.append((system.stage.number, vars(o) | {"out": system.parts.out})),
        {"before": SCORES, "after": SCORES})[1])
    return calls


class Named:
    """A system's module whose SYSTEM has parts and a stage, and no model."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        if name == "SYSTEM":
            return lambda parts, stage: SimpleNamespace(parts=parts, stage=stage)
        return getattr(self.module, name)


def stopped(folder: Path) -> None:
    """A folder with the state of a run that was stopped."""
    checkpoints.save_tensors({}, folder / checkpoints.STATE, {"step": "1", "extra": "{}"})


def stage_of(number: int, system: str = "lion"):
    return stage_module_of(system, f"stage{number}").STAGE


@pytest.mark.parametrize("argv, told", [
    ("", "--stage"), ("--stage 5", "--stage"), ("--stage 1 --steps 0", "--steps"),
    ("--stage 1 --steps many", "--steps"), ("--stage 1 --lr nan", "--lr: 'nan'"),
    ("--stage 1 --lr -1", "--lr: '-1'"), ("--stage 1 --batch-size 0", "--batch-size"),
    ("--stage 1 --seed -1", "--seed"), ("--stage 1 --part vision", "only stage 0"),
    ("--stage 0 --part t5 --labels coarse", "--labels"), ("--stage 2 --labels dense", "--labels"),
    ("--stage all --labels dense --system pvit", "lion's stage 0"),
    ("--stage all --labels dense --system lmeye", "lion's stage 0"),
    ("--stage all --labels coarse --system lyrics", "lion's stage 0"),
    ("--stage 0 --part vision --system lyrics", "only stage 0 of lion"),
    ("--stage 0 --system pvit", "stage 0 is shared"), ("--stage 0 --data .", "--data"),
    ("--stage 1 --data .", "scenes.jsonl"), ("--stage 3 --system lmeye", "has the stages"),
    ("--stage 1 --world huge", "--world"), (f"--stage 2 --out {__file__}", "not a folder"),
    (f"--stage all --out {__file__}/x", "not a f"), ("--stage 2 --init nowhere", "nowhere"),
    ("--stage 2 --shard", "start them with torchrun"), ("--stage 2 --processes 2", "--plan --shard"),
    ("--stage 1 --plan --shard", "--processes N"),
    ("--system lyrics --stage 1 --plan --shard --processes 2", "stage has none")])
def test_bad_command_lines(called, capsys, argv, told):
    """Guards: a mistake that trains something else, or a traceback."""
    refused(call(train.main, capsys, *argv.split()), told)
    assert not called and not os.listdir()


@pytest.mark.parametrize("fast", [True, False])
def test_a_stage_gets_what_was_asked(called, capsys, monkeypatch, fast):
    """Guards: an option that is read and forgotten, or that overwrites the stage's own plan; a
    stage in bf16 on a CPU without such kernels, where a step took 10 s in the place of 1."""
    monkeypatch.setattr(training, "multiplies_bf16", lambda device: fast)
    assert call(train.main, capsys, "--stage", 2)[0] == 0
    stopped(Path("x/lion/stage3"))
    assert call(train.main, capsys, *("--stage 3 --steps 7 --lr 0.5 --batch-size 4 --seed 9 --out "
                                      "x --precision bf16 --world small --resume").split())[0] == 0
    (second, plain), (third, told) = called
    own = replace(stage_of(2).plan, precision="bf16" if fast else "fp32")
    assert second == 2 and plain["plan"] == own and plain["batch"] is plain["scenes"] is None
    assert (plain["out"], plain["world"], plain["resume"]) == (Path("runs"), "medium", False)
    plan = told["plan"]
    assert (plan.steps, plan.lr, plan.precision, plan.seed) == (7, 0.5, "bf16", 9)
    assert plan.warmup == stage_of(3).plan.warmup and third == 3
    assert (told["batch"], told["seed"], told["world"]) == (4, 9, "small")
    assert told["out"] == Path("x") and told["resume"] is True


def test_stage_0_trains_its_parts_in_turn(called, capsys):
    """Guards: labels handed to a language model; a part that was forgotten."""
    assert call(train.main, capsys, "--stage", 0, "--labels", "coarse")[0] == 0
    assert [part for part, _ in called] == ["vision", "llama", "t5", "qformer"]
    assert [k.get("labels") for _, k in called] == ["coarse", None, None, None]
    plans = [launch.Options().plan(stage0.PLANS[p]) for p in stage0.PARTS]
    assert [k["plan"] for _, k in called] == plans
    called.clear()
    assert call(train.main, capsys, "--stage", "joint", "--steps", 3)[0] == 0
    assert called[0][0] == "joint" and called[0][1]["plan"].steps == 3


def test_resume_of_many_runs_begins_those_not_begun(called, capsys, tmp_path):
    """Guards: --stage 0 --resume that stops at the first part that has no checkpoint yet."""
    stopped(tmp_path / "runs/lion/stage0/llama")
    assert call(train.main, capsys, "--stage", 0, "--resume")[0] == 0
    assert [k["resume"] for _, k in called] == [False, True, False, False]


@pytest.mark.parametrize("argv, folder", [
    ("--stage 2", "runs/lion/stage2"), ("--stage joint", "runs/lion/joint"),
    ("--stage 0 --part t5", "runs/lion/stage0/t5"), ("--stage 1 --system pvit", "runs/pvit/stage1")])
def test_nothing_to_resume_is_told_at_once(called, capsys, monkeypatch, argv, folder):
    """Guards: the minutes of drawing, loading and scoring before a run that has no checkpoint; the
    checkpoint of another run taken for its own."""
    monkeypatch.setattr(launch, "parts_for", None)
    stopped(Path("runs/lion/stage3"))
    told = f"--resume: {folder} holds no state.safetensors to go on from"
    refused(call(train.main, capsys, *argv.split(), "--resume"), told)
    assert not called


def test_data_reaches_the_stage(called, capsys, tmp_path):
    """Guards: --data read, checked and not used; a batch larger than the data."""
    write_scenes(tmp_path / "data", 6, 3, "small")
    assert call(train.main, capsys, *"--stage 1 --data data --batch-size 4".split())[0] == 0
    assert len(called[0][1]["scenes"]) == 6
    refused(call(train.main, capsys, *"--stage 1 --data data".split()), "6 scenes")


def test_all_runs_every_stage_in_order(called, capsys, monkeypatch, tmp_path):
    """Guards: a stage left out or taken twice, options that do not reach the processes."""
    begun, read = [], []
    monkeypatch.setattr(pipeline, "side_by_side", begun.extend)
    monkeypatch.setattr(pipeline, "load", lambda name, where, device: (
        read.append(where), SimpleNamespace(score=lambda *_: SCORES))[1])
    write_scenes(tmp_path / "data", 16, 3, "medium")
    code, out, _ = call(train.main, capsys,
                        *"--stage all --steps 5 --labels coarse --data data --accumulate 2".split())
    assert code == 0 and [number for number, _ in called] == [3, 4]
    assert [k["plan"].steps for _, k in called] == [5, 5]
    told = [[vars(train.parser().parse_args(c[2:])) for c in chain] for chain in begun]
    assert [[(t["stage"], t["part"]) for t in chain] for chain in told] == [
        [("0", "vision"), ("0", "t5")], [("0", "llama")], [("0", "qformer")], [("1", None)],
        [("2", None)]]
    assert all(c[1].endswith("train.py") for chain in begun for c in chain)
    assert all(t["steps"] == 5 for chain in told for t in chain)
    assert [t["labels"] for chain in told for t in chain] == ["coarse"] + [None] * 5
    assert [str(t["data"]) for chain in told for t in chain] == ["None"] * 4 + ["data"] * 2
    assert [t["accumulate"] for chain in told for t in chain] == [None] * 4 + [2] * 2
    assert [p.name for p in read] == ["stage1", "stage2"], "the table must show all four stages"
    assert "minutes: stage 0 0.0, stage 1 and 2 0.0, stage 3" in out and "stage 4" in out


def test_all_takes_the_longer_plans(called, capsys, monkeypatch):
    """Guards: an hour of --stage all that ends in the scores of a lesson's short stages."""
    monkeypatch.setattr(pipeline, "side_by_side", lambda chains: None)
    monkeypatch.setattr(pipeline, "scores_of", lambda o, number: SCORES)
    assert call(train.main, capsys, "--stage", "all")[0] == 0
    assert call(train.main, capsys, "--stage", "3")[0] == 0
    whole, alone = called[0][1]["plan"].steps, called[-1][1]["plan"].steps
    assert (whole, alone) == (stage_of(3).steps_in_all, stage_of(3).plan.steps) and whole > alone


@pytest.mark.parametrize("system, numbers", [("pvit", [1, 2]), ("lmeye", [1, 2]),
                                             ("lyrics", [0, 1, 2])])
def test_all_of_the_other_systems(called, capsys, system, numbers):
    """Guards: a system's `--stage all` that leaves a stage out; no closing table."""
    code, out, _ = call(train.main, capsys, "--stage", "all", "--system", system, "--steps", 5)
    assert code == 0 and [number for number, _ in called] == numbers
    assert all(k["plan"].steps == 5 for _, k in called)
    assert "stage 1 0.0, stage 2 0.0, all 0.0" in out and "rec_acc50" in out


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_failing_process_stops_the_others(tmp_path, monkeypatch):
    """Guards: an hour of training behind an error; a child that goes on without its parent."""
    monkeypatch.chdir(tmp_path)
    wait = python("import time; open('begun', 'w'); time.sleep(60)")
    fail = python("import os, time\nwhile not os.path.exists('begun'): time.sleep(.01)\nexit(7)")
    start = time.time()
    with pytest.raises(SystemExit) as end:
        pipeline.side_by_side([[wait, python("open('never', 'w')")], [fail]])
    assert end.value.code == 7 and time.time() - start < 20 and not Path("never").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_processes(tmp_path, monkeypatch, number):
    """Guards: `kill PID` of the parent that leaves two processes training for ever."""
    monkeypatch.chdir(tmp_path)
    child = python("""
import os, signal, time
def leave(*_): open('saved', 'w'); exit(130)
signal.signal(signal.SIGTERM, leave)
os.kill(os.getppid(), %d)
time.sleep(60)""" % number)
    start = time.time()
    old = signal.signal(signal.SIGINT, signal.default_int_handler)        # a shell's & ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.side_by_side([[child], []])
    finally:
        signal.signal(signal.SIGINT, old)
    assert Path("saved").exists() and time.time() - start < 20


def test_processes_have_one_thread_each(tmp_path, monkeypatch):
    """Guards: two processes of two threads on two cores, many times slower than one each."""
    monkeypatch.chdir(tmp_path)
    code = "import os; open(os.environ['TQDM_POSITION'], 'w').write(os.environ['OMP_NUM_THREADS'])"
    pipeline.side_by_side([[python(code)], [python(code)]])
    assert Path("0").read_text() == Path("1").read_text() == "1"
