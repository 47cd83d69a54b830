"""The one training loop of all stages: schedule, precision, log, checkpoint, resume.

`step_loss(step) -> (loss, parts)` depends on the step's number and nothing else; it draws its
data from it. So resuming needs no data position, and a run resumed after step k equals the
uninterrupted one bit for bit on the same machine and thread count. Steps count from 0 here and
in log.jsonl; a checkpoint's `step` is how many are finished, the number of the next one.

A step may be the mean of several shards, `step_loss(step, shard)`: one after another where
memory is short (`accumulate`), side by side under torchrun (parallel.py), or both.
"""

import json
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from lion_min import BadInput, checkpoints, parallel
from lion_min.cli import progress_bar
from lion_min.schedule import Plan, learning_rate
from lion_min.trainable import checkpoint_layers, parameter_groups

LOG = "log.jsonl"
StepLoss = Callable[..., tuple[Tensor, dict[str, float | Tensor]]]  # (step) or (step, shard)
NO_LLM = "--shard: shares the layers of an LLM, and this stage has none; leave it out"
NO_FAULT = str                             # says "", as `fault` of `run` where nothing can go wrong
NO_RESULT = ("save_every", "checkpointing", "accumulate", "shard")  # settings that change no number:
# accumulate counts through `shards`, which two processes have as well as one does


class NonFinite(RuntimeError):
    """The loss or the gradient is NaN or infinite; no parameter was touched by that step."""


def device_of(name: str) -> torch.device:
    """'auto' takes a GPU where there is one; BadInput if 'cuda' is asked for in vain."""
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"device {name!r}: must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device cuda: PyTorch finds no GPU here; use --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    mine, has = parallel.local_rank(), torch.cuda.device_count()
    if mine is not None and mine >= has:
        raise BadInput(f"torchrun: process {mine} finds no GPU of its own among {has}; lower "
                       "--nproc-per-node or use --device cpu")
    return torch.device("cuda", mine)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether bf16 is worth its name here: every GPU, and a CPU for which oneDNN has bf16 kernels
    (AVX-512, ARM's own). Elsewhere, on many laptops, PyTorch's bf16 product takes 40 times fp32's."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


# ---- the loop ------------------------------------------------------------------------------
def run(model: nn.Module, step_loss: StepLoss, plan: Plan, out: Path | str, config: dict,
        resume: bool = False, device: str | torch.device = "cpu", quiet: bool = False,
        fault: Callable[[], str] = NO_FAULT) -> dict:
    """Trains every parameter with requires_grad; returns {steps, loss, parts, seconds}.

    Writes a run's folder (checkpoints/runs.py) every `save_every` steps and at the end. On Ctrl-C or
    SIGTERM the step is finished and saved, then KeyboardInterrupt. `resume` goes on from
    out/state.safetensors; BadInput if that run had other settings or other data. Under torchrun
    every process calls this, all stop after the same step, and the first alone writes; a model
    that they share was parted before (parallel.shard). fault says after a step why it must be the
    last one, or ""; then BadInput, in every process.
    """
    start, out, device = time.perf_counter(), Path(out), torch.device(device)
    parallel.start()
    first, shards = parallel.is_first(), plan.accumulate * parallel.world()
    config = checkpoints.as_json(config | {"plan": asdict(plan), "shards": shards})
    if plan.shard and not parallel.sharded(model):
        raise BadInput(NO_LLM)
    model.to(device).train()
    if plan.checkpointing:
        checkpoint_layers(model)
    groups = parameter_groups(model, plan.weight_decay, plan.lr_scale)
    # fused: on a GPU the update of a 7B LLM would else hold copies of its moments for a moment
    optimizer = torch.optim.AdamW(groups, plan.lr, plan.betas, fused=device.type == "cuda")
    torch.manual_seed(plan.seed)
    done = _resume(out, optimizer, config) if resume else _check_free(out, config)
    compute = parallel.spread(parallel.Step(model, step_loss))  # after all have read the state
    record = _open_log(out, done) if first else {}
    if done:  # a kill may have come after state.safetensors, before model.safetensors
        checkpoints.save_run(out, checkpoints.trainable_state(model), config)
    with _stop_requests() as stop, progress_bar(total=plan.steps, initial=done, desc=out.name,
                                                disable=quiet or not first) as bar:
        for step in range(done, plan.steps):
            record = _train_step(optimizer, compute, step, plan, device)
            if first:
                _append(out / LOG, record)
            bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
            bar.update()
            asked, faults = zip(*parallel.gather([bool(stop), fault()]))
            leaving = any(asked) or any(faults) or step + 1 == plan.steps
            if leaving or (step + 1) % plan.save_every == 0:
                checkpoints.save_state(out, optimizer, step + 1, {"config": config})
                checkpoints.save_run(out, checkpoints.trainable_state(model), config)
            if any(faults):
                raise BadInput(next(filter(None, faults)))
            if leaving:
                break
        stopped = any(parallel.gather(bool(stop)))  # and all wait until the files are written
    model.eval()
    if stopped:
        raise KeyboardInterrupt
    return {"steps": plan.steps, "loss": record.get("loss"), "parts": record.get("parts"),
            "seconds": time.perf_counter() - start}


def _train_step(optimizer: torch.optim.Optimizer, compute: nn.Module, step: int, plan: Plan,
                device: torch.device) -> dict:
    """One update out of every process's shards; returns its line of the log."""
    start, rate = time.perf_counter(), learning_rate(step, plan)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
    optimizer.zero_grad()
    mine = [_backward(compute, step, turn, plan, device) for turn in range(plan.accumulate)]
    parts = _means([shard for process in parallel.gather(mine) for shard in process])
    loss = parts.pop("")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(parallel.whole(clip_grad_norm_(parameters, plan.clip)))
    if not math.isfinite(loss + norm):  # in one process; then the mean is so in every one
        told = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
        raise NonFinite(f"step {step}: loss {loss:.4g} ({told}), gradient norm {norm:.4g}; "
                        "the last checkpoint is untouched: lower --lr or look at this step's data")
    optimizer.step()
    return {"step": step, "loss": loss, "parts": parts, "lr": rate, "grad_norm": norm,
            "seconds": round(time.perf_counter() - start, 4)}


def _backward(compute: nn.Module, step: int, turn: int, plan: Plan,
              device: torch.device) -> dict[str, float]:
    """Adds the gradient of this process's shard number `turn`; its parts, and its loss as ''."""
    shard = turn * parallel.world() + parallel.rank()
    if plan.accumulate * parallel.world() > 1:  # dropout, too, goes by the shard, not the process
        torch.manual_seed(random.Random(f"{plan.seed}/{step}/{shard}").getrandbits(63))
    with parallel.averaging(compute, last=turn + 1 == plan.accumulate):
        # a cache would keep copies of all layers, where checkpointing keeps one and shard a part
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.precision == "bf16",
                            cache_enabled=not (plan.shard and plan.checkpointing)):
            loss, parts = compute(step, shard)
        (loss / plan.accumulate).backward()
    return {name: value.item() for name, value in ({"": loss.detach()} | parts).items()}


def _means(shards: list[dict[str, float]]) -> dict[str, float]:
    """Every part's mean over the shards that have it."""
    names = dict.fromkeys(name for shard in shards for name in shard)
    found = {name: [shard[name] for shard in shards if name in shard] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def _resume(out: Path, optimizer: torch.optim.Optimizer, config: dict) -> int:
    """Restores the saved state after comparing every setting; returns the finished steps."""
    saved = {"shards": 1} | checkpoints.read_state(out)[1].get("config", {})
    was, now = ({"file": "data without a name", "fingerprint": "none"} | (settings.get("data") or {})
                for settings in (saved, config))
    if was["fingerprint"] != now["fingerprint"]:
        told = [f"{data['file']} (fingerprint {data['fingerprint']})" for data in (was, now)]
        raise BadInput(f"{out}: was trained on {told[0]}, and this is {told[1]}; resume with the same "
                       "data, or train without --resume in another folder")
    changed = [line for line in checkpoints.differences(saved, config)
               if not line.startswith(("data.", *(f"plan.{name} " for name in NO_RESULT)))]
    if changed:
        raise BadInput(f"{out}: cannot resume with other settings: {', '.join(changed[:3])}; "
                       "give the same ones or train without --resume in another folder")
    return checkpoints.load_state(out, optimizer)[0]


def _check_free(out: Path, config: dict) -> int:
    """0, the finished steps of a new run; BadInput where another one, or half of it, lies there."""
    if (out / checkpoints.STATE).exists():
        step, saved = checkpoints.read_state(out)
        other = checkpoints.differences(saved.get("config", {}), config)
        if other or step < config["plan"]["steps"]:
            told = f"another run ({other[0]})" if other else f"this run up to step {step}"
            raise BadInput(f"{out}: holds {told}; go on with --resume, give another --out, or "
                           "remove the folder")
    return 0


def _append(path: Path, record: dict) -> None:
    with checkpoints.writing(path), open(path, "a") as log:
        log.write(json.dumps(record) + "\n")


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
