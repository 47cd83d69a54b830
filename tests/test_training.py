"""The training loop: schedule, groups, what trains, log, non-finite losses."""

import copy

import pytest
import torch
from torch import nn
from toy_run import CONFIG, log, toy, train, whole  # noqa: F401 (whole is a fixture)

from lion_min import BadInput, checkpoints, trainable, training
from lion_min.training import NonFinite, Plan, learning_rate


def test_schedule_values():
    """The warm-up started at zero, or the decay ended before or after the last step."""
    cosine = Plan(steps=110, lr=1.0, min_lr=0.2, warmup=10)
    got = [learning_rate(step, cosine) for step in (0, 9, 10, 60, 110)]
    assert got == pytest.approx([0.1, 1.0, 1.0, 0.6, 0.2])
    tail = Plan(steps=100, lr=1.0, warmup=10, decay="linear_tail")
    got = [learning_rate(step, tail) for step in (4, 10, 80, 90, 99)]
    assert got == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.05])
    assert learning_rate(0, Plan(steps=1, lr=1.0, warmup=0)) == 1.0


def test_what_cannot_work_is_refused(monkeypatch):
    """--lr nan or --steps 0 trained for nothing, an unknown decay fell back in silence; --device
    cuda without a GPU ended in a CUDA traceback minutes later."""
    for name, bad in (("steps", 0), ("lr", float("nan")), ("lr", -1.0), ("seed", -1),
                      ("decay", "step"), ("precision", "fp16"), ("save_every", 0),
                      ("accumulate", 0)):
        with pytest.raises(BadInput, match=name):
            Plan(**{"steps": 5, "lr": 0.1} | {name: bad})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training.device_of("auto").type == training.device_of("cpu").type == "cpu"
    for name in ("cuda", "gpu"):
        with pytest.raises(BadInput, match=name):
            training.device_of(name)


def test_groups_decay_matrices_only_and_scale_by_longest_prefix():
    """Biases and norms were decayed; 'odd' also took 'odd_one'; frozen parts were in AdamW."""
    model = toy()
    model["odd_one"] = nn.Linear(8, 1)
    groups = trainable.parameter_groups(model, 0.3, {"odd": 0.5, "odd.bias": 0.1})
    rows = {name: (group["weight_decay"], group["scale"])
            for group in groups for name, _ in group["params"]}
    assert rows == {"norm.weight": (0, 1), "norm.bias": (0, 1), "head.weight": (0.3, 1),
                    "head.bias": (0, 1), "odd.weight": (0.3, 0.5), "odd.bias": (0, 0.1),
                    "odd_one.weight": (0.3, 1), "odd_one.bias": (0, 1)}
    with pytest.raises(ValueError, match="typo"):
        trainable.parameter_groups(model, 0.0, {"typo": 2.0})


def test_lr_scale_slows_its_part(tmp_path):
    """The scale was written into the group and then overwritten by the schedule."""
    start, (slow, full) = toy(), (train(tmp_path / str(len(scale)), steps=1, lr_scale=scale,
                                        weight_decay=0.0) for scale in ({"head": 0.1}, {}))
    slow, full = ((m["head"].weight - start["head"].weight).abs().max() for m in (slow, full))
    assert slow.item() == pytest.approx(0.1 * full.item(), rel=1e-4)


def test_only_trainable_sets_exactly_the_named_parts():
    """A prefix took a neighbour of similar name; a typing error froze everything in silence."""
    model = nn.ModuleDict({"q": nn.Linear(2, 2), "q_head": nn.Linear(2, 2), "blocks": nn.ModuleList(
        nn.ModuleDict({"ffn": nn.Linear(2, 2), "adapter": nn.Linear(2, 2)}) for _ in range(2))})
    names = trainable.only_trainable(model, ["q", "blocks.*.adapter"])
    assert names == [n for n, p in model.named_parameters() if p.requires_grad]
    assert names == ["q.weight", "q.bias"] + [f"blocks.{i}.adapter.{kind}" for i in range(2)
                                              for kind in ("weight", "bias")]
    with pytest.raises(ValueError, match="qq"):
        trainable.only_trainable(model, ["q", "qq"])


def test_frozen_stays_in_eval_mode_but_an_adapter_inside_trains():
    """model.train() switched the frozen encoder's dropout on; adapters in it could not train."""
    frozen = trainable.freeze(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    frozen.append(nn.Dropout(0.1))  # the adapter
    model = copy.deepcopy(nn.Sequential(frozen, nn.Dropout()))
    model.train()
    assert [m.training for m in model.modules()] == [True, False, False, False, True, True]
    assert not any(p.requires_grad for p in model.parameters())
    model.eval()
    assert not any(m.training for m in model.modules())


def test_only_parameters_with_requires_grad_move(tmp_path):
    """Weight decay or a stray gradient moved the frozen encoder; --precision bf16 changed nothing,
    or stored the weights in bfloat16."""
    model, start = train(tmp_path / "run"), toy()
    low = train(tmp_path / "low", precision="bf16")["head"].weight
    assert low.dtype == torch.float32 and not torch.equal(low, model["head"].weight)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, start.get_parameter(n))}
    assert moved == {n for n, p in start.named_parameters() if not n.startswith("frozen")}
    assert moved == checkpoints.load_run(tmp_path / "run")[0].keys()


def test_table_of_parameters_counts_shared_ones_once():
    """The total counted a tied embedding twice."""
    model = toy()
    table = trainable.count_parameters({"encoder": model["frozen"], "head": model["head"],
                                       "again": model["head"]}).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    assert rows == {"encoder": ["0", "40"], "head": ["9", "9"], "again": ["9", "9"], "all": ["9", "49"]}


def test_a_run_learns_and_writes_its_folder(tmp_path):
    """The loop returned without training, or a log line lacked what a curve needs."""
    model = train(tmp_path / "run", steps=150, lr=0.03)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "model.safetensors", "config.json", "state.safetensors", "log.jsonl"}
    lines = log(tmp_path / "run")
    assert lines[0].keys() == {"step", "loss", "parts", "lr", "grad_norm"}
    assert lines[0]["parts"].keys() == {"fit", "constant"}
    assert sum(x["loss"] for x in lines[-20:]) < 0.7 * sum(x["loss"] for x in lines[:20])
    assert not model.training
    config = checkpoints.load_run(tmp_path / "run")[1]
    assert config["stage"] == 2 and config["plan"]["lr"] == 0.03


def test_every_setting_of_the_plan_counts(tmp_path, whole):
    """A setting was accepted and ignored; or dropout depended on what ran before."""
    weight = checkpoints.load_run(whole)[0]["head.weight"]
    torch.rand(5)
    assert torch.equal(train(tmp_path / "again")["head"].weight, weight)
    for name, value in {"seed": 1, "clip": 1e-9, "betas": (0.5, 0.5), "weight_decay": 0.9,
                        "min_lr": 0.01}.items():
        assert not torch.equal(train(tmp_path / name, **{name: value})["head"].weight, weight), name


def test_progress_goes_to_stderr_unless_quiet(tmp_path, capsys):
    """The progress bar spoilt --json output on stdout; --quiet still drew it."""
    model = nn.Linear(2, 1)
    for quiet in (False, True):
        training.run(model, lambda step: (model(torch.ones(1, 2)).sum(), {}), Plan(steps=3, lr=0.1),
                     tmp_path / "run", CONFIG, quiet=quiet)
        out, err = capsys.readouterr()
        assert out == "" and ("3 of 3" in err and "loss=" in err) != quiet


def test_a_non_finite_loss_stops_before_it_does_harm(tmp_path):
    """A NaN loss was trained on: every weight NaN, and saved over the good checkpoint; sqrt at
    zero: the loss is finite, its gradient is not, and the weights became NaN."""
    with pytest.raises(NonFinite, match="step 7: loss nan .fit nan, constant 0.1."):
        train(tmp_path / "run", poison=7)
    step, _ = checkpoints.read_state(tmp_path / "run")
    weights, _ = checkpoints.load_run(tmp_path / "run")
    assert step == 5 and all(torch.isfinite(w).all() for w in weights.values())
    model = nn.Linear(1, 1, bias=False)
    with pytest.raises(NonFinite, match="gradient norm (nan|inf)"):
        training.run(model, lambda step: ((model.weight * 0).abs().sum().sqrt(), {}),
                     Plan(steps=2, lr=0.1), tmp_path, CONFIG, quiet=True)
    assert torch.isfinite(model.weight).all()
