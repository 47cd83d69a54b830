"""A published checkpoint's keys against a table: every one known, present and of its shape.

A table is a text. A row says an official key, our key and the shape in letters:

    layer.[Ld].attention.{q,k}_proj.*    layers.[Ld].{query,key}.*    d 3w

[Ld] numbers the L layers of a part that is d wide, [Ld:2] every second one; the braces of a row
are read in step; `.*` stands for a weight and a bias as long as its rows. '3w' is three times w.
One letter is one size throughout a checkpoint, or a number of layers: the size that most tensors
agree on is taken, so that the one that disagrees is named. The settings of a model are made of
these sizes alone. A later row for the same key replaces the earlier one.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import is_dataclass
from pathlib import Path
from statistics import multimode
from typing import NamedTuple, get_args, get_type_hints

from torch import Tensor, nn

from lion_min import BadInput, check_file, checkpoints

PICKLES = (".pth", ".pt", ".bin")

Sizes = dict[str, int]                     # of each letter
LAYERS = r"\[(\w)(\w)"                    # of a table: their number's letter, their width's
MEND = "import the official files again, with their own sizes"


class Part(NamedTuple):
    """A part that a checkpoint may lack; then it is taken for the published one of its width."""
    pattern: str                           # of its official keys
    table: str
    name: str = ""
    width: str = ""                        # the letter of its width; "": there are models without


# ---- tables ------------------------------------------------------------------------------------

def read(tensors: dict[str, Tensor], table: str, what: str, published: Collection[Sizes],
         parts: Iterable[Part] = ()) -> tuple[dict[str, Tensor], Sizes]:
    """(official tensors under our names, the sizes of the letters of the table and the parts').

    published: the sizes of whole models; a part as wide as one of theirs must be as deep, so that
    a missing end is missed. BadInput names the keys that are unknown, missing, or of a shape the
    others do not have.
    """
    absent = []
    for part in parts:
        if any(re.fullmatch(part.pattern, key) for key in tensors):
            table += part.table
        elif part.width:
            absent.append(part)
    counts = _count_layers(tensors, table)
    sizes = _vote(tensors, expand(table, counts)) | counts
    for letter, width in re.findall(LAYERS, table):
        depths = [n[letter] for n in published if letter in n and n[width] == sizes.get(width)]
        sizes[letter] = max(sizes[letter], *depths, 1)
    rows = expand(table, sizes)
    unknown = [f"unknown key '{key}'" for key in sorted(tensors.keys() - rows.keys())]
    missing = [f"key '{key}' is missing" for key in rows if key not in tensors]
    shapes = {} if unknown or missing else {key: _shape(row[1], sizes) for key, row in rows.items()}
    wrong = [f"key '{key}' is {list(tensors[key].shape)} instead of [{shape}]"
             for key, shape in shapes.items() if str(list(tensors[key].shape)) != f"[{shape}]"]
    if faults := [checkpoints.first(kind) for kind in (unknown, missing, wrong) if kind]:
        raise BadInput(f"not a whole {what} checkpoint: {'; '.join(faults)}; "
                       "take all of the official files, and no others")
    for part in absent:
        widths = sorted({n[part.width] for n in published})
        if sizes[part.width] not in widths:
            raise BadInput(f"the {part.name} is {sizes[part.width]} wide, not "
                           f"{' or '.join(map(str, widths))} as published; give its file, too")
    alike = [n for n in published if all(n[p.width] == sizes[p.width] for p in absent)]
    sizes = alike[0] | sizes if absent else sizes
    return {new: tensors[old] for old, (new, _) in rows.items()}, sizes


def expand(table: str, counts: Sizes) -> dict[str, tuple[str, str]]:
    """{official key: (our key, its shape)} of a table with these numbers of layers."""
    rows = {}
    for line in filter(str.strip, table.splitlines()):
        old, new, shape = re.split("  +", line.strip())
        ends = {"weight": shape, "bias": shape.split()[0]} if old.endswith(".*") else {"": shape}
        for end, letters in ends.items():
            for keys in _spell(f"{old} {new}".replace("*", end), counts):
                old_key, new_key = keys.split()
                rows[old_key] = new_key, letters
    return rows


def _spell(keys: str, counts: Sizes) -> Iterator[str]:
    """'official ours' for each layer and each of the words in braces."""
    if layers := re.search(r"\[(\w)\w:?(\d*)\]", keys):
        for i in range(0, counts[layers[1]], int(layers[2] or 1)):
            yield from _spell(keys.replace(layers[0], str(i)), counts)
        return
    choices = [group.split(",") for group in re.findall(r"\{(.*?)\}", keys)]
    for words in zip(*choices) if choices else [()]:
        yield re.sub(r"\{.*?\}", "{}", keys).format(*words)


def same(rows: str, old: str, new: str) -> str:
    """The table of rows 'key  shape' whose two keys differ in their beginning alone."""
    return re.sub(r"^(\S+)", rf"{old}\1  {new}\1", rows, flags=re.MULTILINE)


def _count_layers(tensors: Iterable[str], table: str) -> Sizes:
    """1 + the largest number of a layer, so that a gap is missed."""
    counts: Sizes = {}
    for prefix, letter in re.findall(r"^(\S+?)\[(\w)", table, re.MULTILINE):
        numbers = (re.match(re.escape(prefix) + r"(\d+)\.", key) for key in tensors)
        counts[letter] = max([int(n[1]) + 1 for n in numbers if n] + [counts.get(letter, 1)])
    return counts


def _dims(shape: str) -> list[tuple[int, str]]:
    """'3v 4' -> [(3, 'v'), (4, '')]."""
    dims = (re.fullmatch(r"(\d*)([a-zA-Z]?)", dim) for dim in shape.split())
    return [(int(dim[1] or 1), dim[2]) for dim in dims]


def _vote(tensors: dict[str, Tensor], rows: dict[str, tuple[str, str]]) -> Sizes:
    """The size that most tensors give to each letter; 0 for a draw."""
    votes: dict[str, list[int]] = defaultdict(list)
    for key, dims in ((key, _dims(shape)) for key, (_, shape) in rows.items() if key in tensors):
        if tensors[key].ndim == len(dims):
            for (times, letter), size in zip(dims, tensors[key].shape):
                if letter and size % times == 0:
                    votes[letter].append(size // times)
    best = {letter: multimode(sizes) for letter, sizes in votes.items()}
    return {letter: sizes[0] if len(sizes) == 1 else 0 for letter, sizes in best.items()}


def _shape(letters: str, sizes: Sizes) -> str:
    """'3v 4' -> '24, 4'; a size on which no two tensors agree is '?'."""
    return ", ".join(str(times * (sizes.get(letter, 0) if letter else 1) or "?")
                     for times, letter in _dims(letters))


def without(tensors: dict[str, Tensor], ignored: str) -> dict[str, Tensor]:
    """The tensors whose whole keys the pattern does not match."""
    return {key: tensor for key, tensor in tensors.items() if not re.fullmatch(ignored, key)}


def side(patches: int, key: str) -> int:
    """Patches along one side of the square that a table of positions, `key`, is made for."""
    if patches != math.isqrt(max(patches, 0)) ** 2:
        raise BadInput(f"key '{key}' is for {patches} patches, which are no square; "
                       "take the official file")
    return math.isqrt(patches)


def settings_by_name(system: str, published: dict[str, Sizes], settings: Callable, name: str):
    """A published model's settings without any file. BadInput for another name."""
    if name not in published:
        raise BadInput(f"preset {name!r}: {system}'s published models are {', '.join(published)}")
    return settings(published[name])


# ---- our side --------------------------------------------------------------------------------

def owned(model: nn.Module, prefixes: Iterable[str] = ()) -> dict[str, Tensor]:
    """Parameters, a tied one once, and saved buffers, less those behind the prefixes."""
    saved = model.state_dict().keys()
    tensors = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if n in saved}
    return {name: t for name, t in tensors.items() if not name.startswith(tuple(prefixes))}


def check_filled(model: nn.Module, tensors: dict[str, Tensor], path: Path | str,
                 prefixes: Iterable[str] = ()) -> None:
    """BadInput unless `tensors` are all that the model owns outside the prefixes."""
    checkpoints.check_fits(owned(model, prefixes), tensors, path, MEND)


def fill(model: nn.Module, tensors: dict[str, Tensor], path: Path | str,
         prefixes: Iterable[str] = ()) -> None:
    """Copies converted tensors into the model, every one of both sides accounted for.

    prefixes: of the parts that the caller brought along, such as 'llm.'.
    """
    checkpoints.copy_into(owned(model, prefixes), tensors, path, MEND)


def lacks(folder: Path | str, prefixes: Iterable[str]) -> list[bool]:
    """Of each part, by the beginning of its names, whether an imported folder has nothing of it."""
    tensors, _ = checkpoints.load_run(folder)
    return [not any(name.startswith(prefix) for name in tensors) for prefix in prefixes]


def load(folder: Path | str, kind: type, build: Callable, prefixes: Iterable[str] = (),
         more: dict[str, Tensor] | None = None, **parts: type) -> nn.Module:
    """The model of an imported folder. kind, parts: as in `restore`; build: settings -> model;
    prefixes: as in `fill`; more: tensors that the folder lacks, by our names."""
    tensors, config = checkpoints.load_run(folder)
    model = build(restore(kind, config["settings"], **parts))
    fill(model, tensors | (more or {}), folder, prefixes)
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


def check_file_kind(path: Path | str) -> None:
    """BadInput, before anything is read, for what cannot be an official file or folder."""
    path = Path(path)
    if path.is_dir():
        return
    if path.suffix not in (*PICKLES, ".safetensors"):
        raise BadInput(f"{path}: neither a {', '.join(PICKLES)} or .safetensors file nor a folder "
                       "of them; give the official file")
    check_file(path)
