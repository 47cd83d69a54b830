"""Published layouts -> `checkpoints import` -> the room's load -> the reference's numbers."""

import json

import official_files as official
import pytest
import test_parity_lion as lion
import test_parity_lmeye as lmeye
import test_parity_pvit as pvit
import torch
import torch.nn.functional as F
from official_files import SET, SYSTEMS, published, run, values  # noqa: F401: a fixture

from lion_min import checkpoints
from lion_min.lmeye import two_passes
from lion_min.lmeye.model import LmeyeInputs
from lion_min.lyrics.mqformer import Sources


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
    logits = model.llm.model.lm_head(
        model.llm.text_states(model.words(x, text), text, model.shared(x)))[:, :-1]
    torch.testing.assert_close(logits, v["out/logits"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_parity_lmeye_imports_logits_and_loss(folders, values):
    """A name matched in part, the prefix of DDP, or Parameters that weights_only refuses."""
    model, v = published("lmeye").load(folders["lmeye"]), values["lmeye"]
    ids = v["in/ids_q5"]
    x = LmeyeInputs([v["in/pooled_image_feature"][:, None]], ids.tolist())
    text = lmeye.TextBatch(ids, torch.ones_like(ids).bool(), ids)
    embeds = two_passes.add_at(model.words(x, text), ids == model.settings.slot_id,
                               model.interact(x, model.requests(x)).flatten(0, 1))
    lmeye.close(model.llm.model.lm_head(model.llm.text_states(embeds, text)), v["out/logits_q5"])
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
