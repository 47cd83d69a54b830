"""Several processes train one model, as `torchrun --nproc-per-node N train.py ...` starts them.

A step has plan.accumulate x N shards, and process r takes the shards k with k % N == r. What a
shard draws depends on its number alone, so N processes do what one does with N times the
accumulation. The processes find each other by the variables that torchrun sets (RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Without them everything here does nothing.

Each process holds the whole model (DDP), or the model is shared among them (FSDP2, `shard`).
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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from lion_min.trainable import layer_number

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
        loss, parts = within(self.model, lambda: self.step_loss(step, shard) if shard
                             else self.step_loss(step))
        parts = {name: torch.as_tensor(value).detach() for name, value in parts.items()}
        return _touch_alike(self.model, loss), parts


def spread(step: Step) -> nn.Module:
    """The same step with gradients averaged over all processes; everybody waits for everybody.

    Rounds differ in what they touch. A parameter that no shard touched keeps gradient None, as
    in one process, and AdamW passes over it; one that some shards touched gets the mean. A shared
    model's layers average their own gradients.
    """
    if not joined() or sharded(step.model):
        return step
    with warnings.catch_warnings():  # torch 2.13 renames broadcast_buffers; 2.11 knows it alone
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(step, find_unused_parameters=True, broadcast_buffers=False)


def averaging(step: nn.Module, last: bool) -> AbstractContextManager:
    """DDP exchanges gradients after the last of a process's shards; a shared model after every
    one, since between them no process has room for all of its gradients."""
    ddp = isinstance(step, DistributedDataParallel)
    return step.no_sync() if ddp and not last else nullcontext()


# ---- a model larger than one GPU -----------------------------------------------------------------

def shard(model: nn.Module, layers: list[nn.Module], device: torch.device) -> None:
    """Leaves to each of N processes a part of every layer and of all else that trains, 1/N of its
    rows, with their gradients and moments (FSDP2). What is frozen outside the layers stays whole.

    A layer is gathered while it runs, forward and backward; the rest from a step's beginning to
    the end of its backward pass. So all processes must call every layer equally often. The model
    is on the CPU, or whole on the device; which parameters train is known.
    """
    mesh = init_device_mesh(device.type, (world(),))
    inside = {p for layer in layers for p in layer.parameters()}
    frozen = {p for p in model.parameters() if not p.requires_grad} - inside
    for layer in layers:
        # What a layer writes into a key-value cache is a result, too, and may be all that a
        # gradient comes back through: FSDP's own hook, between these two, must know it.
        layer.register_forward_hook(_with_cache, with_kwargs=True)
        fully_shard(layer, mesh=mesh)
        layer.register_forward_hook(lambda layer, inputs, output: output[0])
    root = fully_shard(Root(model), mesh=mesh, ignored_params=frozen)
    for module in (*layers, root):         # on a CPU some versions of torch took the sum for a mean
        module.set_force_sum_reduction_for_comms(device.type == "cpu")
    model.fsdp_root = (root,)              # a tuple: no part of the model, which is part of it
    model.to(device)


class Root(nn.Module):
    """A call as a module's forward: the form in which FSDP gathers what lies outside the layers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, call: Callable) -> object:
        return call()


def within(model: nn.Module, call: Callable) -> object:
    """call() while what lies outside a sharded model's layers is whole; it is parted again
    afterwards, or by the backward pass."""
    if not sharded(model):
        return call()
    root, = model.fsdp_root
    result = root(call)
    if not torch.is_grad_enabled():
        root.reshard()
    return result


def _with_cache(layer: nn.Module, inputs: tuple, options: dict, output: object) -> tuple:
    """(output, the keys and values that the layer has written)."""
    cache = getattr(options.get("past_key_values"), "layers", None)    # T5 has none that it reads
    if cache is None or not torch.is_grad_enabled():
        return output, None
    mine = cache[layer_number(layer)]
    return output, (mine.keys, mine.values)


def sharded(model: nn.Module) -> bool:
    """Whether the processes share this model."""
    return hasattr(model, "fsdp_root")


def _touch_alike(model: nn.Module, loss: Tensor) -> Tensor:
    """The loss, with a gradient of zeros for what another process's loss touches and this one's
    does not: all bring the same gradients to the exchange. (DDP does so by itself.)"""
    if not sharded(model):
        return loss
    outside = {name: p for name, p in model.named_parameters()
               if p.requires_grad and not isinstance(p, DTensor)}
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
    touched = {id(node.variable) for node in seen if hasattr(node, "variable")}
    mine = [name for name, p in outside.items() if id(p) in touched]
    others = sorted(set().union(*gather(mine)) - set(mine))
    return loss + sum(outside[name].flatten()[:0].sum() for name in others)


def whole(tensor: Tensor) -> Tensor:
    """A shared tensor in one piece; every process must ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_of(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, shared among the processes as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements,
                             src_data_rank=None)
