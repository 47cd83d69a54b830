"""Files of a run: whole or absent, strict, pickle-free."""

import ast
import errno
import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from lion_min import BadInput, checkpoints

ROOT = Path(__file__).resolve().parents[1]
CONFIG = {"system": "lion", "stage": 1, "seed": 3, "settings": {"width": 4, "depths": (1, 2)}}


def tensors(fill: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a.weight": torch.full((2, 3), fill), "a.bias": torch.full((2,), fill)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tensors_round_trip_in_their_stored_dtype(tmp_path):
    """A non-contiguous, scalar or half-precision tensor came back changed or not at all."""
    saved = {"t": torch.arange(6.0).reshape(2, 3).t(), "s": torch.tensor(2.5),
             "h": torch.tensor([0.1], dtype=torch.float16), "r": torch.get_rng_state()}
    checkpoints.save_tensors(saved, tmp_path / "deep" / "x.safetensors", {"k": "v"})
    loaded = checkpoints.load_tensors(tmp_path / "deep" / "x.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(loaded[k].dtype == v.dtype and torch.equal(loaded[k], v) for k, v in saved.items())
    assert os.listdir(tmp_path / "deep") == ["x.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "folder", "empty", "half", "short", "text",
                                    "pickle"])
def test_a_bad_weight_file_is_told_in_one_line(tmp_path, damage):
    """A cut-off download or a .pt file ended in a traceback, or was unpickled."""
    path = tmp_path / "model.safetensors"
    checkpoints.save_tensors(tensors(), path)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"empty": b"", "half": whole[:-9], "short": whole[:5],
                          "text": b"<html>404</html>" * 9, "pickle": pickle.dumps(1) * 9}[damage])
    with pytest.raises(BadInput, match="model.safetensors: (no such|is a folder|the file is empty|not a whole).*; ") as told:
        checkpoints.load_tensors(path)
    assert "\n" not in str(told.value)


def test_a_bad_settings_file_is_told(tmp_path):
    """config.json cut in half, or holding a list, failed far from its cause."""
    for content in (None, b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        if content is not None:
            (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(BadInput, match="config.json"):
            checkpoints.load_json(tmp_path / "config.json")


def test_trainable_state_holds_exactly_what_trains():
    """Frozen weights or buffers swelled the file; a tied head made safetensors refuse it."""
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3), "n": nn.BatchNorm1d(3)})
    model["b"].weight = model["a"].weight
    model["n"].requires_grad_(False)
    state = checkpoints.trainable_state(model)
    assert list(state) == ["a.weight", "a.bias", "b.bias"]
    before = state["a.bias"].clone()
    with torch.no_grad():
        model["a"].bias += 1
    assert torch.equal(state["a.bias"], before), "a view of the live weights, not a copy"


@pytest.mark.parametrize("change, told", [
    ({"a.bias": None}, "missing: a.bias"), ({"z": torch.ones(1)}, "unexpected: z"),
    ({"a.weight": torch.ones(3, 2)}, r"wrong shape: a.weight \[3, 2\] instead of \[2, 3\]"),
    ({f"z{i}": torch.ones(1) for i in range(9)}, "z0, z1, z2 and 6 more")])
def test_load_into_names_what_does_not_fit_and_copies_nothing(change, told):
    """strict=False: weights of another model were taken in part and in silence."""
    module = nn.ModuleDict({"a": nn.Linear(3, 2)})
    before = checkpoints.trainable_state(module)
    given = {k: v for k, v in (tensors() | change).items() if v is not None}
    with pytest.raises(BadInput, match=f"w.safetensors: .*{told}"):
        checkpoints.load_into(module, given, "w.safetensors")
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())


def test_a_run_round_trips_and_takes_notes(tmp_path, monkeypatch):
    """Settings did not survive the file; a score noted in config.json made it unreadable. Killed
    between two renames, stage 2's weights were read with stage 1's settings."""
    checkpoints.save_run(tmp_path, tensors(), CONFIG)
    config = checkpoints.load_json(tmp_path / "config.json")
    checkpoints.save_json(config | {"scores": {"rec": 0.9}}, tmp_path / "config.json")
    loaded, config = checkpoints.load_run(tmp_path)
    assert torch.equal(loaded["a.weight"], tensors()["a.weight"])
    assert config["settings"] == {"width": 4, "depths": [1, 2]} and config["seed"] == 3
    assert {"torch", "transformers", "lion_min", "python"} <= config["versions"].keys()
    monkeypatch.setattr(checkpoints.runs, "save_json", lambda *_: None)  # the kill
    checkpoints.save_run(tmp_path, tensors(2), CONFIG | {"stage": 2})
    with pytest.raises(BadInput, match="config.json: does not belong.*stage is 1, was 2"):
        checkpoints.load_run(tmp_path)


def test_a_full_disk_leaves_the_earlier_files(tmp_path):
    """A write cut off by the disk's end left half a model, or lost the earlier one; --out pointing
    into a file ended in NotADirectoryError."""
    checkpoints.save_run(tmp_path, tensors(), CONFIG)
    before = files(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # a real write fails half-way
    try:
        with pytest.raises(BadInput, match="model.safetensors: cannot be written.*free some room"):
            checkpoints.save_run(tmp_path, {"a": torch.ones(9999)}, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == before
    with pytest.raises(BadInput, match="cannot be written"):
        checkpoints.save_run(tmp_path / "config.json" / "run", tensors(), CONFIG)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_system_call_leaves_the_earlier_file(tmp_path, monkeypatch, call):
    """A late error (quota at fsync, a busy target) left the temporary file behind."""
    checkpoints.save_json({"old": 1}, tmp_path / "config.json")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(BadInput, match="No space left"):
        checkpoints.save_json({"new": 1}, tmp_path / "config.json")
    assert files(tmp_path).keys() == {"config.json"}
    assert json.loads((tmp_path / "config.json").read_text()) == {"old": 1}


PICKLES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
LOADERS = {"torch.load", "torch.save", "torch.hub.load", "torch.hub.load_state_dict_from_url"}


def pickling(source: str) -> list[str]:
    """Imports and names in a Python source that could read or write a pickle."""
    names = []
    for node in ast.walk(ast.parse(source)):
        module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names += [module + alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names.append(ast.unparse(node))
    return [n for n in names if n in LOADERS or n.split(".")[0] in PICKLES]


def test_no_pickle_anywhere():
    """torch.load of a downloaded checkpoint runs whatever code its author put inside."""
    assert len(pickling("import pickle\nfrom torch import load\ntorch.load(x)\nimport dill.x")) == 4
    sources = [*(ROOT / "lion_min").rglob("*.py"), *ROOT.glob("*.py")]
    assert ROOT / "lion_min" / "checkpoints" / "__init__.py" in sources
    found = {p.name: pickling(p.read_text()) for p in sources}
    # importing.py opens published .pth files, weights_only=True: test_import_refusals.py checks that.
    # pickles.py opens RefCOCO's files and refuses all but plain data: test_pickles.py.
    assert {name: {use.split(".")[0] for use in uses} for name, uses in found.items() if uses} == {
        "importing.py": {"torch"}, "pickles.py": {"pickle"}}
