"""The Lion class that runs the tiny preset, with the official weights, gives the official values.

Other seeds and sizes of the same layout: LION_MIN_REFERENCE=DIR (DIR/lion.safetensors).
"""

import json
import re
from dataclasses import replace

import pytest
import torch

from lion_min import BadInput
from lion_min.adapters import IMAGE, REGION
from lion_min.language import LanguageModel
from lion_min.lion.model import Lion, LionInputs
from lion_min.published import keys, lion
from lion_min.published.lion import convert
from lion_min.vision import VisionEncoder

ROUTES = [("region", REGION), ("image", IMAGE)]


@pytest.fixture(scope="module")
def values(reference):
    return reference("lion")


@pytest.fixture(scope="module")
def metadata(reference_metadata):
    return reference_metadata("lion")


@pytest.fixture(scope="module")
def weights(values):
    return {k.removeprefix("weights/"): v for k, v in values.items() if k.startswith("weights/")}


@pytest.fixture(scope="module")
def settings(weights, metadata):
    sizes = {k: json.loads(v) for k, v in metadata.items() if v.startswith("{")}
    heads = {f"{part}_heads": sizes[part]["heads"] for part in ("vit", "qformer", "aggregator")}
    return convert(weights, **heads, hint_id=int(metadata["soft_prompt_token_id"]),
                   distance=sizes["t5"]["relative_attention_max_distance"])[1]


@pytest.fixture(scope="module")
def model(settings, weights):
    model = Lion(settings, VisionEncoder(settings.vision), LanguageModel(settings.language))
    keys.fill(model, convert(weights)[0], "reference")
    return model.eval()


@pytest.fixture(scope="module")
def states(model, values):
    with torch.no_grad():
        return model.vision(values["in/image"])


def lists(ids, mask) -> list[list[int]]:
    return [row[m.bool()].tolist() for row, m in zip(ids, mask)]


def inputs(values, states, task: int) -> LionInputs:
    answers = lists(values["in/answer_ids"], values["in/answer_mask"])
    assert all(a[-1] == 1 for a in answers)                          # pack puts its own EOS
    return LionInputs(states, values["in/question_ids"], values["in/question_mask"],
                      lists(values["in/prompt_ids"], values["in/prompt_mask"]), task,
                      [a[:-1] for a in answers])


def test_parity_settings_are_the_references(settings, metadata):
    """A size read off the wrong shape or axis, that happens to load for these weights only."""
    t5, q, vit = (json.loads(metadata[k]) for k in ("t5", "qformer", "vit"))
    s = settings.language
    assert (s.vocab, s.width, s.ffn, s.heads, s.head_width, s.layers, s.decoder_layers, s.buckets,
            s.distance, s.tied) == (
        t5["vocab_size"], t5["d_model"], t5["d_ff"], t5["num_heads"], t5["d_kv"],
        t5["num_layers"], t5["num_decoder_layers"], t5["relative_attention_num_buckets"],
        t5["relative_attention_max_distance"], t5["tie_word_embeddings"])
    assert (settings.vision.image, settings.vision.patch, settings.vision.ln_eps) == (
        vit["image"], vit["patch"], vit["ln_eps"])
    assert settings.depths == tuple(b + 1 for b in sorted(vit["used_blocks"], reverse=True))
    assert (settings.qformer.max_text, settings.qformer.ffn, settings.qformer.cross_every) == (
        q["max_positions"], q["ffn"], q["cross_attention_every"])
    assert settings.bottleneck == json.loads(metadata["adapters"])["bottleneck"]


def test_parity_vit_states(states, values, metadata):
    """States counted from the wrong end, a final norm, tanh GELU or eps 1e-5 in the ViT."""
    for block in json.loads(metadata["vit"])["used_blocks"]:  # 0-based; state 0 is the embedding
        torch.testing.assert_close(states[block + 1], values[f"out/vit_block_{block}"],
                                   atol=1e-6, rtol=0)


@torch.no_grad()
def test_parity_lion_visual_tokens(model, states, values):
    """The two branches swapped, another depth in the aggregator, a question mask ignored."""
    shared, own = model.visual(inputs(values, states, IMAGE))
    torch.testing.assert_close(torch.cat([own, shared], 1), values["out/visual_tokens"],
                               atol=1e-5, rtol=0)


@pytest.mark.parametrize("name,task", ROUTES)
@torch.no_grad()
def test_parity_loss(model, states, values, name, task):
    """The order [own | shared | text], the hint, the route, exact GELU in T5, a tied head, pads
    in the mean: each moves the loss by far more than 1e-5."""
    loss, parts = model(inputs(values, states, task))
    torch.testing.assert_close(loss[None], values[f"out/loss_{name}"], atol=1e-5, rtol=0)
    assert list(parts) == [name]


@pytest.mark.parametrize("name,task", ROUTES)
def test_parity_beams(model, states, values, metadata, name, task):
    """An option of beam search lost, or a route that does not hold while decoding."""
    options = {k: json.loads(v) for k, v in re.findall(r"(\w+)=([\d.]+)", metadata["generate"])}
    assert options.items() - {"max_new_tokens": options["max_new_tokens"]}.items() <= (
        model.settings.generate.items())                             # these are ours already
    x = replace(inputs(values, states, task), answers=None)
    ours = model.generate(x, max_new_tokens=options["max_new_tokens"])
    assert ours.tolist() == values[f"out/beam5_ids_{name}"].tolist()


def test_parity_every_parameter_is_loaded(settings, weights, model):
    """A parameter that the official file never fills and that stays at its random start."""
    torch.manual_seed(1)
    other = Lion(settings, VisionEncoder(settings.vision), LanguageModel(settings.language))
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    keys.fill(other, convert(weights)[0], "reference")
    loaded = dict(other.named_parameters())
    assert [k for k, v in model.named_parameters() if not torch.equal(v, loaded[k])] == []


def test_parity_head_stays_its_own(settings, weights, model):
    """transformers 5 ties a T5 built from a config: the head would overwrite the embedding."""
    t5 = model.llm.model
    assert torch.equal(t5.shared.weight, weights["t5_model.shared.weight"])
    assert torch.equal(t5.lm_head.weight, weights["t5_model.lm_head.weight"])
    tied = replace(settings, language=replace(settings.language, tied=True))
    wrong = Lion(tied, VisionEncoder(tied.vision), LanguageModel(tied.language))
    with pytest.raises(BadInput, match="unexpected: llm.model.lm_head.weight"):
        keys.fill(wrong, convert(weights)[0], "reference")


# ---- names -------------------------------------------------------------------------------------

# The official names of the parts, and where they are in our Lion.
PARTS = {"qformer": "qformer.", "aggregator": "aggregator.", "adapters": "adapters.",
         "soft_prompt": "soft_prompt.", "t5_proj": "query_proj.", "adapter_proj": "mlp.",
         "ln_vision": "ln_vision.", "ln_adapter": "ln_adapter.", "vision": "vision.model.",
         "t5": "llm.model."}


def rename(weights: dict) -> dict[str, dict]:
    """The converted tensors of each part; T5's state dict names its embedding three times."""
    ours = convert(weights)[0]
    parts = {part: {name.removeprefix(prefix): tensor for name, tensor in ours.items()
                    if name.startswith(prefix)} for part, prefix in PARTS.items()}
    for side in ("encoder", "decoder"):
        parts["t5"][f"{side}.embed_tokens.weight"] = parts["t5"]["shared.weight"]
    return parts


def test_parity_qkv_bias_has_its_zero_in_the_middle(weights, settings):
    """Biases joined as [q, v, 0]: unseen in the reference, whose biases are all zero."""
    stem, width = "visual_encoder.blocks.3.attn.", settings.vision.width
    bias = {f"{stem}q_bias": torch.full((width,), 1.0), f"{stem}v_bias": torch.full((width,), 3.0)}
    joined = rename(weights | bias)["vision"]["encoder.layers.3.self_attn.qkv.bias"]
    assert joined.view(3, width)[:, 0].tolist() == [1, 0, 3]


def test_parity_every_weight_arrives(weights):
    """An official tensor read, then thrown away: the numbers that go in must come out."""
    parts = rename(weights)
    extra = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}       # tied copies
    arrived = sum(v.numel() for part in parts.values() for k, v in part.items() if k not in extra)
    zeros = sum(v.numel() for k, v in weights.items() if k.endswith("q_bias"))   # the keys' bias
    assert arrived == sum(v.numel() for v in weights.values()) + zeros


def test_parity_loader_reads_the_published_selection(weights):
    """The published .pth has no ViT and no T5, but accidental copies: it must load as it is."""
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
def test_parity_loader_names_the_missing_key(weights, key):
    """The official loader's silence: a file that lacks a tensor loaded 'successfully'."""
    with pytest.raises(BadInput, match=key.replace(".", r"\.")):
        rename({k: v for k, v in weights.items() if k != key})


def test_parity_loader_names_the_unknown_key(weights):
    """A foreign checkpoint whose surplus keys were dropped without a word."""
    with pytest.raises(BadInput, match="ram_model.fc.weight"):
        rename(weights | {"ram_model.fc.weight": torch.zeros(1)})
