"""The claims: what is run, which conditions differ in what, and the verdict of two sets of runs."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from commands import call, refused

from lion_min import launch
from lion_min.studies import claims, conditions, trials
from lion_min.studies.conditions import CLAIMS, CONDITIONS, PROBES, Claim

SIDES = [side.partition("/")[::2] for claim in CLAIMS for side in (claim.better, claim.worse)]
A = Claim("a", "A beats B", "one", "two", ("x", "y"), "x and y")


def log_of(better: list[list], worse: list[list], tasks=("x", "y")) -> dict:
    """Runs of the conditions one and two: for each seed the values of its scenes, for every task."""
    return {(name, seed): {"values": {"": {task: values for task in tasks}}, "cpu_seconds": 1.0}
            for name, side in (("one", better), ("two", worse)) for seed, values in enumerate(side)}


@pytest.mark.parametrize("better, worse, verdict", [
    ([[1, 1, 1, 1]] * 3, [[0, 0, 1, 0]] * 3, "holds"),
    ([[0, 0, 1, 0]] * 3, [[1, 1, 1, 1]] * 3, "opposite"),
    ([[1, 0, 1, 0]] * 3, [[0, 1, 0, 1]] * 3, "does not hold here"),
    ([[1, 1, 1, 1], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, 1, 1, 1]], "does not hold here"),  # of seeds
    ([[1, 1, 1, 1]], [[0, 0, 0, 0]], "too few seeds")])
def test_the_verdict(better, worse, verdict):
    """Guards: a sign turned round; an interval over scenes that forgets how seeds differ."""
    found = trials.compare(A, log_of(better, worse))
    assert found["verdict"] == verdict and found["seeds"] == len(better)
    assert found["low"] <= found["difference"] <= found["high"]


def test_questions_that_a_scene_cannot_pose_count_nowhere():
    """Guards: None taken as wrong; a mean over scenes where one over questions is meant."""
    log = log_of([[1, None, 1]] * 2, [[0, None, 1]] * 2)
    log["two", 1]["values"][""]["y"] = [0, None, 0]
    found = trials.compare(A, log)
    assert found["better"] == 1.0 and found["worse"] == pytest.approx(3 / 8)


def test_every_claim_names_what_there_is():
    """Guards: a claim about a condition, probe or task that does not exist, found after an hour."""
    for name, probe in SIDES:
        assert name in CONDITIONS and probe in ("", *CONDITIONS[name].probes)
    for claim in CLAIMS:
        assert all(set(claim.tasks) <= set(CONDITIONS[side.partition("/")[0]].tasks)
                   for side in (claim.better, claim.worse)), claim.name
    assert set(CONDITIONS) == {name for name, _ in SIDES}
    assert {p for c in CONDITIONS.values() for p in (c.always, *c.probes) if p} <= set(PROBES)
    assert len({claim.name for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_can_be_built(name, tmp_path):
    """Guards: a setting or a part to train that the model does not have; different budgets."""
    stages = CONDITIONS[name].stages()
    for stage in stages:
        system = CONDITIONS[name].system(launch.parts_for(tmp_path), stage)
        names = [n for n, _ in system.model.named_parameters()]
        assert all(any(n.startswith(prefix) for n in names) for prefix in stage.trains)
        for field, value in stage.changes.items():
            assert asdict(system.model.settings)[field] == (
                value if isinstance(value, (int, float, bool, tuple)) else asdict(value))
    assert sum(stage.plan.steps for stage in stages) <= 800


@pytest.mark.parametrize("name", ["lion-tags", "pvit-feature", "lmeye-interactive",
                                  "lyrics-without-itc"])
def test_a_run_of_each_system(name, monkeypatch, capsys):
    """Guards: a run that cannot end; a probe that changes nothing or stays on; values that are not
    one a scene."""
    monkeypatch.setattr(trials, "POOL", 40), monkeypatch.setattr(trials, "SCENES", 4)
    monkeypatch.setattr(trials, "_scenes", []), monkeypatch.setattr(trials, "_features", {})
    condition = CONDITIONS[name]
    short = conditions.Condition(
        condition.system, lambda: [conditions.shorter(s, 1) for s in condition.stages()],
        condition.tasks, condition.probes, condition.always)
    monkeypatch.setitem(CONDITIONS, name, short)
    record = trials.take(name, 3)
    assert list(record["values"]) == ["", *condition.probes]
    for tasks in record["values"].values():
        assert list(tasks) == list(condition.tasks)
        assert all(len(v) == 4 and all(x is None or 0 <= x <= 1 for x in v)
                   for v in tasks.values())
    json.dumps(record)


def test_probes_change_what_is_read_inside_alone():
    """Guards: a foreign question that is one's own, or that stays after the test."""
    class Model(torch.nn.Module):
        def query_tokens(self, x, maps=False):
            return x.question_ids

    from lion_min.lion.model import LionInputs
    system = type("System", (), {"model": Model()})()
    ids = torch.tensor([[1, 2], [3, 4]])
    x = LionInputs([], ids, ids > 0, [], 0)
    with trials.probing(system, "foreign-question"):
        assert system.model.query_tokens(x).tolist() == [[3, 4], [1, 2]]
    with trials.probing(system, "no-question"):
        assert system.model.query_tokens(x).tolist() == [[1], [1]]
    assert system.model.query_tokens(x) is ids


def test_features_without_objects_are_not_those_with(monkeypatch):
    """Guards: a run with a refiner that gets the features of one without, or the reverse; the same
    pictures encoded once for each stage."""
    monkeypatch.setattr(trials, "_features", {})
    monkeypatch.setattr(trials, "FeatureCache", lambda system, scenes: object())

    def system(refiner, number):
        return SimpleNamespace(name="lyrics", depths={0, 4}, model=SimpleNamespace(refiner=refiner),
                               stage=SimpleNamespace(number=number, trains=("mqformer",)))

    bare, detecting = (trials._cached(system(refiner, 2)) for refiner in (None, object()))
    assert bare is not detecting
    assert trials._cached(system(None, 1)) is bare


# ---- the command --------------------------------------------------------------------------------

@pytest.fixture
def bench(monkeypatch):
    """Two conditions whose runs only note that they were run."""
    ran = []
    monkeypatch.setattr(conditions, "CLAIMS", [A])
    monkeypatch.setattr(claims, "take_all", lambda todo, jobs: (
        ran.append(run) or {"condition": run[0], "seed": run[1], "cpu_seconds": 2.0,
                            "values": {"": {"x": [run[0] == "one"] * 3, "y": [None] * 3}}}
        for run in todo))
    return ran


def test_what_the_log_holds_is_not_run_again(bench, tmp_path, capsys):
    """Guards: a run taken twice, or lost; --quick that writes; a table of other runs."""
    log = tmp_path / "log.jsonl"
    assert call(claims.main, capsys, "--seeds", 0, 1, "--log", log)[0] == 0
    assert bench == [("one", 0), ("two", 0), ("one", 1), ("two", 1)]
    assert [json.loads(line)["command"] for line in log.read_text().splitlines()] == \
        ["python -m lion_min.studies.claims --seeds 0 1"] * 4
    bench.clear()
    out = call(claims.main, capsys, "--seeds", 1, 2, "--log", log)[1]
    assert bench == [("one", 2), ("two", 2)]
    assert "| A beats B | x and y | 1.000 | 0.000 | +1.000 | +1.000 to +1.000 | 3 | holds |" in out
    bench.clear()
    lines = log.read_text()
    assert call(claims.main, capsys, "--quick", "--seeds", 0, "--log", log)[0] == 0
    assert bench == [("one", 0), ("two", 0)] and log.read_text() == lines
    assert "A beats B: holds" in call(claims.main, capsys, "--list", "--log", log)[1]


def test_bad_input(bench, tmp_path, capsys):
    """Guards: a traceback for a log of something else, or a claim that there is not."""
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    refused(call(claims.main, capsys, "--log", tmp_path / "log.jsonl"), "line 1")
    refused(call(claims.main, capsys, "--only", "b", "--log", tmp_path / "none"), "--only b")
