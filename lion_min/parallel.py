"""Several processes train one model, as `torchrun --nproc-per-node N train.py ...` starts them.

A step has plan.accumulate x N shards, and process r takes the shards k with k % N == r. What a
shard draws depends on its number alone, so N processes do what one does with N times the
accumulation. The processes find each other by the variables that torchrun sets (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Without them everything here does nothing.
"""

import atexit
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _get_default_store
from torch.nn.parallel import DistributedDataParallel

ENDED, GRACE = "lion_min/ended", 2.0               # how many ended early; seconds to wait for them


def start() -> None:
    """Joins the other processes, once; all but the first print nothing from then on."""
    if joined() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device((local_rank() or 0) % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    atexit.register(_leave)
    if not is_first():
        sys.stdout = open(os.devnull, "w")


def first_to_end() -> bool:
    """Whether no other process has said yet why the run ends; the first cause is the one told.

    Processes that did not join end alike, and the first one speaks.
    """
    if not joined():
        return os.environ.get("RANK", "0") == "0"
    try:
        return _get_default_store().add(ENDED, 1) == 1
    except RuntimeError:                           # the process that kept the store was killed
        return True


def _leave() -> None:
    """The last thing a process does. DDP's modules hold the group in cycles; a group that is
    still held when Python ends takes the process down with SIGABRT, now and then, by a thread of
    its own that then asks for the interpreter."""
    store, keeper, group = _get_default_store(), is_first(), world()
    gc.collect()
    dist.destroy_process_group()
    late = time.monotonic() + GRACE
    with suppress(RuntimeError):
        while keeper and 0 < store.add(ENDED, 0) < group and time.monotonic() < late:
            time.sleep(0.01)                       # the first process may keep the store for all


def joined() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if joined() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if joined() else 1


def is_first() -> bool:
    """The first process alone writes files, prints and draws the progress bar."""
    return rank() == 0


def local_rank() -> int | None:
    """Which of this machine's processes this is, and so which of its GPUs; None when alone."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None


def gather(mine: object) -> list:
    """Everybody's `mine`, something small that JSON can say, by rank; all wait for the last."""
    if not joined():
        return [mine]
    said = torch.tensor(list(json.dumps(mine).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.long) for _ in range(world())]
    dist.all_gather(sizes, torch.tensor([len(said)]))
    rows = [torch.zeros(max(map(int, sizes)), dtype=torch.uint8) for _ in sizes]
    dist.all_gather(rows, F.pad(said, (0, len(rows[0]) - len(said))))
    return [json.loads(bytes(row[:int(size)].tolist())) for row, size in zip(rows, sizes)]


class Step(nn.Module):
    """A step's loss as a module's forward: the form in which torch averages gradients."""

    def __init__(self, model: nn.Module, step_loss: Callable):
        super().__init__()
        self.model, self.step_loss = model, step_loss

    def forward(self, step: int, shard: int) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, parts) of one shard; shard 0 is the whole step where there is one shard only."""
        loss, parts = self.step_loss(step, shard) if shard else self.step_loss(step)
        return loss, {name: torch.as_tensor(value).detach() for name, value in parts.items()}


def spread(step: Step) -> nn.Module:
    """The same step with gradients averaged over all processes; everybody waits for everybody.

    Rounds differ in what they touch. A parameter that no shard touched keeps gradient None, as
    in one process, and AdamW passes over it; one that some shards touched gets the mean.
    """
    if not joined():
        return step
    with warnings.catch_warnings():  # torch 2.13 renames broadcast_buffers; 2.11 knows it alone
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(step, find_unused_parameters=True, broadcast_buffers=False)


def averaging(step: nn.Module, last: bool) -> AbstractContextManager:
    """Gradients are exchanged after the last of a process's shards, not after every one."""
    return step.no_sync() if joined() and not last else nullcontext()
