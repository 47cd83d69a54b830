"""Our LION parts with the official weights give the official values (tests/reference).

Other seeds of the same layout: LION_MIN_REFERENCE=DIR (DIR/lion.safetensors).
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from lion_min import BadInput
from lion_min.adapters import attach_adapters
from lion_min.lion.aggregator import VisionAggregator
from lion_min.lion.softprompt import SoftPrompt
from lion_min.published import keys, lion
from lion_min.qformer import QFormer, QFormerSettings

# The official names of the parts, and where they are in our Lion.
PARTS = {"qformer": "qformer.", "aggregator": "aggregator.", "adapters": "adapters.",
         "soft_prompt": "soft_prompt.", "t5_proj": "query_proj.", "adapter_proj": "mlp.",
         "ln_vision": "ln_vision.", "ln_adapter": "ln_adapter.", "vision": "vision.model.",
         "t5": "llm.model."}
FOLDER = Path(os.environ.get("LION_MIN_REFERENCE") or Path(__file__).parent / "reference")


@pytest.fixture(scope="module")
def reference() -> tuple[dict, dict, dict]:
    """(official weights, in/ and out/ tensors, sizes)."""
    with safe_open(FOLDER / "lion.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        sizes = {k: json.loads(v) for k, v in file.metadata().items() if v[0] == "{"}
    weights = {k.removeprefix("weights/"): v for k, v in tensors.items()
               if k.startswith("weights/")}
    return weights, {k: v for k, v in tensors.items() if k[:3] in ("in/", "out")}, sizes


def rename(weights: dict) -> dict[str, dict]:
    """The converted tensors of each part; T5's state dict names its embedding three times."""
    ours = lion.convert(weights)[0]
    parts = {part: {name.removeprefix(prefix): tensor for name, tensor in ours.items()
                    if name.startswith(prefix)} for part, prefix in PARTS.items()}
    for side in ("encoder", "decoder"):
        parts["t5"][f"{side}.embed_tokens.weight"] = parts["t5"]["shared.weight"]
    return parts


def strict(module: nn.Module, weights: dict) -> nn.Module:
    module.load_state_dict(weights, strict=True)
    return module.eval()


def build_qformer(parts: dict, sizes: dict) -> QFormer:
    s = sizes["qformer"]
    settings = QFormerSettings(
        width=s["width"], layers=s["layers"], heads=s["heads"], ffn=s["ffn"],
        queries=s["queries"], cross_every=s["cross_attention_every"], vocab=s["vocab"],
        vision_width=sizes["vit"]["width"], max_text=s["max_positions"], ln_eps=s["ln_eps"])
    return strict(QFormer(settings), parts["qformer"])


def query_states(parts: dict, values: dict, sizes: dict) -> torch.Tensor:
    image = strict(nn.LayerNorm(sizes["vit"]["width"], eps=1e-5), parts["ln_vision"])(
        values["out/vit_block_38"])
    return build_qformer(parts, sizes)(image, values["in/question_ids"],
                                       values["in/question_mask"])


def aggregated(parts: dict, values: dict, sizes: dict) -> torch.Tensor:
    s = sizes["aggregator"]
    aggregator = strict(VisionAggregator(s["width"], s["heads"], s["ffn"], ln_eps=s["ln_eps"]),
                        parts["aggregator"])
    return aggregator(values[f"out/vit_block_{s['query_block']}"],
                      [values[f"out/vit_block_{k}"] for k in s["key_blocks"]])


@torch.no_grad()
def test_parity_qformer_queries(reference):
    """Wrong mask, wrong norm order, swapped text and query FFN, or eps 1e-6 in ln_vision."""
    weights, values, sizes = reference
    ours = query_states(rename(weights), values, sizes)
    torch.testing.assert_close(ours, values["out/qformer_queries"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_parity_visual_tokens(reference):
    """Causal aggregator, key states in the wrong order, tanh GELU, or the branches swapped."""
    weights, values, sizes = reference
    parts, vit, width = rename(weights), sizes["vit"]["width"], sizes["t5"]["d_model"]
    inner = parts["adapter_proj"]["0.weight"].shape[0]
    t5_proj = strict(nn.Linear(sizes["qformer"]["width"], width), parts["t5_proj"])
    mlp = strict(nn.Sequential(nn.Linear(vit, inner), nn.GELU(), nn.Linear(inner, width)),
                 parts["adapter_proj"])
    norm = strict(nn.LayerNorm(vit, eps=1e-5), parts["ln_adapter"])
    ours = torch.cat([t5_proj(query_states(parts, values, sizes)),
                      mlp(norm(aggregated(parts, values, sizes)))], dim=1)      # [B, Q + N, D]
    torch.testing.assert_close(ours, values["out/visual_tokens"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_parity_names_fill_the_vit(reference):
    """A ViT tensor under another's name, or the block states counted from the wrong end."""
    from transformers import InstructBlipVisionConfig, InstructBlipVisionModel
    weights, values, sizes = reference
    parts, v = rename(weights), sizes["vit"]
    layers = 1 + max(int(k.split(".")[2]) for k in parts["vision"] if ".layers." in k)
    vision = InstructBlipVisionModel(InstructBlipVisionConfig(
        hidden_size=v["width"], intermediate_size=v["mlp"], num_hidden_layers=layers,
        num_attention_heads=v["heads"], image_size=v["image"], patch_size=v["patch"]))
    missing, unexpected = vision.load_state_dict(parts["vision"], strict=False)
    assert unexpected == []
    assert sorted(missing) == ["post_layernorm.bias", "post_layernorm.weight"]  # LION has none
    states = vision.eval()(values["in/image"], output_hidden_states=True).hidden_states
    for block in v["used_blocks"]:  # transformers counts the embedding as state 0
        torch.testing.assert_close(states[block + 1], values[f"out/vit_block_{block}"],
                                   atol=1e-6, rtol=0)


def test_parity_qkv_bias_has_its_zero_in_the_middle(reference):
    """Biases joined as [q, v, 0]: unseen in the reference, whose biases are all zero."""
    stem, width = "visual_encoder.blocks.3.attn.", reference[2]["vit"]["width"]
    bias = {f"{stem}q_bias": torch.full((width,), 1.0), f"{stem}v_bias": torch.full((width,), 3.0)}
    joined = rename(reference[0] | bias)["vision"]["encoder.layers.3.self_attn.qkv.bias"]
    assert joined.view(3, width)[:, 0].tolist() == [1, 0, 3]


def test_parity_names_fill_t5_adapters_and_hint_strictly(reference):
    """A key table that leaves a T5 parameter, an adapter or the hint at random."""
    from transformers import T5Config, T5ForConditionalGeneration
    weights, _, sizes = reference
    parts = rename(weights)
    t5 = T5ForConditionalGeneration(T5Config(**sizes["t5"]))
    t5.load_state_dict(parts["t5"], strict=True)
    a = sizes["adapters"]
    adapters = attach_adapters(t5, sizes["t5"]["d_model"], a["bottleneck"], a["count"])
    strict(adapters, parts["adapters"])
    strict(SoftPrompt(sizes["t5"]["d_model"]), parts["soft_prompt"])


def test_parity_router_rows_and_adapter_places(reference):
    """router_ratio1/2 transposed (task for adapter), or decoder adapters put first."""
    weights, _, sizes = reference
    ours, encoders = rename(weights)["adapters"], sizes["t5"]["num_layers"]
    places = {f"t5_model.encoder.block.{encoders - 1}.layer.1": encoders - 1,
              "t5_model.decoder.block.0.layer.2": encoders}
    for old, place in places.items():
        for adapter in (0, 1):
            official = weights[f"{old}.adapter.router_ratio{adapter + 1}"]
            torch.testing.assert_close(ours[f"{place}.router"][adapter], official)
            down = weights[f"{old}.adapter.adapters.{adapter}.down_proj.weight"]
            torch.testing.assert_close(ours[f"{place}.adapters.{adapter}.down.weight"], down)


def test_parity_every_weight_arrives(reference):
    """An official tensor read, then thrown away: the numbers that go in must come out."""
    weights, _, _ = reference
    parts = rename(weights)
    extra = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}       # tied copies
    arrived = sum(v.numel() for part in parts.values() for k, v in part.items() if k not in extra)
    zeros = sum(v.numel() for k, v in weights.items() if k.endswith("q_bias"))   # the keys' bias
    assert arrived == sum(v.numel() for v in weights.values()) + zeros


def test_parity_loader_reads_the_published_selection(reference):
    """The published .pth has no ViT and no T5, but accidental copies: it must load as it is."""
    weights, _, _ = reference
    frozen = ("visual_encoder.", "t5_model.")
    file = {k: v for k, v in weights.items() if not k.startswith(frozen) or ".adapter." in k}
    file["t5_model.encoder.embed_tokens.weight"] = weights["t5_model.shared.weight"]
    file["Qformer.bert.embeddings.position_ids"] = torch.arange(64)[None]
    file = keys.without(file, lion.IGNORED)
    ours, _ = keys.read(file, lion.TRAINED, "LION", lion.SIZES.values())
    assert len(ours) == len(file)
    with pytest.raises(BadInput, match="the ViT is 32 wide, not 1408"):
        lion.convert(file)
    with pytest.raises(BadInput, match="visual_encoder.cls_token"):
        lion.convert(file | {"visual_encoder.pos_embed": weights["visual_encoder.pos_embed"]})


@pytest.mark.parametrize("key", [
    "soft_prompt_hint", "fusion_adapter.blocks.1.crossattention.output.dense.bias",
    "Qformer.bert.encoder.layer.1.output_query.LayerNorm.weight",
    "visual_encoder.blocks.17.attn.v_bias", "t5_model.lm_head.weight",
    "t5_model.decoder.block.1.layer.2.adapter.router_ratio2"])
def test_parity_loader_names_the_missing_key(reference, key):
    """The official loader's silence: a file that lacks a tensor loaded 'successfully'."""
    weights = {k: v for k, v in reference[0].items() if k != key}
    with pytest.raises(BadInput, match=key.replace(".", r"\.")):
        rename(weights)


def test_parity_loader_names_the_unknown_key(reference):
    """A foreign checkpoint whose surplus keys were dropped without a word."""
    with pytest.raises(BadInput, match="ram_model.fc.weight"):
        rename(reference[0] | {"ram_model.fc.weight": torch.zeros(1)})
