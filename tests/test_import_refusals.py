"""Published checkpoints that are refused: in one line that names the key, nothing written."""

import ast
import json
from pathlib import Path

import official_files as official
import pytest
import torch
import torch.nn.functional as F
from official_files import SYSTEMS, published, run, values  # noqa: F401: a fixture
from safetensors.torch import save_file

from lion_min import BadInput, checkpoints

from lion_min.checkpoints import __main__ as checkpoints_main
from lion_min.published import importing

KEYS = {"lion": ["ln_vision.weight", "soft_prompt_hint", "visual_encoder.blocks.17.attn.v_bias",
                 "t5_model.decoder.block.1.layer.2.adapter.adapters.1.down_proj.bias",
                 "Qformer.bert.encoder.layer.3.output_query.LayerNorm.weight",
                 "t5_model.lm_head.weight"],
        "pvit": ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.bbox_fc.bias",
                 "backbone.bn2.running_var", "backbone.layer4.0.downsample.0.weight"],
        "lmeye": ["embedding_imgd", "llm2clip.bias", "imgdLinear.bias", "lm_head.weight",
                  "text_model.encoder.layers.1.mlp.fc1.bias"],
        "lyrics": ["language_projection.weight", "vision_model.post_layernorm.bias",
                   "qformer.encoder.layer.0.detection_crossattention.attention.key.weight",
                   "qformer.encoder.layer.1.intermediate_query.dense.bias",
                   "language_model.model.layers.1.mlp.down_proj.weight"]}


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "renamed"])
@pytest.mark.parametrize("system, key", [(s, k) for s in SYSTEMS for k in KEYS[s]])
def test_a_wrong_key_is_named(values, system, key, fault):
    """The official loaders' silence: strict=False, substring names, unexpected keys dropped."""
    tensors = dict(getattr(official, f"{system}_tensors")(values[system]))
    told = key
    if fault in ("missing", "renamed"):
        tensor = tensors.pop(key)
    if fault in ("extra", "renamed"):
        told = key[:-1] + "_"
        tensors[told] = tensor if fault == "renamed" else torch.zeros(3)
    if fault == "shape":
        tensors[key] = F.pad(tensors[key], (0, 1))
    with pytest.raises(BadInput) as refused:
        published(system).convert(tensors)
    assert f"'{told}'" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_refusal_is_one_line_and_writes_nothing(values, system, tmp_path, capsys):
    """A traceback, a wrong exit code, or half a folder that the next command takes for a whole."""
    tensors = dict(getattr(official, f"{system}_tensors")(values[system]))
    tensors.pop(KEYS[system][0])
    torch.save(tensors, tmp_path / "bad.pth")
    assert run(system, [str(tmp_path / "bad.pth")], tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"'{KEYS[system][0]}'" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change, told", [
    ({"model.norm.weight": None}, "base lacks the delta's key 'model.norm.weight'"),
    ({"model.norm.weight": torch.ones(31)}, "'model.norm.weight' is .32. in the delta"),
    ({"model.extra": torch.ones(1)}, "delta lacks LLaMA's key 'model.extra'")])
def test_a_wrong_base_is_refused(values, tmp_path, change, told):
    """A delta taken for whole where the base has a gap: noise that loads without a word."""
    official.write_pvit(tmp_path, values["pvit"])
    base = importing.read_file(tmp_path / "llama.bin") | change
    delta = importing.read_file(tmp_path / "pvit")
    with pytest.raises(BadInput, match=told):
        published("pvit").add_base(delta, {k: v for k, v in base.items() if v is not None})


def test_a_later_lmeye_is_refused(values):
    """The released FlanT5 checkpoint, whose content nobody knows, taken for the paper's."""
    later = {f"instruction_{k}": v for k, v in official.under(values["lmeye"],
                                                              "weights_q5/").items()}
    with pytest.raises(BadInput, match="paper era.*unknown key 'instruction_"):
        published("lmeye").convert(later)


@pytest.mark.parametrize("system", ["lmeye", "lyrics"])
def test_heads_that_cannot_be_are_told(values, system, tmp_path, capsys):
    """A model of unpublished sizes without its numbers of heads: a traceback from deep inside."""
    words = getattr(official, f"write_{system}")(tmp_path, values[system])
    assert checkpoints_main.main(["import", system, *words, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "--set" in told and "heads=N" in told


@pytest.mark.parametrize("system, key", [
    ("lion", "visual_encoder.pos_embed"), ("pvit", "backbone.attnpool.positional_embedding"),
    ("lyrics", "vision_model.embeddings.position_embedding")])
def test_positions_of_no_square_are_named(values, system, key):
    """A table of positions of another picture size, rounded down to a grid it was not made for."""
    tensors = dict(getattr(official, f"{system}_tensors")(values[system]))
    rows = tensors[key].ndim - 2
    tensors[key] = torch.cat([tensors[key], tensors[key].narrow(rows, 0, 1)], rows)
    with pytest.raises(BadInput, match=f"key '{key}' is for"):
        published(system).convert(tensors)


@pytest.mark.parametrize("words, told", [
    (["lion", "a.pth", "--base", "b"], "--base: belongs to pvit"),
    (["pvit", "a.pth", "--legacy-overwrite"], "--legacy-overwrite: belongs to lmeye"),
    (["lion", "a.pth", "--set", "heads=4"], "--set heads=4: lion takes vit_heads=16"),
    (["lion", "a.pth", "--set", "hint_id=x"], "--set hint_id=x"),
    (["lion", "a.pth"], "a.pth: no such file")])
def test_a_wrong_option_is_told(words, told, tmp_path, capsys):
    """A size that is quietly dropped, or an option of another system."""
    assert checkpoints_main.main(["import", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


# ---- official files ----------------------------------------------------------------------------

class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("hostile.ran"),)


@pytest.mark.parametrize("name, content, told", [
    ("a.pth", b"", "a.pth: the file is empty"), ("a.pth", b"<html>404</html>", "not a whole file"),
    ("a.bin", Hostile(), "not a whole file of plain tensors"),
    ("a.pt", [torch.ones(1)], "holds a list"), ("a.pth", {}, "without named tensors"),
    ("a.pth", {"model": {"a": 3}}, "key 'a' holds a int"), ("a.pth", {3: torch.ones(1)}, "key '3'"),
    ("a.safetensors", b"12", "not a whole safetensors"), ("a.zip", b"PK", "neither a .pth")])
def test_a_bad_file_is_told(tmp_path, monkeypatch, name, content, told):
    """A pickle that runs its author's code, or a download's error page as a traceback."""
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name)
    with pytest.raises(BadInput, match=told) as refused:
        importing.read_file(tmp_path / name)
    assert "\n" not in str(refused.value) and not (tmp_path / "hostile.ran").exists()


@pytest.mark.parametrize("change, told", [
    (lambda m: m.update(a="../other.bin"), "no file beside it"),
    (lambda m: m.update(a=3), "no file beside it"),
    (lambda m: m.update(z=m["a"]), "key 'z' is missing"),
    (lambda m: m.pop("a"), "key 'a' is not in the index"),
    (lambda m: m.update(a="pytorch_model-00003-of-00002.bin"), "key 'a'|no such file"),
    (lambda m: m.clear(), "has no weight_map")])
def test_an_index_and_its_shards_must_agree(tmp_path, change, told):
    """A shard of another download, or an index that leads out of its folder."""
    folder = official.shard(tmp_path / "hf", {k: torch.ones(1) for k in "abc"})
    index = folder / "pytorch_model.bin.index.json"
    found = json.loads(index.read_text())
    change(found["weight_map"])
    index.write_text(json.dumps(found))
    with pytest.raises(BadInput, match=told):
        importing.read_file(folder)


def test_a_key_in_two_files_is_refused(tmp_path):
    """Two checkpoints merged into one that never was."""
    for name in ("a", "b"):
        save_file({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(BadInput, match="b.safetensors: key 'x' was in an earlier file"):
        importing.read_files([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_torch_load_stands_here_alone_and_is_weights_only():
    """weights_only left out, or switched off for one stubborn file."""
    calls = []
    for path in (Path(importing.__file__).parent).rglob("*.py"):
        calls += [(path.name, node) for node in ast.walk(ast.parse(path.read_text()))
                  if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    assert [name for name, _ in calls] == ["importing.py"]
    words = {k.arg: ast.unparse(k.value) for k in calls[0][1].keywords}
    assert words["weights_only"] == "True"
