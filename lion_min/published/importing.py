"""Published checkpoints into folders of ours.

    python -m lion_min.checkpoints import lion LION-FlanT5-XL.pth --out runs/lion-xl

    official files -> read_file -> one dict of tensors -> the system's `convert`
        -> (our tensors, settings), checked against the model on the meta device, which
           allocates nothing -> model.safetensors + config.json, which its `load` reads

A FILE is a .pth, .pt or .bin (opened with weights_only=True: tensors and plain containers, no
code), a .safetensors, or a Hugging Face folder, whole or in shards with their index. What a
system needs besides its own file may stand beside it: LION's eva_vit_g.pth and FlanT5; RegionCLIP
for PVIT; CLIP and LLaMA for LMEye.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from lion_min import BadInput, checkpoints, launch
from lion_min.published import keys

WHOLE = ("model.safetensors", "pytorch_model.bin")   # in a Hugging Face folder; + .index.json
WRAPPERS = ("model", "net", "state_dict")            # LION and RegionCLIP; LMEye; others


# ---- official files ----------------------------------------------------------------------------

def read_file(path: Path | str) -> dict[str, Tensor]:
    """The named tensors of an official file or folder. BadInput for anything else."""
    path = Path(path)
    keys.check_file_kind(path)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".safetensors":
        return checkpoints.load_tensors(path)
    return _unwrapped(_pickled(path), path)


def _pickled(path: Path) -> object:
    try:                                   # mmap: a file of 13 GB is read piece by piece
        return torch.load(path, map_location="cpu", weights_only=True,
                          mmap=zipfile.is_zipfile(path))
    except Exception as error:             # what a damaged or hostile file raises is open-ended
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"{path}: not a whole file of plain tensors ({reason:.120}); take the "
                       "official file, or one saved from a state_dict") from error


def _unwrapped(value: object, path: Path) -> dict[str, Tensor]:
    """The weights of a training script's file, without its optimizer and counters."""
    if isinstance(value, dict):
        value = next((value[w] for w in WRAPPERS if isinstance(value.get(w), dict)), value)
    if not isinstance(value, dict) or not value:
        raise BadInput(f"{path}: holds a {type(value).__name__} without named tensors; "
                       "give a file saved from a state_dict")
    for key, tensor in value.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise BadInput(f"{path}: key {str(key)!r} holds a {type(tensor).__name__}, no tensor; "
                           "give a file saved from a state_dict")
    return {key: tensor.detach() for key, tensor in value.items()}


def _folder(folder: Path) -> dict[str, Tensor]:
    for name in WHOLE:
        if (folder / f"{name}.index.json").is_file():
            return _sharded(folder / f"{name}.index.json")
        if (folder / name).is_file():
            return read_file(folder / name)
    raise BadInput(f"{folder}: no {' or '.join(WHOLE)} in it, whole or with its .index.json; "
                   "give the official folder, or the files by name")


def _sharded(index: Path) -> dict[str, Tensor]:
    """Every shard that the index names, with exactly the keys it promises."""
    files = checkpoints.load_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise BadInput(f"{index}: has no weight_map; copy it afresh")
    for key, name in files.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise BadInput(f"{index}: key '{key}' lies in {name!r:.60}, which is no file beside "
                           "it; copy the index afresh")
    tensors = read_files([index.parent / name for name in sorted(set(files.values()))])
    for key in sorted(files.keys() ^ tensors.keys()):
        fault = f"is missing in {files[key]}" if key in files else "is not in the index"
        raise BadInput(f"{index}: key '{key}' {fault}; copy the folder afresh")
    return tensors


def read_files(paths: list[Path]) -> dict[str, Tensor]:
    """The tensors of several files; BadInput when two of them hold the same key."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        more = read_file(path)
        for key in sorted(tensors.keys() & more.keys()):
            raise BadInput(f"{path}: key '{key}' was in an earlier file, too; give each file once")
        tensors |= more
    return tensors


# ---- ours ----------------------------------------------------------------------------------------

def import_checkpoint(system: str, files: list[Path], out: Path, **options) -> list[str]:
    """Official files -> a folder that the system's `load` reads, and the lines for the user.

    options: the system's OPTIONS and what its `convert` takes besides. BadInput names every key
    that does not fit; then nothing is written.
    """
    published = launch.published(system)
    if out.exists() and any(out.iterdir()):
        raise BadInput(f"{out}: is not empty; import into another folder, or remove it first")
    tensors = read_files(files)
    ours, settings = published.convert(tensors, **options)
    absent = [p for p in published.FROZEN if not any(name.startswith(p) for name in ours)]
    keys.check_filled(on_meta(published, settings), ours, ", ".join(map(str, files)), absent)
    preset = preset_of(published, settings)
    named = {k: v for k, v in options.items() if k != "base"}
    checkpoints.save_run(out, ours, {
        "system": system, "stage": published.STAGE, "preset": preset, "options": named,
        "imported": [path.name for path in files], "settings": asdict(settings)})
    return [*report(tensors, published.IGNORED, absent),
            f"wrote {out}: {len(ours)} tensors, preset {preset}"]


def preset_of(published: ModuleType, settings) -> str:
    """The published model of the system that has this width."""
    return next((name for name, n in published.SIZES.items()
                 if n["d"] == settings.language.width), "own")


def on_meta(published: ModuleType, settings) -> nn.Module:
    """The system's model of these settings, every tensor a shape alone."""
    try:
        with torch.device("meta"):
            return published.build(settings)
    except (ValueError, ZeroDivisionError) as error:   # such as heads that do not divide a width
        raise BadInput(f"no model has these sizes ({error}); give what no shape tells, --set "
                       + " ".join(f"{k}=N" for k in published.OPTIONS)) from error


def report(tensors: dict[str, Tensor], ignored: str, absent: list[str]) -> list[str]:
    """What was left out and what the folder lacks, a line each."""
    left = Counter(k.split(".")[0] for k in tensors if re.fullmatch(ignored, k))
    lines = [f"left out: {count} of {name}, which the model does not use"
             for name, count in left.items()]
    return lines + [f"not in these files: {part.rstrip('.')}; give it to published.load"
                    for part in absent]
