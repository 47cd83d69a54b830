"""A published checkpoint's keys against a table: every one known, present and of its shape.

A table says each key's shape in letters: 'd q' is a matrix of two sizes, '3v v' has three times as
many rows as columns, '2 d' two rows. One letter is one size throughout a checkpoint; the size
that most of its tensors agree on is taken, so that the one that disagrees is named.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from lion_min import BadInput

Shapes = dict[str, str]  # official key -> its shape in letters

# Hugging Face's LLaMA, which three of the four systems stand on; the place is model.layers.N.
_LLAMA = {"self_attn.q_proj": "d d", "self_attn.k_proj": "d d", "self_attn.v_proj": "d d",
          "self_attn.o_proj": "d d", "mlp.gate_proj": "f d", "mlp.up_proj": "f d",
          "mlp.down_proj": "d f", "input_layernorm": "d", "post_attention_layernorm": "d"}
ROTARY = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"  # old files; it is computed
LLAMA_FFN = {4096: 11008, 5120: 13824}                           # 7B and 13B, by width
LLAMA_LAYERS = {4096: 32, 5120: 40}
LLAMA_HEAD = 128                                                 # width of a head, in both


def llama_shapes(tensors: dict[str, Tensor], prefix: str = "") -> Shapes:
    """The table of the LLaMA behind `prefix`; V words, d width, f inner width."""
    known = LLAMA_LAYERS.get(rows(tensors, f"{prefix}model.norm.weight"), 1)
    layers = count_layers(tensors, f"{prefix}model.layers.", known)
    table = {"model.embed_tokens.weight": "V d", "model.norm.weight": "d", "lm_head.weight": "V d"}
    table |= {f"model.layers.{i}.{part}.weight": shape for i in range(layers)
              for part, shape in _LLAMA.items()}
    return {prefix + name: shape for name, shape in table.items()}


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


def account(tensors: dict[str, Tensor], shapes: Shapes, what: str) -> None:
    """BadInput names the keys that are unknown, missing, or of a shape the others do not have."""
    unknown = [f"unknown key '{key}'" for key in sorted(tensors.keys() - shapes.keys())]
    missing = [f"key '{key}' is missing" for key in shapes if key not in tensors]
    wrong = [] if unknown or missing else _misshapen(tensors, shapes)
    if told := [_few(kind) for kind in (unknown, missing, wrong) if kind]:
        raise BadInput(f"not a whole {what} checkpoint: {'; '.join(told)}; "
                       "take all of the official files, and no others")


def _few(faults: list[str]) -> str:
    return ", ".join(faults[:3]) + (f" and {len(faults) - 3} more" if faults[3:] else "")


def _misshapen(tensors: dict[str, Tensor], shapes: Shapes) -> list[str]:
    parsed = {key: [re.fullmatch(r"(\d*)([a-zA-Z]?)", dim).groups() for dim in shape.split()]
              for key, shape in shapes.items()}
    sizes, faults = _agreed(tensors, parsed), []
    for key, dims in parsed.items():
        expected = [int(times or 1) * (sizes.get(letter, 0) if letter else 1)
                    for times, letter in dims]
        if list(tensors[key].shape) != expected:
            told = ", ".join(str(size or "?") for size in expected)  # ?: no two of them agree
            faults.append(f"key '{key}' is {list(tensors[key].shape)} instead of [{told}]")
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
    faults += [f"{n} has no place" for n in tensors if n not in mine]
    faults += [f"{n} is {list(tensors[n].shape)} instead of {list(p.shape)}"
               for n, p in mine.items() if n in tensors and tensors[n].shape != p.shape]
    if faults:
        raise BadInput(f"{where}: does not fit the model of its settings: {_few(faults)}; "
                       "import the official files again, with their own sizes")


@torch.no_grad()
def fill(model: nn.Module, tensors: dict[str, Tensor], where: Path | str,
         given: Iterable[str] = ()) -> None:
    """Copies an imported folder's tensors into the model, every one of both sides accounted for.

    given: prefixes of the parts that the caller brought along, such as 'llm.'.
    """
    check_filled(model, tensors, where, given)
    for name, target in owned(model).items():
        if name in tensors:
            target.copy_(tensors[name])


def restore(kind: type, found: dict, **parts: type):
    """A settings dataclass out of config.json; `parts`: the dataclasses among its fields."""
    try:
        return kind(**{name: restore(parts[name], value) if value is not None and name in parts
                       else tuple(value) if isinstance(value, list) else value
                       for name, value in found.items()})
    except (TypeError, AttributeError) as error:
        raise BadInput(f"config.json: settings of another version ({error}); "
                       "import the official files again") from error
