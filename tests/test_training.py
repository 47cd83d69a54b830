"""The training loop: schedule, groups, log, resume after every kind of end."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lion_min import BadInput, checkpoints, training
from lion_min.training import NonFinite, Plan, learning_rate

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {"system": "lion", "stage": 2, "preset": "tiny"}


def toy() -> nn.Module:
    """Dropout, a frozen layer, and a part that only every second step uses."""
    torch.manual_seed(7)
    model = nn.ModuleDict({"frozen": nn.Linear(4, 8), "norm": nn.LayerNorm(8), "drop": nn.Dropout(),
                           "head": nn.Linear(8, 1), "odd": nn.Linear(8, 1)})
    training.freeze(model["frozen"])
    return model


def train(out: Path, stop_at: int | None = None, pause: float = 0.0, resume: bool = False,
          poison: int | None = None, **changed) -> nn.Module:
    """12 steps on data drawn from the step's number; Ctrl-C at `stop_at`, NaN at `poison`."""
    plan = Plan(**{"steps": 12, "lr": 0.05, "warmup": 3, "save_every": 5} | changed)
    model = toy()

    def step_loss(step: int):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))  # [B, 4]
        h = model["drop"](model["norm"](model["frozen"](x)))
        y = model["head"](h) + (model["odd"](h) if step % 2 else 0)
        fit = (y.squeeze(1) - x.sum(1)).square().mean() * (float("nan") if step == poison else 1)
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(pause)
        return fit + 0.1, {"fit": fit, "constant": 0.1}

    training.run(model, step_loss, plan, out, CONFIG, resume=resume, quiet=True)
    return model


def log(out: Path) -> list[dict]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return lines


def same_run(a: Path, b: Path) -> None:
    """Weights, moments, RNG and log are equal bit for bit."""
    for name in (checkpoints.MODEL, checkpoints.STATE):
        one, two = checkpoints.load_tensors(a / name), checkpoints.load_tensors(b / name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert log(a) == log(b) and [line["step"] for line in log(a)] == list(range(12))


@pytest.fixture
def whole(tmp_path) -> Path:
    """An uninterrupted run."""
    train(tmp_path / "whole")
    return tmp_path / "whole"


# ---- schedule and parameters ----------------------------------------------------------------
def test_schedule_values():
    """The warm-up started at zero, or the decay ended before or after the last step."""
    cosine = Plan(steps=110, lr=1.0, min_lr=0.2, warmup=10)
    got = [learning_rate(step, cosine) for step in (0, 9, 10, 60, 110)]
    assert got == pytest.approx([0.1, 1.0, 1.0, 0.6, 0.2])
    tail = Plan(steps=100, lr=1.0, warmup=10, decay="linear_tail")
    got = [learning_rate(step, tail) for step in (4, 10, 80, 90, 99)]
    assert got == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.05])
    assert learning_rate(0, Plan(steps=1, lr=1.0, warmup=0)) == 1.0


@pytest.mark.parametrize("bad", [{"steps": 0}, {"lr": float("nan")}, {"lr": -1.0}, {"seed": -1},
                                 {"decay": "step"}, {"precision": "fp16"}, {"save_every": 0}])
def test_a_plan_that_cannot_work_is_refused(bad):
    """--lr nan or --steps 0 trained for nothing, an unknown decay fell back in silence."""
    with pytest.raises(BadInput, match=next(iter(bad))):
        Plan(**{"steps": 5, "lr": 0.1} | bad)


def test_groups_decay_matrices_only_and_scale_by_longest_prefix():
    """Biases and norms were decayed; 'odd' also took 'odd_one'; frozen parts were in AdamW."""
    model = toy()
    model["odd_one"] = nn.Linear(8, 1)
    plan = Plan(steps=5, lr=0.1, weight_decay=0.3, lr_scale={"odd": 0.5, "odd.bias": 0.1})
    rows = {name: (group["weight_decay"], group["scale"])
            for group in training.parameter_groups(model, plan) for name, _ in group["params"]}
    assert rows == {"norm.weight": (0, 1), "norm.bias": (0, 1), "head.weight": (0.3, 1),
                    "head.bias": (0, 1), "odd.weight": (0.3, 0.5), "odd.bias": (0, 0.1),
                    "odd_one.weight": (0.3, 1), "odd_one.bias": (0, 1)}
    with pytest.raises(ValueError, match="typo"):
        training.parameter_groups(model, Plan(steps=5, lr=0.1, lr_scale={"typo": 2.0}))


def test_lr_scale_slows_its_part(tmp_path):
    """The scale was written into the group and then overwritten by the schedule."""
    slow = train(tmp_path / "run", steps=1, lr_scale={"head": 0.1}, weight_decay=0.0)
    moved = (slow["head"].weight - toy()["head"].weight).abs().max().item()
    full = train(tmp_path / "full", steps=1, weight_decay=0.0)
    assert moved == pytest.approx(0.1 * (full["head"].weight - toy()["head"].weight).abs().max()
                                  .item(), rel=1e-4)


def test_only_trainable_sets_exactly_the_named_parts():
    """A prefix took a neighbour of similar name; a typing error froze everything in silence."""
    model = nn.ModuleDict({"q": nn.Linear(2, 2), "q_head": nn.Linear(2, 2), "blocks": nn.ModuleList(
        nn.ModuleDict({"ffn": nn.Linear(2, 2), "adapter": nn.Linear(2, 2)}) for _ in range(2))})
    names = training.only_trainable(model, ["q", "blocks.*.adapter"])
    assert names == [n for n, p in model.named_parameters() if p.requires_grad]
    assert names == ["q.weight", "q.bias"] + [f"blocks.{i}.adapter.{kind}" for i in range(2)
                                              for kind in ("weight", "bias")]
    with pytest.raises(ValueError, match="qq"):
        training.only_trainable(model, ["q", "qq"])


def test_frozen_stays_in_eval_mode_but_an_adapter_inside_trains():
    """model.train() switched the frozen encoder's dropout on; adapters in it could not train."""
    frozen = training.freeze(nn.Sequential(nn.Linear(2, 2), nn.Dropout()))
    frozen.append(nn.Dropout(0.1))  # the adapter
    model = copy.deepcopy(nn.Sequential(frozen, nn.Dropout()))
    model.train()
    assert [m.training for m in model.modules()] == [True, False, False, False, True, True]
    assert not any(p.requires_grad for p in model.parameters())
    model.eval()
    assert not any(m.training for m in model.modules())


def test_only_parameters_with_requires_grad_move(tmp_path):
    """Weight decay or a stray gradient moved the frozen encoder."""
    model, start = train(tmp_path / "run"), toy()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, start.get_parameter(n))}
    assert moved == {n for n, p in start.named_parameters() if not n.startswith("frozen")}
    assert moved == checkpoints.load_run(tmp_path / "run")[0].keys()


def test_table_of_parameters_counts_shared_ones_once():
    """The total counted a tied embedding twice."""
    model = toy()
    table = training.count_parameters({"encoder": model["frozen"], "head": model["head"],
                                       "again": model["head"]}).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in table[1:]}
    assert rows == {"encoder": ["0", "40"], "head": ["9", "9"], "again": ["9", "9"],
                    "all": ["9", "49"]}


def test_device_names(monkeypatch):
    """--device cuda without a GPU ended in a CUDA traceback minutes later."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training.device_of("auto").type == training.device_of("cpu").type == "cpu"
    for name in ("cuda", "gpu"):
        with pytest.raises(BadInput, match=name):
            training.device_of(name)


# ---- the loop -------------------------------------------------------------------------------
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


def test_bf16_autocasts_the_loss_and_keeps_fp32_weights(tmp_path):
    """--precision bf16 changed nothing, or stored the weights in bfloat16."""
    low, full = train(tmp_path / "low", precision="bf16"), train(tmp_path / "full")
    assert low["head"].weight.dtype == torch.float32
    assert not torch.equal(low["head"].weight, full["head"].weight)


def test_progress_goes_to_stderr_unless_quiet(tmp_path, capsys):
    """The progress bar spoilt --json output on stdout; --quiet still drew it."""
    model = nn.Linear(2, 1)
    for quiet in (False, True):
        training.run(model, lambda step: (model(torch.ones(1, 2)).sum(), {}), Plan(steps=3, lr=0.1),
                     tmp_path / "run", CONFIG, quiet=quiet)
        out, err = capsys.readouterr()
        assert out == "" and ("3/3" in err and "loss=" in err) != quiet


def test_a_non_finite_loss_stops_before_it_does_harm(tmp_path):
    """A NaN loss was trained on: every weight NaN, and saved over the good checkpoint."""
    with pytest.raises(NonFinite, match="step 7: loss nan .fit nan, constant 0.1."):
        train(tmp_path / "run", poison=7)
    step, _ = checkpoints.read_state(tmp_path / "run")
    weights, _ = checkpoints.load_run(tmp_path / "run")
    assert step == 5 and all(torch.isfinite(w).all() for w in weights.values())


def test_a_non_finite_gradient_stops_too(tmp_path):
    """sqrt at zero: the loss is finite, its gradient is not, and the weights became NaN."""
    model = nn.Linear(1, 1, bias=False)
    with pytest.raises(NonFinite, match="gradient norm (nan|inf)"):
        training.run(model, lambda step: ((model.weight * 0).abs().sum().sqrt(), {}),
                     Plan(steps=2, lr=0.1), tmp_path, CONFIG, quiet=True)
    assert torch.isfinite(model.weight).all()


# ---- resume ---------------------------------------------------------------------------------
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
    """state.safetensors of step 10 met model.safetensors of step 5: a mixed, wrong model."""
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


def test_killed_before_the_last_rename(tmp_path, whole):
    """Resuming a finished state with no model file wrote no model file."""
    before = checkpoints.load_run(whole)[0]
    (whole / "model.safetensors").unlink()
    train(whole, resume=True)
    after = checkpoints.load_run(whole)[0]
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("changed, told", [({"steps": 20}, "plan.steps is 20, was 12"),
                                           ({"lr": 0.1}, "plan.lr"), ({"seed": 1}, "plan.seed")])
def test_resume_with_other_settings_is_refused(whole, changed, told):
    """A resumed run with another schedule or seed passed for the run it was not."""
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    with pytest.raises(BadInput, match=told):
        train(whole, resume=True, **changed)
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before
    train(whole, resume=True, save_every=1)  # how often to save is no setting of the result


def test_resume_of_another_stage_is_refused(whole, monkeypatch):
    """Stage 3 resumed stage 2's state."""
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
    """Training again in the same folder wiped the only record of the earlier curve."""
    earlier = (whole / "log.jsonl").read_bytes()
    with pytest.raises(NonFinite):
        train(whole, poison=1)
    assert (whole / "log.previous.jsonl").read_bytes() == earlier
    assert [line["step"] for line in log(whole)] == [0]


def test_an_unwritable_folder_is_told_before_training(tmp_path):
    """An hour of training, and then the folder could not be written."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match="cannot be written"):
        train(tmp_path / "file" / "run", poison=0)


# ---- real processes -------------------------------------------------------------------------
SCRIPT = """
import sys
from pathlib import Path
import torch
from test_training import train
torch.set_num_threads({threads})
try:
    train(Path(sys.argv[1]), pause=0.05)
except KeyboardInterrupt:
    sys.exit(130)
"""


def end_by(number: int, out: Path, lines: int) -> int:
    """Starts the toy run in a process, sends a signal after `lines` log lines; its exit code."""
    script = out.parent / "script.py"
    script.write_text(SCRIPT.format(threads=torch.get_num_threads()))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen([sys.executable, script, out], env=env)
    end = time.monotonic() + 60
    while not (out / "log.jsonl").exists() or (out / "log.jsonl").read_bytes().count(b"\n") < lines:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait(30)


def test_resume_after_kill_9(tmp_path, whole):
    """After kill -9 the folder held half a file, or the resumed run differed."""
    assert end_by(signal.SIGKILL, tmp_path / "cut", lines=7) == -signal.SIGKILL
    assert checkpoints.read_state(tmp_path / "cut")[0] >= 5
    train(tmp_path / "cut", resume=True)
    same_run(whole, tmp_path / "cut")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_exits_130(tmp_path, whole, number):
    """Ctrl-C, or a scheduler's SIGTERM, threw away every step since the last checkpoint."""
    assert end_by(number, tmp_path / "cut", lines=3) == 130
    assert len(log(tmp_path / "cut")) == checkpoints.read_state(tmp_path / "cut")[0] < 12
    checkpoints.load_run(tmp_path / "cut")
    train(tmp_path / "cut", resume=True)
    same_run(whole, tmp_path / "cut")
