"""The official LION checkpoint's names -> ours, key by key (JiuTian-LION, commit 7578437).

The official loader ignores what it does not find, so a wrong file loads "successfully". Here
every key must be known, every expected key present, and each of its shape.

Shapes: Q queries, D width, Dv vision width, K adapters. In the table of shapes: d LLM, v ViT and
q Q-Former width; b bottleneck; f g h m F inner widths; Q queries; V W vocabularies.
"""

import re

import torch
from torch import Tensor

from lion_min.published.keys import account, count_layers, matches, rows

TRAINED = ("qformer", "aggregator", "adapters", "soft_prompt",
           "t5_proj", "adapter_proj", "ln_vision", "ln_adapter")  # all that LION's .pth holds
PARTS = TRAINED + ("vision", "t5")  # the frozen rest comes from eva_vit_g.pth and FlanT5

# Saved by accident, or dropped by the official model itself: the second copies of T5's tied
# embedding, BERT's position counter, and block 39 of eva_vit_g.pth (LION builds 39 blocks, 0..38).
IGNORED = (r"t5_model\.(encoder|decoder)\.embed_tokens\.weight",
           r"Qformer\.bert\.embeddings\.position_ids", r"visual_encoder\.blocks\.39\..*")
CROSS_EVERY = 2  # the official Q-Former's cross-attention frequency
PUBLISHED_WIDTHS = (2048, 4096)  # of FlanT5-XL and FlanT5-XXL

_ATTENTION = {"self.query": "query", "self.key": "key", "self.value": "value",
              "output.dense": "out", "output.LayerNorm": "norm"}
_VIT_BLOCK = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.projection",
              "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_T5_FFN = {"encoder": 1, "decoder": 2}  # which sub-layer of a T5 block is the feed-forward net

Table = dict[str, str]  # official key -> our key, inside one part


def rename(weights: dict[str, Tensor],
           parts: tuple[str, ...] = PARTS) -> dict[str, dict[str, Tensor]]:
    """Split an official state dict (its "model" entry) into our state dicts, one for each part.

    `parts`: what the file should hold, PARTS or, for the published .pth, TRAINED. "vision" has
    the names of transformers' InstructBlipVisionModel without post_layernorm (LION reads raw
    block states), "t5" those of T5ForConditionalGeneration. Layer counts are read off the keys.
    Raises BadInput naming the keys that are unknown, missing or of another shape.
    """
    weights = {k: v for k, v in weights.items() if not matches(k, IGNORED)}
    tables = official_names(weights, parts)
    account(weights, {key: shape_of(key) for table in tables.values() for key in table}, "LION")
    ours = {part: {new: weights[old] for old, new in table.items()}
            for part, table in tables.items()}
    for part, join in (("adapters", _join_router), ("vision", _join_qkv_bias), ("t5", _tie)):
        if part in ours:
            join(ours[part])
    return ours


def official_names(weights: dict[str, Tensor], parts: tuple[str, ...] = PARTS) -> dict[str, Table]:
    """The key table of each part for a model as deep as `weights`: {part: {official: ours}}."""
    # Of the published widths the number of layers is known: a missing end is missed.
    whole = rows(weights, "soft_prompt_hint") in PUBLISHED_WIDTHS
    eva = rows(weights, "ln_vision.weight") == 1408
    encoder, decoder = (count_layers(weights, f"t5_model.{side}.block.", 24 if whole else 1)
                        for side in _T5_FFN)
    tables = {
        "qformer": lambda: _qformer(count_layers(weights, "Qformer.bert.encoder.layer.",
                                                 12 if whole else 1)),
        "aggregator": lambda: _aggregator(blocks=2),
        "adapters": lambda: _adapters(encoder, decoder),
        "soft_prompt": lambda: {"soft_prompt_hint": "hint"},
        "t5_proj": lambda: _pair("t5_proj", ""),
        "adapter_proj": lambda: _pair("adapter_proj.0", "0") | _pair("adapter_proj.2", "2"),
        "ln_vision": lambda: _pair("ln_vision", ""),
        "ln_adapter": lambda: _pair("ln_adapter", ""),
        "vision": lambda: _vision(count_layers(weights, "visual_encoder.blocks.",
                                               39 if eva else 1)),
        "t5": lambda: _t5(encoder, decoder),
    }
    return {part: tables[part]() for part in parts}


# The first pattern that is all of a key tells its shape (spec section 5).
_SHAPES: tuple[tuple[str, str], ...] = (
    ("query_tokens", "1 Q q"), ("soft_prompt_hint", "d"), (r"ln_(vision|adapter)\..*", "v"),
    (r"t5_proj\.weight", "d q"), (r"adapter_proj\.0\.weight", "m v"),
    (r"adapter_proj\.2\.weight", "d m"), (r"adapter_proj\.0\.bias", "m"),
    (r"(t5_proj|adapter_proj\.2)\.bias", "d"),
    (r"fusion_adapter\..*\.intermediate\.dense\.weight", "f v"),
    (r"fusion_adapter\..*\.intermediate\.dense\.bias", "f"),
    (r"fusion_adapter\.blocks\.\d+\.output\.dense\.weight", "v f"),
    (r"fusion_adapter\..*(LayerNorm\.weight|bias)", "v"), (r"fusion_adapter\..*", "v v"),
    (r".*\.router_ratio[12]", "2 d"), (r".*\.scale", "1"), (r".*\.down_proj\.weight", "b d"),
    (r".*\.down_proj\.bias", "b"), (r".*\.up_proj\.weight", "d b"), (r".*\.up_proj\.bias", "d"),
    (r".*\.word_embeddings\.weight", "W q"), (r".*\.position_embeddings\.weight", "P q"),
    (r"Qformer\..*\.intermediate(_query)?\.dense\.weight", "g q"),
    (r"Qformer\..*\.intermediate(_query)?\.dense\.bias", "g"),
    (r"Qformer\.bert\.encoder\.layer\.\d+\.output(_query)?\.dense\.weight", "q g"),
    (r"Qformer\..*(LayerNorm\.weight|bias)", "q"),
    (r"Qformer\..*\.crossattention\.self\.(key|value)\.weight", "q v"), (r"Qformer\..*", "q q"),
    (r"visual_encoder\.cls_token", "1 1 v"), (r"visual_encoder\.pos_embed", "1 N v"),
    (r"visual_encoder\.patch_embed\.proj\.weight", "v 3 p p"),
    (r"visual_encoder\..*\.mlp\.fc1\.weight", "h v"), (r".*\.mlp\.fc1\.bias", "h"),
    (r"visual_encoder\..*\.mlp\.fc2\.weight", "v h"), (r".*\.qkv\.weight", "3v v"),
    (r"visual_encoder\..*\.proj\.weight", "v v"), (r"visual_encoder\..*", "v"),
    (r"t5_model\.(shared|lm_head)\.weight", "V d"), (r".*\.relative_attention_bias\.weight", "B H"),
    (r"t5_model\..*\.wi_[01]\.weight", "F d"), (r"t5_model\..*\.wo\.weight", "d F"),
    (r"t5_model\..*Attention\.[qkv]\.weight", "a d"), (r"t5_model\..*\.o\.weight", "d a"),
    (r"t5_model\..*layer_norm\.weight", "d"))


def shape_of(key: str) -> str:
    """The shape of an official key, in letters."""
    return next(shape for pattern, shape in _SHAPES if re.fullmatch(pattern, key))


def _pair(official: str, ours: str) -> Table:
    dot = ours and ours + "."
    return {f"{official}.{w}": f"{dot}{w}" for w in ("weight", "bias")}


def _pairs(official: str, ours: str, names: dict[str, str]) -> Table:
    table = {}
    for old, new in names.items():
        table |= _pair(f"{official}.{old}", f"{ours}.{new}")
    return table


def _ffn(official: str, ours: str, suffix: str = "") -> Table:
    return _pairs(official, ours, {f"intermediate{suffix}.dense": "up",
                                   f"output{suffix}.dense": "out",
                                   f"output{suffix}.LayerNorm": "norm"})


def _qformer(layers: int) -> Table:
    bert = "Qformer.bert.embeddings"
    table = {"query_tokens": "query_tokens",
             f"{bert}.word_embeddings.weight": "words.weight",
             f"{bert}.position_embeddings.weight": "positions.weight"}
    table |= _pair(f"{bert}.LayerNorm", "norm")
    for i in range(layers):
        old, new = f"Qformer.bert.encoder.layer.{i}", f"layers.{i}"
        table |= _pairs(f"{old}.attention", f"{new}.attention", _ATTENTION)
        if i % CROSS_EVERY == 0:
            table |= _pairs(f"{old}.crossattention", f"{new}.cross", _ATTENTION)
        table |= _ffn(old, f"{new}.text_ffn") | _ffn(old, f"{new}.query_ffn", "_query")
    return table


def _aggregator(blocks: int) -> Table:
    table = {}
    for i in range(blocks):
        old, new = f"fusion_adapter.blocks.{i}", f"blocks.{i}"
        table |= _pairs(f"{old}.attention", f"{new}.attention", _ATTENTION)
        table |= _pairs(f"{old}.crossattention", f"{new}.cross", _ATTENTION)
        table |= _ffn(old, f"{new}.ffn")
    return table


def _adapters(encoder: int, decoder: int) -> Table:
    """Our list runs through the encoder's blocks, then the decoder's, as attach_adapters does."""
    table, place = {}, 0
    for side, blocks in (("encoder", encoder), ("decoder", decoder)):
        for i in range(blocks):
            old = f"t5_model.{side}.block.{i}.layer.{_T5_FFN[side]}.adapter"
            for k in (0, 1):
                one, new = f"{old}.adapters.{k}", f"{place}.adapters.{k}"
                table[f"{one}.scale"] = f"{new}.scale"
                table |= _pairs(one, new, {"down_proj": "down", "up_proj": "up"})
                table[f"{old}.router_ratio{k + 1}"] = f"{place}.router.{k}"
            place += 1
    return table


def _join_router(part: dict[str, Tensor]) -> None:
    """router_ratio1, router_ratio2, each [2 tasks, D] -> router [K, 2 tasks, D]."""
    for key in [k for k in part if k.endswith(".router.0")]:
        name = key.removesuffix(".0")
        part[name] = torch.stack([part.pop(f"{name}.{k}") for k in (0, 1)])


def _vision(blocks: int) -> Table:
    table = {"visual_encoder.cls_token": "embeddings.class_embedding",
             "visual_encoder.pos_embed": "embeddings.position_embedding"}
    table |= _pair("visual_encoder.patch_embed.proj", "embeddings.patch_embedding")
    for i in range(blocks):
        old, new = f"visual_encoder.blocks.{i}", f"encoder.layers.{i}"
        table |= _pairs(old, new, _VIT_BLOCK)
        for name in ("qkv.weight", "q_bias", "v_bias"):
            table[f"{old}.attn.{name}"] = f"{new}.self_attn.{name}"
    return table


def _join_qkv_bias(part: dict[str, Tensor]) -> None:
    """EVA's keys have no bias: qkv.bias = [q_bias, 0, v_bias], [3 * Dv]."""
    for key in [k for k in part if k.endswith(".q_bias")]:
        stem = key.removesuffix("q_bias")
        q, v = part.pop(key), part.pop(f"{stem}v_bias")
        part[f"{stem}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])


def _t5(encoder: int, decoder: int) -> Table:
    """FlanT5: gated FFN, no biases, a position table in the first block only, untied head."""
    names = ["shared.weight", "lm_head.weight"]
    for side, blocks in (("encoder", encoder), ("decoder", decoder)):
        attentions = ["SelfAttention", "EncDecAttention"][:_T5_FFN[side]]
        names += [f"{side}.final_layer_norm.weight", f"{side}.block.0.layer.0.SelfAttention."
                  "relative_attention_bias.weight"]
        for i in range(blocks):
            block = f"{side}.block.{i}.layer"
            names += [f"{block}.{j}.{kind}.{x}.weight"
                      for j, kind in enumerate(attentions) for x in "qkvo"]
            names += [f"{block}.{len(attentions)}.DenseReluDense.{w}.weight"
                      for w in ("wi_0", "wi_1", "wo")]
            names += [f"{block}.{j}.layer_norm.weight" for j in range(len(attentions) + 1)]
    return {f"t5_model.{name}": name for name in names}


def _tie(part: dict[str, Tensor]) -> None:
    """T5's state dict names its shared embedding three times."""
    for side in _T5_FFN:
        part[f"{side}.embed_tokens.weight"] = part["shared.weight"]
