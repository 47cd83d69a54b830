"""Training at size: shards of a batch, in one process and in two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_run import log, toy, train

from lion_min import BadInput, checkpoints, training
from lion_min.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[1]


def same_result(a: Path, b: Path) -> None:
    """Two runs' losses, parts and tensors (weights, moments), up to the order of sums."""
    for one, two in zip(log(a), log(b), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)
        assert one["parts"] == pytest.approx(two["parts"], abs=1e-6)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)
    one, two = (checkpoints.load_tensors(f / checkpoints.STATE) for f in (a, b))
    assert one.keys() == two.keys()
    for name in one:
        # RNG apart: each step with shards seeds anew
        assert name.startswith("rng/") or torch.allclose(one[name], two[name], atol=1e-6), name


def test_a_step_of_shards_is_the_mean_of_their_losses(tmp_path):
    """Gradients were summed, not averaged; the last shard's loss alone was logged; the part that
    one shard uses got that shard's gradient whole."""
    model, seen = toy(), []

    def step_loss(step: int, shard: int = 0):
        x = torch.full((1, 8), shard + 1.0)
        seen.append((step, shard))
        loss = (model["odd"] if shard == 2 else model["head"])(x).sum()
        return loss, {"shard": shard} | ({"third": 5.0} if shard == 2 else {})

    was = {n: p.detach().clone() for n, p in model.named_parameters()}
    plan = training.Plan(steps=1, lr=0.1, warmup=0, clip=1e9, accumulate=3)
    grads = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda g, n=name: grads.setdefault(n, []).append(g))
    training.run(model, step_loss, plan, tmp_path, {}, quiet=True)
    assert seen == [(0, 0), (0, 1), (0, 2)]
    x = torch.ones(8)
    want = (was["head.weight"] @ x * 3 + 2 * was["head.bias"] + was["odd.weight"] @ x * 3
            + was["odd.bias"]) / 3
    (line,) = log(tmp_path)
    assert line["loss"] == pytest.approx(want.item(), rel=1e-5)
    assert line["parts"] == {"shard": 1.0, "third": 5.0}
    assert torch.allclose(sum(grads["head.weight"]), torch.ones(1, 8))    # (1 + 2) / 3
    assert torch.allclose(sum(grads["odd.weight"]), torch.ones(1, 8))     # 3 / 3
    assert line["grad_norm"] == pytest.approx((16 + 4 / 9 + 1 / 9) ** 0.5, rel=1e-5)


def test_a_resumed_run_of_shards_is_the_uninterrupted_one(tmp_path):
    """Dropout of a shard went on from where the process happened to be; a run went on with half its
    batch; a run from before there were shards could not go on."""
    train(tmp_path / "whole", accumulate=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", accumulate=2, stop_at=6, at=1)
    assert checkpoints.read_state(tmp_path / "cut")[0] == 7
    train(tmp_path / "cut", accumulate=2, resume=True)
    same_result(tmp_path / "whole", tmp_path / "cut")
    out = tmp_path / "run"
    train(out, steps=2)
    with pytest.raises(BadInput, match="shards is 2, was 1"):
        train(out, steps=2, accumulate=2, resume=True)
    path = out / checkpoints.STATE
    tensors, config = checkpoints.load_tensors(path), checkpoints.read_state(out)[1]["config"]
    for setting in ("accumulate", "checkpointing"):
        del config["plan"][setting]
    del config["shards"]
    checkpoints.save_tensors(tensors, path, {"step": "2", "extra": json.dumps({"config": config})})
    train(out, steps=2, resume=True)


SCRIPT = """
import json, sys
from pathlib import Path
from lion_min import launch, parallel
from lion_min.cli import guarded
from lion_min.training import NonFinite
from toy_run import train
out, told = Path(sys.argv[1]), {}
train(out / "one each")
options = launch.Options(out, device="cpu", steps=3, batch=2, data=out / "data")
launch.train_stage("pvit", 1, options, checks=2)
train(out / "two each", accumulate=2)
try:
    train(out / "cut", stop_at=6, at=1)
except KeyboardInterrupt:
    told["stopped"] = True
train(out / "cut", resume=True)
try:
    train(out / "poisoned", poison=7, at=1)
except NonFinite as error:
    told["non-finite"] = str(error)
print("said by", parallel.rank())
(out / f"told {parallel.rank()}").write_text(json.dumps(told))
raise SystemExit(guarded(lambda: train(out / "refused", refuse=3, at=1)))
"""


def torchrun(count: int, *command: str, timeout: int = 100) -> list[tuple[int, str, str]]:
    """The processes' exit codes, stdout and stderr; the environment is torchrun's."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                        "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
                        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    processes = [subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True,
                                  stderr=subprocess.PIPE, env=env | {"RANK": str(r), "LOCAL_RANK": str(r)}, cwd=ROOT)
                 for r in range(count)]
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *streams) for process, streams in zip(processes, said)]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[tuple[int, str, str]]]:
    """(folder of all that SCRIPT does in two processes, how they ended)."""
    out = tmp_path_factory.mktemp("two")
    write_scenes(out / "data", 8, 1)
    return out, torchrun(2, "-c", SCRIPT, str(out))


@pytest.mark.parametrize("name, shards", [("one each", 2), ("two each", 4)])
def test_two_processes_are_one_with_twice_the_shards(two, tmp_path, name, shards):
    """Gradients were summed over processes; both drew the same data or the same dropout; a part
    that one process alone used, or none, moved otherwise; the log was of the first alone."""
    train(tmp_path / "one", accumulate=shards)
    same_result(two[0] / name, tmp_path / "one")
    state = checkpoints.load_tensors(two[0] / name / checkpoints.STATE)
    assert state["step/odd.weight"] == 6, "used in every second step, passed over in the others"


def test_the_end_of_one_process_is_the_end_of_all(two):
    """Ctrl-C: the process that was not interrupted waited for ever; the resumed ones differed. NaN:
    the second process's went into the first one's weights, which were then saved."""
    ends = [json.loads((two[0] / f"told {r}").read_text()) for r in (0, 1)]
    assert ends[0] == ends[1] and ends[0]["stopped"]
    same_result(two[0] / "cut", two[0] / "one each")
    assert "step 7: loss nan (fit nan, constant 0.1)" in ends[0]["non-finite"]
    assert checkpoints.read_state(two[0] / "poisoned")[0] == 5


def test_the_first_process_alone_prints_and_writes(two):
    """Every line stood twice; two processes wrote one log, or the same temporary file. A system's
    stage could not be spread: its loss took no shard, or a scoring ran apart."""
    (_, out, _), (_, other, _) = two[1]
    assert out.endswith("said by 0\n") and out.count("wrote ") == 1 and other == ""
    assert [line["step"] for line in log(two[0] / "one each")] == list(range(12))
    assert [line["step"] for line in log(two[0] / "pvit" / "stage1")] == [0, 1, 2]


def test_bad_input_of_one_process_ends_all(two):
    """The others waited for ever, or their lost connection was told instead of the cause."""
    assert [code for code, *_ in two[1]] == [2, 2]
    errors = [line for *_, err in two[1] for line in err.splitlines() if line.startswith("error")]
    assert errors == ["error: picture 3: damaged"]


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch):
    """Eight processes on a machine of four GPUs ended in NCCL's own words."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert training.device_of("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert training.device_of("auto") == torch.device("cuda", 3)
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(BadInput, match="process 4 finds no GPU of its own among 4"):
        training.device_of("cuda")
