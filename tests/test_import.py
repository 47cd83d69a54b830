"""Published layouts -> `checkpoints import` -> the room's load -> the reference's numbers."""

import ast
import json
from importlib import import_module
from pathlib import Path

import official_files as official
import pytest
import test_parity_lion as lion
import test_parity_lmeye as lmeye
import test_parity_pvit as pvit
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from lion_min import BadInput, checkpoints, importing, keys
from lion_min.lmeye import two_passes
from lion_min.lmeye.model import LmeyeInputs
from lion_min.mqformer import Sources

SYSTEMS = ("lion", "pvit", "lmeye", "lyrics")
SET = {"lion": ["vit_heads=4", "qformer_heads=4", "aggregator_heads=16", "distance=16",
                "hint_id=61"],
       "pvit": ["heads=4"], "lmeye": ["heads=2", "clip_heads=2", "img_id=48", "imgd_id=49",
                                      "bos_id=97", "eos_id=98"],
       "lyrics": [f"{k}={v}" for k, v in official.SIZES.items()]}


def published(system: str):
    return import_module(f"lion_min.{system}.published")


def run(system: str, words: list[str], out: Path) -> int:
    return importing.main(["import", system, *words, "--out", str(out), "--set", *SET[system]])


@pytest.fixture(scope="module")
def values(reference):
    found = {s: reference(s) for s in SYSTEMS[:3]}
    return found | {"lyrics": None}


@pytest.fixture(scope="module")
def sizes(reference_metadata):
    return {s: {k: json.loads(v) for k, v in reference_metadata(s).items() if v[0] in "[{"}
            for s in SYSTEMS[:3]}


@pytest.fixture(scope="module")
def folders(values, tmp_path_factory):
    """{system: the folder its official files were imported into}."""
    found = {}
    for system in SYSTEMS:
        place = tmp_path_factory.mktemp(system)
        words = getattr(official, f"write_{system}")(place, values[system])
        found[system] = place / "out"
        assert run(system, words, found[system]) == 0
    return found


# ---- round trips -------------------------------------------------------------------------------

@torch.no_grad()
def test_parity_lion_imports_losses_and_beams(folders, values):
    """A tensor lost between the three files, under another's name, or a size read wrongly."""
    model, v = published("lion").load(folders["lion"]), values["lion"]
    states = model.vision(v["in/image"])
    for name, task in lion.ROUTES:
        loss, _ = model(lion.inputs(v, states, task))
        torch.testing.assert_close(loss[None], v[f"out/loss_{name}"], atol=1e-5, rtol=0)
        x = lion.replace(lion.inputs(v, states, task), answers=None)
        ids = model.generate(x, max_new_tokens=12)
        assert ids.tolist() == v[f"out/beam5_ids_{name}"].tolist()


@torch.no_grad()
def test_parity_pvit_imports_region_features_and_logits(folders, values, sizes):
    """A delta not added, or added to the new words; frozen norms' statistics left behind."""
    from lion_min.vision import VisionEncoder, VisionSettings
    side = round(values["pvit"]["in/image_features"].shape[1] ** 0.5)
    vit = VisionEncoder(VisionSettings(image=8 * side, patch=8, width=8, blocks=1, heads=1,
                                       mlp=8, stem=()))
    model, v = published("pvit").load(folders["pvit"], vit), values["pvit"]
    own = torch.tensor([[float(w), float(h)] for h, w in sizes["pvit"]["image_sizes"]])
    index = v["in/rois_batch_xyxy"][:, 0].long()
    boxes = v["in/rois_batch_xyxy"][:, 1:] / own[index].repeat(1, 2)
    maps = [model.regions.res4(v["in/region_images"]), own]
    torch.testing.assert_close(model.regions.pool(maps, boxes, index), v["out/region_features"],
                               atol=1e-5, rtol=0)
    x = pvit.inputs(v, (maps, boxes, index))
    text = model.llm.pack(x.prompts, [[]] * len(x.prompts))
    logits = model.llm.logits(model.words(x, text), text, model.shared(x))[:, :-1]
    torch.testing.assert_close(logits, v["out/logits"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_parity_lmeye_imports_logits_and_loss(folders, values):
    """A name matched in part, the prefix of DDP, or Parameters that weights_only refuses."""
    model, v = published("lmeye").load(folders["lmeye"]), values["lmeye"]
    ids = v["in/ids_q5"]
    x = LmeyeInputs([v["in/pooled_image_feature"][:, None]], ids.tolist())
    text = lmeye.TextBatch(ids, torch.ones_like(ids).bool(), ids, torch.ones(ids.shape),
                           torch.zeros_like(ids), torch.arange(ids.shape[1]).expand_as(ids),
                           torch.zeros_like(ids).bool())
    embeds = two_passes.told(model.llm, model.words(x, text), text, None, model.marks(x, text),
                             lambda hidden: model.ask(x, hidden))
    lmeye.close(model.llm.logits(embeds, text), v["out/logits_q5"])
    lmeye.close(model.llm.loss(embeds, text)[None], v["out/loss_q5"])


def official_queries(w: dict, V, O, ids) -> torch.Tensor:
    """Spec 2.4 of Lyrics on the official names: [queries ; text] through all layers."""
    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def attend(x, y, name):
        q, k, v = (linear(t, f"{name}.attention.{part}").unflatten(-1, (2, -1)).transpose(1, 2)
                   for t, part in ((x, "query"), (y, "key"), (y, "value")))
        seen = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        out = linear(seen.transpose(1, 2).flatten(2), f"{name}.output.dense")
        return norm(x + out, f"{name}.output.LayerNorm")

    def feed(x, name, end):
        up = F.gelu(linear(x, f"{name}.intermediate{end}.dense"))
        return norm(x + linear(up, f"{name}.output{end}.dense"), f"{name}.output{end}.LayerNorm")

    words = w["qformer.embeddings.word_embeddings.weight"][ids]
    words = words + w["qformer.embeddings.position_embeddings.weight"][:ids.shape[1]]
    x = torch.cat([w["query_tokens"].expand(len(ids), -1, -1), words], 1)
    x = norm(x, "qformer.embeddings.LayerNorm")
    for i in (0, 1):
        layer = f"qformer.encoder.layer.{i}"
        x = attend(x, x, f"{layer}.attention")
        image, objects, text = x.split((2, 3, ids.shape[1]), 1)
        if i == 0:
            image = attend(image, V, f"{layer}.crossattention")
            objects = attend(objects, O, f"{layer}.detection_crossattention")
        queries = feed(torch.cat([image, objects], 1), layer, "_query")
        x = torch.cat([queries, feed(text, layer, "")], 1)
    return linear(x[:, :5], "language_projection")


@torch.no_grad()
def test_lyrics_imports_what_its_formulas_give(folders):
    """Query and key swapped, the two cross-attentions or the two feed-forward nets exchanged."""
    model, w = published("lyrics").load(folders["lyrics"]), official.lyrics_tensors()
    generator = torch.Generator().manual_seed(1)
    V, O = (torch.randn(2, n, d, generator=generator) for n, d in ((5, 8), (4, 6)))
    ids = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    ours = model.language_projection(model.mqformer(Sources(V, O), ids))
    torch.testing.assert_close(ours, official_queries(w, V, O, ids), atol=1e-5, rtol=0)


@torch.no_grad()
def test_lyrics_imports_the_llm_and_the_vit(folders):
    """The LLM, the ViT or its last norm left at random; LoRA that is not zero at first."""
    from transformers import LlamaConfig, LlamaForCausalLM
    model, w = published("lyrics").load(folders["lyrics"]), official.lyrics_tensors()
    llama = LlamaForCausalLM(LlamaConfig(
        vocab_size=21, hidden_size=16, intermediate_size=18, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=False))
    llama.load_state_dict(official.under(w, "language_model."), strict=True)
    ids = torch.tensor([[1, 7, 20, 3]])
    torch.testing.assert_close(model.llm.model(ids).logits, llama.eval()(ids).logits)
    vision = dict(model.vision.model.named_parameters())
    theirs = official.under(w, "vision_model.")
    assert torch.equal(theirs.pop("post_layernorm.weight"), model.ln_vision.weight)
    assert torch.equal(theirs.pop("post_layernorm.bias"), model.ln_vision.bias)
    assert vision.keys() == theirs.keys()
    assert all(torch.equal(vision[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_folder_is_a_run_of_ours(folders, system):
    """Files that only this command reads; settings that lose a part or turn tuples into lists."""
    tensors, config = checkpoints.load_run(folders[system])
    assert (config["system"], config["stage"]) == (system, published(system).STAGE)
    assert {path.name for path in folders[system].iterdir()} == {"model.safetensors",
                                                                 "config.json"}
    assert config["options"].keys() == {word.split("=")[0] for word in SET[system]}
    assert not any("adapter_" in n or n.startswith("module.") for n in tensors)


def test_legacy_overwrite_is_a_named_setting(values, tmp_path):
    """A flag nobody reads, or one that config.json forgets."""
    words = official.write_lmeye(tmp_path, values["lmeye"])
    assert run("lmeye", [*words, "--legacy-overwrite"], tmp_path / "out") == 0
    tensors, config = checkpoints.load_run(tmp_path / "out")
    assert torch.equal(tensors["e_img"], tensors["e_imgd"])
    assert config["options"]["legacy_overwrite"] is True
    exact = published("lmeye").convert(official.lmeye_tensors(values["lmeye"]))[0]
    assert not torch.equal(exact["e_img"], exact["e_imgd"])


def test_a_whole_pvit_needs_no_base(values, tmp_path, folders):
    """Merged weights refused, or the base demanded of them."""
    assert run("pvit", official.write_pvit(tmp_path, values["pvit"], delta=False),
               tmp_path / "out") == 0
    whole, summed = (checkpoints.load_run(f)[0] for f in (tmp_path / "out", folders["pvit"]))
    assert whole.keys() == summed.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(summed[name], tensor)


# ---- refusals ----------------------------------------------------------------------------------

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
    base = importing.read(tmp_path / "llama.bin") | change
    delta = importing.read(tmp_path / "pvit")
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
    assert importing.main(["import", system, *words, "--out", str(tmp_path / "out")]) == 2
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


def test_a_run_is_not_overwritten(values, tmp_path):
    """An import into the folder of a training run, whose state then fits nothing."""
    checkpoints.save_tensors({}, tmp_path / "state.safetensors")
    with pytest.raises(BadInput, match="holds a training run"):
        importing.import_checkpoint("lmeye", [], tmp_path)


@pytest.mark.parametrize("words, told", [
    (["lion", "a.pth", "--base", "b"], "--base: belongs to pvit"),
    (["pvit", "a.pth", "--legacy-overwrite"], "--legacy-overwrite: belongs to lmeye"),
    (["lion", "a.pth", "--set", "heads=4"], "--set heads=4: lion takes vit_heads=16"),
    (["lion", "a.pth", "--set", "hint_id=x"], "--set hint_id=x"),
    (["lion", "a.pth"], "a.pth: no such file")])
def test_a_wrong_option_is_told(words, told, tmp_path, capsys):
    """A size that is quietly dropped, or an option of another system."""
    assert importing.main(["import", *words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


# ---- official files ----------------------------------------------------------------------------

class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("hostile.ran"),)


@pytest.mark.parametrize("name, content, told", [
    ("a.pth", b"", "a.pth: not a whole file"), ("a.pth", b"<html>404</html>", "not a whole file"),
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
        importing.read(tmp_path / name)
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
        importing.read(folder)


def test_a_key_in_two_files_is_refused(tmp_path):
    """Two checkpoints merged into one that never was."""
    for name in ("a", "b"):
        save_file({"x": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(BadInput, match="b.safetensors: key 'x' was in an earlier file"):
        importing.read_all([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_torch_load_stands_here_alone_and_is_weights_only():
    """weights_only left out, or switched off for one stubborn file."""
    calls = []
    for path in (Path(importing.__file__).parent).rglob("*.py"):
        calls += [(path.name, node) for node in ast.walk(ast.parse(path.read_text()))
                  if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    assert [name for name, _ in calls] == ["importing.py"]
    words = {k.arg: ast.unparse(k.value) for k in calls[0][1].keywords}
    assert words["weights_only"] == "True"
