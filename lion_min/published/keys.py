"""A published checkpoint's keys against a table: every one known, present and of its shape.

A table says each key's shape in letters: 'd q' is a matrix of two sizes, '3v v' has three times as
many rows as columns, '2 d' two rows. One letter is one size throughout a checkpoint; the size
that most of its tensors agree on is taken, so that the one that disagrees is named.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import torch
from torch import Tensor, nn

from lion_min import BadInput, checkpoints

Table = dict[str, tuple[str, str]]         # official key -> (our key, its shape in letters)


def pair(official: str, ours: str, shape: str) -> Table:
    """Weight and bias of a Linear, a convolution or a norm."""
    return {f"{official}.weight": (f"{ours}.weight", shape),
            f"{official}.bias": (f"{ours}.bias", shape.split()[0])}


def translate(tensors: dict[str, Tensor], table: Table, what: str) -> dict[str, Tensor]:
    """Official tensors under our names; BadInput as `account`."""
    account(tensors, table, what)
    return {new: tensors[old] for old, (new, _) in table.items()}


def without(tensors: dict[str, Tensor], ignored: Iterable[str]) -> dict[str, Tensor]:
    """The tensors whose keys none of the patterns matches."""
    return {key: tensor for key, tensor in tensors.items() if not matches(key, ignored)}


def count_layers(tensors: Iterable[str], prefix: str, least: int = 1) -> int:
    """1 + the largest index after `prefix`, so that a gap is missed; `least`, for a known size,
    so that a missing end is missed, too."""
    numbers = (re.match(re.escape(prefix) + r"(\d+)\.", key) for key in tensors)
    return max([int(n[1]) + 1 for n in numbers if n] + [least])


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns is all of the key."""
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def rows(tensors: dict[str, Tensor], key: str) -> int:
    """How many a tensor has; 0 where it is absent or a single number."""
    return next(iter(tensors[key].shape), 0) if key in tensors else 0


def side(patches: int, key: str) -> int:
    """Patches along one side of the square that a table of positions, `key`, is made for."""
    if patches != math.isqrt(max(patches, 0)) ** 2:
        raise BadInput(f"key '{key}' is for {patches} patches, which are no square; "
                       "take the official file")
    return math.isqrt(patches)


def account(tensors: dict[str, Tensor], table: Table, what: str) -> None:
    """BadInput names the keys that are unknown, missing, or of a shape the others do not have."""
    unknown = [f"unknown key '{key}'" for key in sorted(tensors.keys() - table.keys())]
    missing = [f"key '{key}' is missing" for key in table if key not in tensors]
    wrong = [] if unknown or missing else _misshapen(tensors, table)
    if faults := [_few(kind) for kind in (unknown, missing, wrong) if kind]:
        raise BadInput(f"not a whole {what} checkpoint: {'; '.join(faults)}; "
                       "take all of the official files, and no others")


def _few(faults: list[str]) -> str:
    return ", ".join(faults[:3]) + (f" and {len(faults) - 3} more" if faults[3:] else "")


def _misshapen(tensors: dict[str, Tensor], table: Table) -> list[str]:
    parsed = {key: [re.fullmatch(r"(\d*)([a-zA-Z]?)", dim).groups() for dim in shape.split()]
              for key, (_, shape) in table.items()}
    sizes, faults = _agreed(tensors, parsed), []
    for key, dims in parsed.items():
        expected = [int(times or 1) * (sizes.get(letter, 0) if letter else 1)
                    for times, letter in dims]
        if list(tensors[key].shape) != expected:
            shape = ", ".join(str(size or "?") for size in expected)  # ?: no two of them agree
            faults.append(f"key '{key}' is {list(tensors[key].shape)} instead of [{shape}]")
    return faults


def _agreed(tensors: dict[str, Tensor], parsed: dict[str, list]) -> dict[str, int]:
    """The size of each letter that has a majority; 0 where there is a draw."""
    votes: dict[str, Counter] = {}
    for key, dims in parsed.items():
        if tensors[key].ndim == len(dims):
            for (times, letter), size in zip(dims, tensors[key].shape):
                if letter and size % int(times or 1) == 0:
                    votes.setdefault(letter, Counter())[size // int(times or 1)] += 1
    best = {letter: count.most_common(2) for letter, count in votes.items()}
    return {letter: 0 if top[1:] and top[0][1] == top[1][1] else top[0][0]
            for letter, top in best.items()}


# ---- our side --------------------------------------------------------------------------------

def owned(model: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of the model holds: parameters, a tied one once, and kept buffers."""
    kept = model.state_dict().keys()
    return dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in kept}


def check_filled(model: nn.Module, tensors: dict[str, Tensor], where: Path | str,
                 given: Iterable[str] = ()) -> None:
    """BadInput unless `tensors` are all that the model owns outside the prefixes `given`."""
    mine = {n: p for n, p in owned(model).items() if not n.startswith(tuple(given))}
    faults = [f"{n} is missing" for n in mine if n not in tensors]
    faults += [f"{n} has no parameter" for n in tensors if n not in mine]
    faults += [f"{n} is {list(tensors[n].shape)} instead of {list(p.shape)}"
               for n, p in mine.items() if n in tensors and tensors[n].shape != p.shape]
    faults += [f"{n} holds NaN or infinity" for n in checkpoints.not_finite(tensors)]
    if faults:
        raise BadInput(f"{where}: does not fit the model of its settings: {_few(faults)}; "
                       "import the official files again, with their own sizes")


@torch.no_grad()
def fill(model: nn.Module, tensors: dict[str, Tensor], where: Path | str,
         given: Iterable[str] = ()) -> None:
    """Copies converted tensors into the model, every one of both sides accounted for.

    given: prefixes of the parts that the caller brought along, such as 'llm.'.
    """
    check_filled(model, tensors, where, given)
    for name, target in owned(model).items():
        if name in tensors:
            target.copy_(tensors[name])


def load(folder: Path | str, kind: type, build: Callable, given: Iterable[str] = (),
         more: dict[str, Tensor] | None = None, **parts: type) -> nn.Module:
    """The model of an imported folder. kind, parts: as in `restore`; build: settings -> model;
    given: as in `fill`; more: tensors that the folder lacks, by our names."""
    tensors, config = checkpoints.load_run(folder)
    model = build(restore(kind, config["settings"], **parts))
    fill(model, tensors | (more or {}), folder, given)
    return model.eval()


def restore(kind: type, values: dict, **parts: type):
    """A settings dataclass out of config.json, with the dataclasses that its fields name;
    `parts`: those of fields that name none, or another one."""
    hints = {name: next((t for t in (hint, *get_args(hint)) if is_dataclass(t)), None)
             for name, hint in get_type_hints(kind).items()} | parts
    try:
        return kind(**{name: restore(hints[name], value)
                       if isinstance(value, dict) and hints.get(name)
                       else tuple(value) if isinstance(value, list) else value
                       for name, value in values.items()})
    except (TypeError, AttributeError) as error:
        raise BadInput(f"config.json: settings of another version ({error}); "
                       "import the official files again") from error


def unknown_preset(name: str, system: str, known: Iterable[str]) -> BadInput:
    return BadInput(f"preset {name!r}: {system}'s published models are {', '.join(known)}")
