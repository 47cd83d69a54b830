"""The one training loop of all stages: schedule, precision, log, checkpoint, resume.

`step_loss(step) -> (loss, parts)` depends on the step's number and nothing else; it draws its
data from it. So resuming needs no data position, and a run resumed after step k equals the
uninterrupted one bit for bit on the same machine and thread count. Steps count from 0 here and
in log.jsonl; a checkpoint's `step` is how many are finished, the number of the next one.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from lion_min import BadInput, checkpoints

LOG = "log.jsonl"
StepLoss = Callable[[int], tuple[Tensor, dict[str, float | Tensor]]]


class NonFinite(RuntimeError):
    """The loss or the gradient is NaN or infinite; no parameter was touched by that step."""


@dataclass
class Plan:
    """How long and how fast a stage trains; BadInput on a value that cannot work."""
    steps: int
    lr: float
    min_lr: float = 0.0
    warmup: int = 50
    weight_decay: float = 0.05  # of matrices; vectors (biases, norms) have none
    clip: float = 1.0  # the largest norm of all gradients together
    betas: tuple[float, float] = (0.9, 0.999)
    decay: str = "cosine"  # or "linear_tail": constant, then a linear fall over the last fifth
    lr_scale: dict[str, float] = field(default_factory=dict)  # parameter-name prefix -> factor
    precision: str = "fp32"  # or "bf16": autocast
    save_every: int = 200
    seed: int = 0

    def __post_init__(self):
        checks = {"steps": (self.steps >= 1, "at least 1"),
                  "lr": (0 < self.lr < math.inf, "a positive number"),
                  "warmup": (self.warmup >= 0, "0 or more steps"),
                  "decay": (self.decay in ("cosine", "linear_tail"), "cosine or linear_tail"),
                  "precision": (self.precision in ("fp32", "bf16"), "fp32 or bf16"),
                  "save_every": (self.save_every >= 1, "at least 1"),
                  "seed": (0 <= self.seed < 2**63, "from 0 to 2^63 - 1")}
        for name, (works, need) in checks.items():
            if not works:
                raise BadInput(f"{name} {getattr(self, name)!r}: must be {need}")


def learning_rate(step: int, plan: Plan) -> float:
    """The rate of one step (from 0): linear warm-up to `lr`, then decay towards `min_lr`."""
    if step < plan.warmup:
        return plan.lr * (step + 1) / plan.warmup
    if plan.decay == "cosine":
        done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
        share = 0.5 * (1 + math.cos(math.pi * done))
    else:
        share = min(1.0, (plan.steps - step) / (0.2 * plan.steps))
    return plan.min_lr + share * (plan.lr - plan.min_lr)


# ---- what trains ---------------------------------------------------------------------------
def matches(name: str, prefix: str) -> bool:
    """'qformer' takes qformer.query, not qformer_head.bias; '*.adapters.image' every block's."""
    return fnmatchcase(name, prefix) or fnmatchcase(name, f"{prefix}.*")


def only_trainable(model: nn.Module, prefixes: Collection[str]) -> list[str]:
    """Sets requires_grad under `prefixes`, clears it elsewhere; returns the trainable names."""
    idle, names = set(prefixes), []
    for name, parameter in model.named_parameters():
        under = {prefix for prefix in prefixes if matches(name, prefix)}
        idle -= under
        if parameter.requires_grad_(bool(under)).requires_grad:
            names.append(name)
    if idle:  # a typing error must not train less in silence
        raise ValueError(f"no parameter is under {sorted(idle)}")
    return names


def freeze(module: nn.Module) -> nn.Module:
    """No gradients and no dropout, for ever; modules put inside afterwards (adapters) still
    follow `model.train()` and `model.eval()`."""
    module.requires_grad_(False).eval()
    for part in module.modules():
        part.train = MethodType(_train_children_only, part)
    return module


def _train_children_only(self: nn.Module, mode: bool = True) -> nn.Module:
    for child in self.children():
        child.train(mode)
    return self


def parameter_groups(model: nn.Module, plan: Plan) -> list[dict]:
    """AdamW's groups: (decay or not) x lr_scale, with names. The longest matching prefix counts."""
    groups, used = {}, set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            prefix = max((p for p in plan.lr_scale if matches(name, p)), key=len, default=None)
            used.add(prefix)
            scale = 1.0 if prefix is None else plan.lr_scale[prefix]
            decay = plan.weight_decay if parameter.ndim >= 2 else 0.0  # norms, biases are vectors
            group = {"params": [], "weight_decay": decay, "scale": scale}
            groups.setdefault((decay, scale), group)["params"].append((name, parameter))
    if idle := set(plan.lr_scale) - used:
        raise ValueError(f"lr_scale names no trainable parameter: {sorted(idle)}")
    return list(groups.values())


def count_parameters(parts: dict[str, nn.Module]) -> str:
    """A table of trainable and all parameters by part; a shared parameter counts once in all."""
    seen: dict[nn.Parameter, None] = {}
    rows = [f"{'part':<24}{'trainable':>14}{'all':>14}"]
    for name, parameters in [(n, [*m.parameters()]) for n, m in parts.items()] + [("all", seen)]:
        moving = sum(p.numel() for p in parameters if p.requires_grad)
        rows.append(f"{name:<24}{moving:>14,}{sum(p.numel() for p in parameters):>14,}")
        seen |= dict.fromkeys(parameters)
    return "\n".join(rows)


def device_of(name: str) -> torch.device:
    """'auto' takes a GPU where there is one; BadInput if 'cuda' is asked for in vain."""
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device {name!r}: must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device cuda: PyTorch finds no GPU here; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


# ---- the loop ------------------------------------------------------------------------------
def run(model: nn.Module, step_loss: StepLoss, plan: Plan, out: Path | str, config: dict,
        resume: bool = False, device: str | torch.device = "cpu", quiet: bool = False) -> dict:
    """Trains every parameter with requires_grad; returns {steps, loss, parts, seconds}.

    Writes a run's folder (checkpoints.py) every `save_every` steps and at the end. On Ctrl-C or
    SIGTERM the step is finished and saved, then KeyboardInterrupt. `resume` goes on from
    out/state.safetensors; BadInput if that run had other settings.
    """
    start, out, device = time.perf_counter(), Path(out), torch.device(device)
    config = checkpoints.as_json(config | {"plan": asdict(plan)})
    model.to(device).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, plan), plan.lr, plan.betas)
    torch.manual_seed(plan.seed)
    done = _resume(out, optimizer, config) if resume else 0
    record = _open_log(out, done)
    if done:  # a kill may have come after state.safetensors and before model.safetensors
        checkpoints.save_run(out, checkpoints.trainable_state(model), config)
    with _stop_requests() as stop, tqdm(total=plan.steps, initial=done, desc=out.name,
                                        disable=quiet, dynamic_ncols=True) as bar:
        for step in range(done, plan.steps):
            record = _train_step(optimizer, step_loss, step, plan, device)
            with checkpoints.writing(out / LOG), open(out / LOG, "a") as log:
                log.write(json.dumps(record) + "\n")
            bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
            bar.update()
            leaving = bool(stop) or step + 1 == plan.steps
            if leaving or (step + 1) % plan.save_every == 0:
                checkpoints.save_state(out, optimizer, step + 1, {"config": config})
                checkpoints.save_run(out, checkpoints.trainable_state(model), config)
            if leaving:
                break
    model.eval()
    if stop:
        raise KeyboardInterrupt
    return {"steps": plan.steps, "loss": record.get("loss"), "parts": record.get("parts"),
            "seconds": time.perf_counter() - start}


def _train_step(optimizer: torch.optim.Optimizer, step_loss: StepLoss, step: int, plan: Plan,
                device: torch.device) -> dict:
    """One update; returns its line of the log."""
    start, rate = time.perf_counter(), learning_rate(step, plan)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
        loss, parts = step_loss(step)
    parts = {name: torch.as_tensor(value).item() for name, value in parts.items()}
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(clip_grad_norm_(parameters, plan.clip))
    if not math.isfinite(loss.item() + norm):
        told = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
        raise NonFinite(f"step {step}: loss {loss.item():.4g} ({told}), gradient norm {norm:.4g}; "
                        "the last checkpoint is untouched: lower --lr or look at this step's data")
    optimizer.step()
    return {"step": step, "loss": loss.item(), "parts": parts, "lr": rate, "grad_norm": norm,
            "seconds": round(time.perf_counter() - start, 4)}


def _resume(out: Path, optimizer: torch.optim.Optimizer, config: dict) -> int:
    """Restores the saved state after comparing every setting; returns the finished steps."""
    saved = checkpoints.read_state(out)[1].get("config", {})
    changed = [line for line in checkpoints.differences(saved, config)
               if not line.startswith("plan.save_every ")]  # when to save changes no number
    if changed:
        raise BadInput(f"{out}: cannot resume with other settings: {', '.join(changed[:3])}; "
                       "give the same ones or train without --resume in another folder")
    return checkpoints.load_state(out, optimizer)[0]


def _open_log(out: Path, done: int) -> dict:
    """Cuts the log back to the checkpoint's `done` steps; returns the last one's record."""
    kept, path = [], out / LOG
    with checkpoints.writing(path):
        if path.exists() and done:
            lines = path.read_text(errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) < done]
        elif path.exists():  # of an earlier run, whose weights may be all that remains of it
            os.replace(path, out / "log.previous.jsonl")
    checkpoints.write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
    return json.loads(kept[-1]) if kept else {}


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # half a line: the run was killed while writing it


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM arrives, so that the loop ends its step."""
    asked: list[int] = []
    old = {number: signal.signal(number, lambda number, _: asked.append(number))
           for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
