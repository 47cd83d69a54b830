"""The Pvit class that runs the tiny preset, with the official weights, gives the official values.

Other seeds and sizes of the same layout: LION_MIN_REFERENCE=DIR (DIR/pvit.safetensors).
"""

import json
from dataclasses import replace

import pytest
import torch

from lion_min import BadInput
from lion_min.published import keys
from lion_min.published.pvit import FROZEN, add_base, build, convert
from lion_min.pvit.model import PvitInputs
from lion_min.vision import VisionSettings


@pytest.fixture(scope="module")
def values(reference):
    return reference("pvit")


@pytest.fixture(scope="module")
def sizes(reference_metadata):
    return {k: json.loads(v) for k, v in reference_metadata("pvit").items() if v[0] in "[{"}


@pytest.fixture(scope="module")
def weights(values):
    return {k.removeprefix("weights/"): v for k, v in values.items() if k.startswith("weights/")}


@pytest.fixture(scope="module")
def settings(values, weights, sizes):
    _, patches, width = values["in/image_features"].shape  # the ViT itself is not in the file
    side = round(patches ** 0.5)
    vision = VisionSettings(image=8 * side, patch=8, width=width, blocks=1, heads=16, mlp=8,
                            stem=())
    return replace(convert(weights, heads=sizes["llm"]["heads"])[1], vision=vision)


@pytest.fixture(scope="module")
def model(settings, weights):
    torch.manual_seed(0)
    model = build(settings)
    keys.fill(model, convert(weights)[0], "reference", FROZEN)
    return model.eval()


@pytest.fixture(scope="module")
def regions(model, values, sizes):
    """(maps, boxes as fractions, the image of each), from pixels of the padded batch."""
    with torch.no_grad():
        res4 = model.regions.res4(values["in/region_images"])
    own = torch.tensor([[float(w), float(h)] for h, w in sizes["image_sizes"]])  # [B, 2]
    index = values["in/rois_batch_xyxy"][:, 0].long()
    boxes = values["in/rois_batch_xyxy"][:, 1:] / own[index].repeat(1, 2)
    return [res4, own], boxes, index


def inputs(values, regions) -> PvitInputs:
    maps, boxes, index = regions
    features = values["in/image_features"]
    state = torch.cat([features.new_zeros(len(features), 1, features.shape[2]), features], 1)
    return PvitInputs([state, state], values["in/input_ids"].tolist(),
                      [[tuple(b) for b in boxes[index == i].tolist()]
                       for i in range(len(features))], maps=maps)


def test_parity_settings_are_the_references(settings, sizes):
    """Guards: a size read off the wrong shape or axis."""
    llm, backbone, s = sizes["llm"], sizes["backbone"], settings.language
    assert (s.vocab, s.width, s.ffn, s.layers, s.heads) == (
        llm["vocab"], llm["hidden"], llm["intermediate"], llm["layers"], llm["heads"])
    assert (settings.region_id, settings.image_id, settings.open_id, settings.close_id) == (
        llm["im_patch"], llm["im_patch"], llm["region_start"], llm["region_end"])
    r = settings.regions
    assert (list(r.layers), r.width, r.heads, r.resolution, r.output) == (
        backbone["layers"], backbone["width"], backbone["attnpool_heads"],
        backbone["input_resolution"], backbone["output_dim"])


@torch.no_grad()
def test_parity_region_features(model, regions, values):
    """Guards: the stem's order, eps, the averaged stride, the shortcut of the ResNet; fractions
    scaled by the padded size; RoIAlign at another scale or number of bins; layer4 or the attention
    pool mapped wrongly; features normalised."""
    encoder, crops = model.regions, model.regions.crops(*regions)
    features = values["out/region_features"]
    for ours, theirs, atol in (
            (regions[0][0], values["out/res4"], 1e-6), (crops, values["out/roi_crops_4x4"], 1e-6),
            (encoder.layer4(crops), values["out/res5"], 1e-5),
            (encoder.attnpool(values["out/res5"]), features, 1e-6),
            (encoder.pool(*regions), features, 1e-5)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@torch.no_grad()
def test_parity_spliced_logits(model, regions, values):
    """Guards: an image spliced over region slots, markers, box embedding, reading order."""
    x = inputs(values, regions)
    model.check(x)
    text = model.llm.pack(x.prompts, [[]] * len(x.prompts))               # one <eos> more each
    logits = model.llm.model.lm_head(
        model.llm.text_states(model.words(x, text), text, model.shared(x)))[:, :-1]
    torch.testing.assert_close(logits, values["out/logits"], rtol=0, atol=1e-5)
    first = model.generate(x, max_new_tokens=1)[:, 0]
    assert first.tolist() == values["out/logits"][:, -1].argmax(-1).tolist()


def test_parity_every_tensor_is_loaded(settings, weights, model):
    """Guards: a tensor that the official files never fill and that stays at its random start."""
    other = build(settings)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.fill_(float("nan"))
    keys.fill(other, convert(weights)[0], "reference", FROZEN)
    left = {k for k, v in other.state_dict().items() if not torch.equal(v, model.state_dict()[k])}
    assert left and all(k.startswith("vision.") for k in left)


@pytest.mark.parametrize("key", [
    "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "backbone.bn2.running_var",
    "backbone.layer4.0.downsample.0.weight", "model.bbox_fc.bias", "model.prompt_projector.bias"])
def test_parity_a_missing_key_is_named(weights, key):
    """Guards: half a checkpoint that loads in silence."""
    with pytest.raises(BadInput, match=f"'{key}' is missing"):
        convert({k: v for k, v in weights.items() if k != key})


def test_parity_other_keys(weights, settings):
    """Guards: a file of another model taken for PVIT's; the rotary tables taken for unknown;
    bbox_fc demanded of a stage 1 checkpoint, which was trained without it."""
    more = weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    assert replace(convert(more, heads=settings.language.heads)[1], vision=settings.vision) == settings
    with pytest.raises(BadInput, match="unknown key 'model.vision_tower.x'"):
        convert(more | {"model.vision_tower.x": torch.zeros(1)})
    stage1 = {k: v for k, v in weights.items() if "bbox_fc" not in k}
    assert not convert(stage1)[1].box_embedding and settings.box_embedding


def test_parity_delta_arithmetic(weights):
    """Guards: rows of new words, or the bridge, moved by the base; a base tensor left out."""
    language = {k: v for k, v in weights.items() if not k.startswith("backbone.")}
    base = {k: torch.randn_like(v) for k, v in language.items()
            if not any(part in k for part in ("_projector", "bbox_fc"))}
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        base[key] = base[key][:-5]                                        # LLaMA lacks new words
    delta = {k: v.clone() for k, v in language.items()}
    for key, value in base.items():
        delta[key][:len(value)] -= value
    whole = add_base(delta, base)
    for key, value in language.items():
        torch.testing.assert_close(whole[key], value)
    with pytest.raises(BadInput, match="lacks LLaMA's key 'lm_head.weight'"):
        add_base({k: v for k, v in delta.items() if k != "lm_head.weight"}, base)
