"""The files of a run's folder: safetensors for numbers, JSON for settings, never a pickle.

    model.safetensors   the trained parts only, under their plain parameter names
    config.json         settings, preset, stage, seed, versions
    state.safetensors   what resuming needs: step, trained parts, AdamW's moments, RNG
    log.jsonl           one line a training step (written by training.py)
    scores.json         the held-out scores before and after (written by stage.py)

Every file is written under a temporary name and renamed: a reader sees the old or the new one,
never half. No rename covers two files, so state.safetensors has its own copy of the trained
parts, and a run killed between two renames still resumes consistently.
"""

import contextlib
import json
import os
import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lion_min import BadInput, __version__, check_file, parallel

MODEL, CONFIG, STATE = "model.safetensors", "config.json", "state.safetensors"
SCORES = "scores.json"
MEND = "use weights of the same system, preset and stage"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what torch.optim.AdamW keeps for a parameter


# ---- files ---------------------------------------------------------------------------------
@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk, a read-only folder, a file where a folder should be into BadInput."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror or error}); "
                       "free some room or choose another output folder") from error


def write_atomic(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path` whole or not at all; BadInput if it cannot be written."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")  # same folder: a rename cannot cross disks
    with writing(path), contextlib.ExitStack() as at_exit:
        path.parent.mkdir(parents=True, exist_ok=True)
        at_exit.callback(temporary.unlink, missing_ok=True)  # nothing to remove once renamed
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may keep the rename and lose the bytes
        os.replace(temporary, path)


def save_tensors(tensors: dict[str, Tensor], path: Path | str,
                 metadata: dict[str, str] | None = None) -> None:
    """Writes named tensors as safetensors, atomically; BadInput on a full disk."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(flat, metadata))


def load_tensors(path: Path | str) -> dict[str, Tensor]:
    """Named tensors on the CPU, in the stored dtype (bundled weights may be float16)."""
    return _read(path)[0]


def _read(path: Path | str, names: Iterable[str] | None = None) -> tuple[dict, dict]:
    """(tensors, metadata); `names` limits the tensors that are read."""
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            wanted = file.keys() if names is None else names
            return {name: file.get_tensor(name) for name in wanted}, file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{path}: not a whole safetensors file ({error}); "
                       "copy it afresh or train its stage again") from error


def save_json(settings: dict, path: Path | str) -> None:
    """Writes a JSON object for humans (indented), atomically; paths become strings."""
    write_atomic(path, (json.dumps(settings, indent=2, default=str) + "\n").encode())


def load_json(path: Path | str) -> dict:
    """Reads a JSON object; BadInput if it is missing, malformed or not an object."""
    check_file(path)
    try:
        settings = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not readable as JSON ({error}); "
                       "mend it or train its stage again") from error
    if not isinstance(settings, dict):
        raise BadInput(f"{path}: holds a {type(settings).__name__}, not a JSON object; "
                       "mend it or train its stage again")
    return settings


# ---- a model's parameters ------------------------------------------------------------------
def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """CPU copies of the parameters with requires_grad, by name; a tied one once. No buffers."""
    return {name: _copy(parameter) for name, parameter in model.named_parameters()
            if parameter.requires_grad}


def _copy(tensor: Tensor) -> Tensor:
    """On the CPU, whole. Every process must ask for a tensor that they share; the first gets it."""
    tensor = parallel.whole(tensor.detach())
    return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format) \
        if parallel.is_first() else tensor.new_empty(0)


def load_into(module: nn.Module, tensors: dict[str, Tensor], where: Path | str,
              names: Iterable[str] | None = None) -> None:
    """Copies `tensors` into the parameters of `module`, converting dtype and device.

    Strict: `tensors` must hold exactly the parameters `names` (by default every parameter of
    the module), each of its shape; else BadInput lists what does not fit and nothing is copied.
    A file of trained parts goes into a whole model with
    `load_into(model, tensors, path, names=only_trainable(model, prefixes))`.
    """
    named = dict(module.named_parameters())
    copy_into(named if names is None else {n: named[n] for n in names}, tensors, where)


@torch.no_grad()
def copy_into(parameters: dict[str, Tensor], tensors: dict[str, Tensor], where: Path | str,
              mend: str = MEND) -> None:
    """Copies named tensors into parameters or buffers; BadInput as `check_fits`."""
    check_fits(parameters, tensors, where, mend)
    for name, parameter in parameters.items():
        parameter.copy_(parallel.part_of(tensors[name], parameter))


def check_fits(parameters: dict[str, Tensor], tensors: dict[str, Tensor], where: Path | str,
               mend: str = MEND) -> None:
    """BadInput, with its mend, unless names and shapes of both sides are the same and all numbers
    finite."""
    faults = {"missing": [name for name in parameters if name not in tensors],
              "unexpected": [name for name in tensors if name not in parameters],
              "wrong shape": [f"{name} {list(tensors[name].shape)} instead of {list(p.shape)}"
                              for name, p in parameters.items()
                              if name in tensors and tensors[name].shape != p.shape],
              "not finite": not_finite(tensors)}
    if listed := "; ".join(f"{kind}: {first(names)}" for kind, names in faults.items() if names):
        raise BadInput(f"{where}: does not fit this model ({listed}); {mend}")


def not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity, as a damaged or diverged run's do."""
    return [name for name, t in tensors.items() if t.is_floating_point() and t.numel()
            and not t.is_meta and not torch.stack(t.aminmax()).isfinite().all()]


def first(names: list[str], count: int = 3) -> str:
    """'a, b, c and 2 more'."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if names[count:] else "")


# ---- a run: what inference needs -----------------------------------------------------------
def save_run(folder: Path | str, tensors: dict[str, Tensor], config: dict) -> None:
    """Writes model.safetensors and config.json, in the first process; the model's header repeats
    the settings."""
    if not parallel.is_first():
        return
    config = as_json(config | {"versions": versions()})
    save_tensors(tensors, Path(folder) / MODEL, {"lion_min": json.dumps(config)})
    save_json(config, Path(folder) / CONFIG)


def save_scores(folder: Path | str, steps: int, before: dict, after: dict) -> None:
    """Writes scores.json: what the held-out scenes said before and after a run of `steps` steps."""
    save_json({"steps": steps, "before": before, "after": after}, Path(folder) / SCORES)


def load_run(folder: Path | str) -> tuple[dict[str, Tensor], dict]:
    """(trained tensors, settings); BadInput if the two files belong to different runs.

    As when a new run in an old folder is killed between the renames. More keys may be added.
    """
    folder = Path(folder)
    config = load_json(folder / CONFIG)
    tensors, metadata = _read(folder / MODEL)
    written = json.loads(metadata.get("lion_min", "{}"))
    if changed := differences(written, {key: config.get(key) for key in written}):
        raise BadInput(f"{folder / CONFIG}: does not belong to the {MODEL} beside it "
                       f"({changed[0]}); resume that run or train it again")
    return tensors, config


def versions() -> dict[str, str]:
    """What figures depend on besides the settings."""
    return {"lion_min": __version__, "python": platform.python_version(),
            "torch": torch.__version__, "transformers": version("transformers")}


def as_json(settings: dict) -> dict:
    """The settings as a JSON file gives them back: tuples are lists, paths are strings."""
    return json.loads(json.dumps(settings, default=str))


def differences(old: dict, new: dict) -> list[str]:
    """Settings that differ, as 'plan.lr is 0.1, was 0.2'; library versions may differ."""
    old, new = _flat(old), _flat(new)
    return [f"{key} is {new.get(key, 'unset')}, was {old.get(key, 'unset')}"
            for key in old | new
            if old.get(key, ...) != new.get(key, ...) and not key.startswith("versions.")]


def _flat(settings: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in settings.items():
        key = prefix + key
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat


def check_writable(folder: Path | str) -> None:
    """BadInput where a folder can neither be written nor made; nothing is created."""
    folder = Path(folder).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise BadInput(f"{folder}: {there} is not a folder; give another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"{folder}: {there} cannot be written; give another --out")


# ---- a run: what resuming needs ------------------------------------------------------------
def save_state(folder: Path | str, optimizer: torch.optim.Optimizer, step: int,
               extra: dict) -> None:
    """Writes state.safetensors after `step` finished steps, in the first process; all call it.

    extra: any JSON object. The optimizer must know its parameters' names: groups of (name,
    parameter) pairs.
    """
    named = _named(optimizer)
    tensors = {f"parameter/{name}": _copy(parameter) for name, parameter in named.items()}
    for name, parameter in named.items():
        tensors |= {f"{kind}/{name}": _copy(value)
                    for kind, value in optimizer.state.get(parameter, {}).items()}
    if not parallel.is_first():
        return
    tensors["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors |= {f"rng/{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    save_tensors(tensors, Path(folder) / STATE,
                 {"step": str(step), "extra": json.dumps(extra, default=str)})


def read_state(folder: Path | str) -> tuple[int, dict]:
    """(finished steps, extra) of a saved state, without reading its tensors."""
    path = Path(folder) / STATE
    metadata = _read(path, names=())[1]
    try:
        return int(metadata["step"]), json.loads(metadata["extra"])
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path}: not a training state of lion_min; train without --resume, "
                       "or point --out to the run's folder") from error


def check_resumable(folder: Path | str) -> None:
    """BadInput where a folder holds no training state that --resume could go on from."""
    if not (Path(folder) / STATE).exists():
        raise BadInput(f"--resume: {folder} holds no {STATE} to go on from; leave --resume out, or "
                       "give the --out of the run")
    read_state(folder)


def load_state(folder: Path | str, optimizer: torch.optim.Optimizer) -> tuple[int, dict]:
    """Restores parameters, moments and RNG into `optimizer` and torch; (step, extra)."""
    path, (step, extra) = Path(folder) / STATE, read_state(folder)
    kinds = {kind: {} for kind in ("parameter", "rng", *MOMENTS)}
    for key, tensor in load_tensors(path).items():
        kind, _, name = key.partition("/")
        kinds[kind][name] = tensor
    named, fused = _named(optimizer), optimizer.defaults.get("fused")
    copy_into(named, kinds["parameter"], path)
    for name, parameter in named.items():
        optimizer.state[parameter] = {  # plain AdamW counts its steps on the CPU
            kind: kinds[kind][name].to("cpu" if not fused else parameter.device)
            if kind == "step" else
            parallel.part_of(kinds[kind][name].to(parameter.device), parameter)
            for kind in MOMENTS if name in kinds[kind]}
    torch.set_rng_state(kinds["rng"].pop("cpu"))
    for device, rng in kinds["rng"].items():
        if int(device) < torch.cuda.device_count():
            torch.cuda.set_rng_state(rng, int(device))
    return step, extra


def _named(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {name: parameter for group in optimizer.param_groups
            for name, parameter in zip(group["param_names"], group["params"], strict=True)}
