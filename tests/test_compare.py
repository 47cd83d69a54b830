"""Comparisons: what is run, what the table and the log hold, and what the rooms compare."""

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
from commands import call, refused

from lion_min.studies import compare

from lion_min import launch, scores
from lion_min.lmeye.model import CONTROLS
from lion_min.training import Plan

SCRIPTS = ("studies.lion", "studies.lmeye", "studies.pvit", "studies.lyrics")
ARGS = ("--seeds", 0, 1, "--steps", 4, "--count", 10)
RIGHT = {("one", 0): 0.1, ("one", 1): 0.3, ("two", 0): 0.2, ("two", 1): 0.4}    # else 0.5
LINES = ["what one seed 0: right 0.100, wrong 0.900", "what one seed 1: right 0.300, wrong 0.700",
         "what two seed 0: right 0.200, wrong 0.800", "what two seed 1: right 0.400, wrong 0.600"]
ALL = [(row, seed) for row in ("one", "two", "three") for seed in (0, 1)]


@dataclass
class Stage:
    row: str
    number: int
    plan: Plan


class Bench:
    """A comparison whose runs only note that they were run; Ctrl-C comes at the run `stop`."""

    def __init__(self, monkeypatch):
        self.ran, self.calls, self.scored, self.numbers, self.stop = [], [], [], (1,), None
        monkeypatch.setattr(scores, "evaluate", self.evaluate)
        monkeypatch.setattr(launch, "train_stage", self.train)
        self.comparison = compare.Comparison(
            command="lion_min.studies.stub", doc="What?\nMore.", rows=("one", "two", "three"),
            label="what ", stages=self.stages, starts=("lion/stage0", "stub/stage1"), steps=7,
            scores=("right", "wrong"), pairs=(("two", "one", "right"), ("two", "three", "right")))

    def stages(self, row):
        return [Stage(row, n, Plan(99, lr=1.0)) for n in self.numbers]

    def train(self, system, number, o, stage, checks, pool):
        out, seed = o.out, o.seed
        assert system == "stub" and number == stage.number
        if (stage.row, seed) == self.stop:
            raise KeyboardInterrupt
        there = sorted(p.relative_to(out).as_posix() for p in out.glob("*/*"))
        self.links = [p.resolve() for p in out.glob("*/*") if p.is_symlink()]
        self.ran.append((stage.row, seed))
        self.calls.append((stage.number, o.steps, o.seed, out, there))
        (out / "stub" / f"new{stage.number}").touch()
        return {"system": (stage.row, seed)}

    def evaluate(self, system, world, count, seed, shuffled):
        self.scored.append((world.name, count, seed, shuffled))
        right = RIGHT.get(system, 0.5)
        return {"right": right, "wrong": 1 - right, "n": {"asked": 3}}

    def main(self, argv):
        self.ran.clear()
        return compare.main(self.comparison, argv)


@pytest.fixture
def bench(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return Bench(monkeypatch)


def test_rows_are_run_and_told(bench, capsys):
    """Guards: a row that was not asked for, or a difference to it; a seed that counts twice, or the
    deviation of a population, so that the spread shrinks; scenes of another seed; a lost line."""
    code, out, err = call(bench.main, capsys, *ARGS, "--rows", "two", "one", "--seeds", 0, 1, 1)
    assert code == 0 and err == ""
    assert bench.ran == ALL[:4]
    assert bench.scored == [("medium", 10, 2**21 + seed, False) for seed in (0, 1, 0, 1)]
    assert out.splitlines() == LINES + [
        "", "2 seeds, 4 steps, 10 scenes each: mean +- standard deviation",
        "what one     right 0.200 +- 0.141  wrong 0.800 +- 0.141",
        "what two     right 0.300 +- 0.141  wrong 0.700 +- 0.141",
        "two - one, right: 0.100 +- 0.000"]


def test_defaults(bench, capsys):
    """Guards: a room's own number of steps overlooked; a default that leaves out rows or pairs."""
    code, out, _ = call(bench.main, capsys)
    assert code == 0 and "\n3 seeds, 7 steps, 200 scenes each" in out
    assert bench.ran == [(row, seed) for row in ("one", "two", "three") for seed in (0, 1, 2)]
    assert out.splitlines()[-1] == "two - three, right: -0.133 +- 0.153"
    assert "--log" not in out and not list(Path().iterdir())


def test_every_row_starts_from_the_same_stages(bench, capsys):
    """Guards: a row that finds another row's weights, or writes into --out; a second stage that
    does not find the first; a missing start that stops the run; all steps for each of two."""
    bench.numbers = (1, 2)
    (Path("out") / "lion" / "stage0").mkdir(parents=True)
    assert call(bench.main, capsys, *ARGS, "--out", "out", "--rows", "one")[0] == 0
    assert [c[:3] for c in bench.calls] == [(n, 2, seed) for seed in (0, 1) for n in (1, 2)]
    assert [c[4] for c in bench.calls] == 2 * [["lion/stage0"], ["lion/stage0", "stub/new1"]]
    assert bench.links == [Path("out/lion/stage0").resolve()]
    folders = {c[3] for c in bench.calls}
    assert len(folders) == 2 and not any(f.exists() for f in folders)
    assert [p.as_posix() for p in Path("out").rglob("*")] == ["out/lion", "out/lion/stage0"]
    refused(call(bench.main, capsys, *ARGS, "--steps", 1), "--steps 1: what one has 2 stages")


def test_what_is_in_the_log_is_not_run_again(bench, capsys):
    """Guards: a comparison that starts anew; scores of other steps, scenes or seeds taken for
    these; a logged row that is missing from the table, or logged twice."""
    whole = call(bench.main, capsys, *ARGS)[1].splitlines()
    call(bench.main, capsys, *ARGS, "--rows", "one", "--seeds", 1, "--log", "log")
    assert [json.loads(line) for line in Path("log").read_text().splitlines()] == [
        {"row": "one", "seed": 1, "steps": 4, "count": 10,
         "scores": {"right": 0.3, "wrong": 0.7, "n": {"asked": 3}}}]
    code, out, _ = call(bench.main, capsys, *ARGS, "--log", "log")
    assert code == 0 and bench.ran == [run for run in ALL if run != ("one", 1)]
    assert out.splitlines() == [whole[0], whole[1] + " (from log)", *whole[2:]]
    assert len(Path("log").read_text().splitlines()) == len(ALL)
    for other in (("--steps", 5), ("--count", 11), ("--seeds", 2)):
        call(bench.main, capsys, *ARGS, "--rows", "one", "--log", "log", *other)
        assert bench.ran == [("one", seed) for seed in ((2,) if other[1] == 2 else (0, 1))]


def test_an_interrupted_comparison_tells_what_is_done_and_goes_on(bench, capsys):
    """Guards: hours of rows lost to Ctrl-C; a half-finished row told as if it had every seed."""
    bench.stop = ("two", 1)
    code, out, err = call(bench.main, capsys, *ARGS, "--log", "log")
    assert code == 130 and err == "interrupted\n"
    assert out.splitlines() == LINES[:3] + [
        "", "2 seeds, 4 steps, 10 scenes each: mean +- standard deviation",
        "what one     right 0.200 +- 0.141  wrong 0.800 +- 0.141",
        "what two     right 0.200 +- 0.000  wrong 0.800 +- 0.000  (1 of 2 seeds)",
        "two - one, right: 0.100 +- 0.000  (1 of 2 seeds)"]
    bench.stop = None
    assert call(bench.main, capsys, *ARGS, "--log", "log")[0] == 0
    assert bench.ran == ALL[3:]
    bench.stop = ("one", 0)
    assert call(bench.main, capsys, *ARGS) == (130, "", "interrupted\n")


def test_a_row_is_told_and_logged_when_it_is_done(bench, capsys, monkeypatch):
    """Guards: lines and log held back until the end, where a kill takes them along."""
    def seen_before(stage, *rest, train=bench.train, **options):
        assert len(Path("log").read_text().splitlines()) == len(bench.ran)
        assert len(capsys.readouterr().out.splitlines()) == min(1, len(bench.ran))
        return train(stage, *rest, **options)

    bench.train = seen_before
    assert call(bench.main, capsys, *ARGS, "--log", "log")[0] == 0 and bench.ran == ALL


@pytest.mark.parametrize("text", [
    "# notes", "[]", "\n", "7", '{"row": "one"}', '{"row": "one", "seed": 0, "st', "\udcff",
    '{"row": "one", "seed": 0, "steps": 4, "count": 10, "scores": {"right": 0.5}}',
    '{"row": "one", "seed": 0, "steps": 4, "count": 10, "scores": {"right": 0.5, "wrong": []}}',
    '{"row": [], "seed": 0, "steps": 4, "count": 10, "scores": {"right": 0.5, "wrong": 0.5}}'])
def test_a_log_of_something_else(bench, capsys, text):
    """Guards: lines added to a file of notes; a traceback, or a score that is no number, after
    the first row is trained."""
    call(bench.main, capsys, *ARGS, "--rows", "one", "--seeds", 1, "--log", "log")
    with open("log", "a", errors="surrogateescape") as file:
        file.write(text + "\n")
    before = Path("log").read_bytes()
    refused(call(bench.main, capsys, *ARGS, "--log", "log"), "log, line 2: is no scored row")
    assert bench.ran == [] and Path("log").read_bytes() == before


@pytest.mark.parametrize("argv, told", [
    (("--rows", "four"), ("four", "one", "two", "three")), (("--rows",), ("--rows",)),
    (("--log", "."), ("directory",)), (("--log", "no/log"), ("no/log",)),
    (("--seeds", -1), ("--seeds",)), (("--steps", 0), ("--steps",)),
    (("--count", 1), ("--count",))])
def test_bad_arguments_are_one_line_before_anything_runs(bench, capsys, argv, told):
    """Guards: an unknown row that is left out in silence; a log found unwritable an hour late."""
    refused(call(bench.main, capsys, *argv), *told)
    assert bench.ran == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_rooms_state_rows_that_differ(script):
    """Guards: two rows that are the same run; a pair or a command that names nothing there is."""
    rows = (c := import_module(f"lion_min.{script}").COMPARISON).rows
    made = [c.stages(row) for row in rows]
    assert c.system == script.split(".")[1]
    assert not any(a == b for i, a in enumerate(made) for b in made[:i])
    assert c.pairs and {name for a, b, _ in c.pairs for name in (a, b)} <= set(rows)
    assert {name for *_, name in c.pairs} <= set(c.scores)
    assert c.command == f"lion_min.{script}" and f"python -m {c.command} " in c.doc


def test_rows_are_what_they_are_called():
    """Guards: a row trained as another one; a control that the model knows and nobody runs."""
    lion, lmeye, pvit, lyrics = (import_module(f"lion_min.{s}").COMPARISON for s in SCRIPTS)
    assert [s.number for s in lion.stages("staged")] == [1, 2, 3]
    assert lmeye.rows == CONTROLS
    assert all([s.control for s in lmeye.stages(row)] == [row] for row in CONTROLS)
    assert all([s.representation for s in pvit.stages(row)] == 2 * [row] for row in pvit.rows)
    assert [lyrics.stages(row)[0].refiner for row in ("on", "off")] == [True, False]


def test_spread():
    """Guards: the deviation of a population, too small for three seeds; a failure on one seed."""
    assert compare.spread([0.1, 0.2, 0.6]) == "0.300 +- 0.265"
    assert compare.spread([0.25]) == "0.250 +- 0.000"
