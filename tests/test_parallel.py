"""Training at size: shards, two processes, layers that run again in backward."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_run import log, toy, train

from lion_min import BadInput, adapters, checkpoints, trainable, training
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.scenes import write_scenes

ROOT = Path(__file__).resolve().parents[1]


def same_result(a: Path, b: Path) -> None:
    """Two runs' losses, parts and tensors (weights, moments), up to the order of sums."""
    for one, two in zip(log(a), log(b), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)
        assert one["parts"] == pytest.approx(two["parts"], abs=1e-6)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)
    one, two = (checkpoints.load_tensors(f / checkpoints.STATE) for f in (a, b))
    one.pop("rng/cpu"), two.pop("rng/cpu")  # each step with shards seeds anew
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=1e-6), name


# ---- shards in one process --------------------------------------------------------------------
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
    """Dropout of a shard went on from where the process happened to be."""
    train(tmp_path / "whole", accumulate=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", accumulate=2, stop_at=6, at=1)
    assert checkpoints.read_state(tmp_path / "cut")[0] == 7
    train(tmp_path / "cut", accumulate=2, resume=True)
    same_result(tmp_path / "whole", tmp_path / "cut")


def test_what_may_change_at_a_resume(tmp_path):
    """A run went on with half its batch; a run from before there were shards could not go on."""
    out = tmp_path / "run"
    train(out, steps=2)
    with pytest.raises(BadInput, match="shards is 2, was 1"):
        train(out, steps=2, accumulate=2, resume=True)
    path = out / checkpoints.STATE
    tensors, config = checkpoints.load_tensors(path), checkpoints.read_state(out)[1]["config"]
    for setting in ("accumulate", "checkpointing"):
        del config["plan"][setting]
    del config["shards"]
    checkpoints.save_tensors(tensors, path,
                             {"step": "2", "extra": json.dumps({"config": config})})
    train(out, steps=2, resume=True)


# ---- two processes ----------------------------------------------------------------------------
SCRIPT = """
import json, sys
from pathlib import Path
from lion_min import parallel
from lion_min.training import NonFinite
from toy_run import train
out, told = Path(sys.argv[1]), {}
train(out / "one each")
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
"""


def torchrun(count: int, *command: str, timeout: int = 100) -> list[str]:
    """The processes' stdout, after all have ended well; the environment is torchrun's."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                        "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
                        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    processes = [subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True,
                                  env=env | {"RANK": str(r), "LOCAL_RANK": str(r)}, cwd=ROOT)
                 for r in range(count)]
    try:
        said = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * count
    return said


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[str]]:
    """(folder of all that SCRIPT does in two processes, what they printed)."""
    out = tmp_path_factory.mktemp("two")
    return out, torchrun(2, "-c", SCRIPT, str(out))


@pytest.mark.parametrize("name, shards", [("one each", 2), ("two each", 4)])
def test_two_processes_are_one_with_twice_the_shards(two, tmp_path, name, shards):
    """Gradients were summed over processes; both drew the same data or the same dropout; a part
    that one process alone used, or none, moved otherwise; the log was of the first alone."""
    train(tmp_path / "one", accumulate=shards)
    same_result(two[0] / name, tmp_path / "one")
    state = checkpoints.load_tensors(two[0] / name / checkpoints.STATE)
    assert state["step/odd.weight"] == 6, "used in every second step, passed over in the others"


def test_ctrl_c_in_one_process_ends_all_and_all_resume(two):
    """The process that was not interrupted waited for ever; the resumed ones differed."""
    assert all(json.loads((two[0] / f"told {r}").read_text())["stopped"] for r in (0, 1))
    same_result(two[0] / "cut", two[0] / "one each")


def test_a_nan_in_one_process_stops_all_in_one_line(two):
    """The second process's NaN went into the first one's weights, which were then saved."""
    told = [json.loads((two[0] / f"told {r}").read_text())["non-finite"] for r in (0, 1)]
    assert told[0] == told[1] and "step 7: loss nan (fit nan, constant 0.1)" in told[0]
    assert checkpoints.read_state(two[0] / "poisoned")[0] == 5


def test_the_first_process_alone_prints_and_writes(two):
    """Every line stood twice; two processes wrote one log, or the same temporary file."""
    assert two[1] == ["said by 0\n", ""]
    assert [line["step"] for line in log(two[0] / "one each")] == list(range(12))


@pytest.mark.slow
def test_train_py_under_torchrun(tmp_path):
    """A room's stage could not be spread: its loss took no shard, or a scoring ran apart."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--standalone", "train.py", "--system", "pvit",
               "--stage", "1", "--steps", "3", "--batch-size", "2", "--out", str(tmp_path),
               "--data", str(tmp_path / "data")]
    write_scenes(tmp_path / "data", 8, 1)
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("wrote ") == 1
    assert len(log(tmp_path / "pvit" / "stage1")) == 3


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


# ---- layers that run again --------------------------------------------------------------------
def tiny(family: str) -> tuple[LanguageModel, torch.nn.ModuleList]:
    """A frozen LLM with adapters that do something, a LoRA with dropout, and a trained input."""
    torch.manual_seed(0)
    llm = trainable.freeze(LanguageModel(LanguageSettings(family, vocab=40, width=16, layers=3,
                                                          heads=2, ffn=24)))
    beside = torch.nn.ModuleList([
        adapters.attach_adapters(llm.model, 16, 4, 2),
        adapters.attach_lora(llm.model, ("q", "v") if family == "t5" else ("q_proj", "v_proj"),
                             rank=2, dropout=0.5)])
    adapters.set_task(beside, adapters.IMAGE)
    for parameter in beside.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return llm, beside.train()


def backward(llm: LanguageModel, beside: torch.nn.ModuleList) -> tuple[float, dict, int]:
    """(loss, gradients, bytes kept for backward) of one batch with a trained visual token."""
    torch.manual_seed(1)
    visual, kept = torch.randn(2, 3, 16, requires_grad=True), []
    text = llm.pack([[5, 6, 7, 8, 9], [10, 11]], [[12, 13], [14]], images=2)

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = llm.loss(llm.embed(text.ids), text, visual)
    beside.zero_grad()
    loss.backward()
    grads = {n: p.grad for n, p in beside.named_parameters()} | {"visual": visual.grad}
    return loss.item(), grads, sum(kept)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_checkpointed_layers_give_the_same_gradients_and_keep_less(family):
    """A frozen LLM in eval mode was not checkpointed at all; T5's decoder, which makes a cache
    unasked, was left out or read it twice; dropout beside a layer drew other masks."""
    llm, beside = tiny(family)
    plain = backward(llm, beside)
    trainable.checkpoint_layers(llm)
    again = backward(llm, beside)
    assert again[0] == pytest.approx(plain[0], abs=1e-6)
    assert all(g is not None and g.any() for n, g in plain[1].items() if "router" not in n)
    for name, gradient in plain[1].items():
        assert torch.allclose(gradient, again[1][name], atol=1e-6), name
    assert again[2] < 0.2 * plain[2]
    assert not llm.model.training


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_checkpointed_layers_answer_as_before(family):
    """Generation lost its key-value cache, and with it all but the last word of the prompt."""
    llm, beside = tiny(family)
    beside.eval()
    text = llm.pack([[5, 6, 7, 8, 9], [10, 11]])
    plain = llm.generate(llm.embed(text.ids), text, max_new_tokens=6)
    trainable.checkpoint_layers(llm)
    assert torch.equal(llm.generate(llm.embed(text.ids), text, max_new_tokens=6), plain)


def test_a_second_pass_on_the_first_ones_cache_survives_checkpointing():
    """LMEye's passes share a cache: the layers that ran again appended to it a second time, or
    the second pass saw nothing of the first."""
    from transformers import DynamicCache
    llm, beside = tiny("llama")
    beside.eval()

    def gradient() -> torch.Tensor:
        x, cache = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(3)), DynamicCache()
        x.requires_grad_()
        first = llm.model.model(inputs_embeds=x[:, :4], past_key_values=cache, use_cache=True)
        second = llm.model.model(inputs_embeds=x[:, 4:] + first.last_hidden_state[:, :3],
                                 past_key_values=cache, use_cache=True)
        second.last_hidden_state.square().sum().backward()
        assert cache.get_seq_length() == 7
        return x.grad

    plain = gradient()
    trainable.checkpoint_layers(llm)
    assert torch.allclose(gradient(), plain, atol=1e-5)


def test_checkpointing_is_a_setting_of_the_plan(tmp_path, monkeypatch):
    """Plan.checkpointing was accepted and ignored; a model without such layers kept silent."""
    llm, beside = tiny("llama")
    beside.eval()

    def step_loss(step: int):
        text = llm.pack([[5, 6]], [[7]], images=1)
        return llm.loss(llm.embed(text.ids), text), {}

    model = torch.nn.ModuleDict({"llm": llm, "beside": beside})
    plan = training.Plan(steps=1, lr=0.1, checkpointing=True)
    calls, old = [], trainable.checkpoint
    monkeypatch.setattr(trainable, "checkpoint",
                        lambda *a, **k: (calls.append(1), old(*a, **k))[1])
    training.run(model, step_loss, plan, tmp_path / "run", {}, quiet=True)
    assert len(calls) == 3
    with pytest.raises(BadInput, match="checkpointing: this stage's model has no"):
        train(tmp_path / "toy", checkpointing=True)


def test_nothing_frozen_is_kept_for_training(tmp_path):
    """A frozen tower's gradients or AdamW's two moments of it: three times its memory."""
    llm, beside = tiny("llama")
    model = torch.nn.ModuleDict({"llm": llm, "beside": beside})

    def step_loss(step: int):
        text = llm.pack([[5, 6]], [[7]], images=1)
        return llm.loss(llm.embed(text.ids), text), {}

    training.run(model, step_loss, training.Plan(steps=2, lr=0.1), tmp_path, {}, quiet=True)
    assert all(p.grad is None and not p.requires_grad for p in llm.parameters())
    kept = {name.split("/")[1].split(".")[0]
            for name in checkpoints.load_tensors(tmp_path / checkpoints.STATE)}
    assert kept == {"beside", "cpu"}
