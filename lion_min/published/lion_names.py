"""The official LION checkpoint's names -> ours, key by key (JiuTian-LION, commit 7578437).

The official loader ignores what it does not find, so a wrong file loads "successfully". Here
every key must be known, every expected key present, and each of its shape.

Shapes: Q queries, D width, Dv vision width, K adapters. In the table of shapes: d LLM, v ViT and
q Q-Former width; b bottleneck; f g h m F inner widths; Q queries; V W vocabularies.
"""

import torch
from torch import Tensor

from lion_min.published.keys import Table, account, count_layers, pair, rows, without
from lion_min.published.layouts import CROSS_EVERY, bert_embeddings, bert_layer

TRAINED = ("qformer", "aggregator", "adapters", "soft_prompt",
           "t5_proj", "adapter_proj", "ln_vision", "ln_adapter")  # all that LION's .pth holds
PARTS = TRAINED + ("vision", "t5")  # the frozen rest comes from eva_vit_g.pth and FlanT5

# Saved by accident, or dropped by the official model itself: the second copies of T5's tied
# embedding, BERT's position counter, and block 39 of eva_vit_g.pth (LION builds 39 blocks, 0..38).
IGNORED = (r"t5_model\.(encoder|decoder)\.embed_tokens\.weight",
           r"Qformer\.bert\.embeddings\.position_ids", r"visual_encoder\.blocks\.39\..*")
PUBLISHED_WIDTHS = (2048, 4096)  # of FlanT5-XL and FlanT5-XXL

_VIT_BLOCK = {"norm1": ("layer_norm1", "v"), "norm2": ("layer_norm2", "v"),
              "attn.proj": ("self_attn.projection", "v v"), "mlp.fc1": ("mlp.fc1", "h v"),
              "mlp.fc2": ("mlp.fc2", "v h")}
_QKV = {"qkv.weight": "3v v", "q_bias": "v", "v_bias": "v"}
_T5_FFN = {"encoder": 1, "decoder": 2}  # which sub-layer of a T5 block is the feed-forward net
_T5_ATTENTION = {"q": "a d", "k": "a d", "v": "a d", "o": "d a"}
_T5_MLP = {"wi_0": "F d", "wi_1": "F d", "wo": "d F"}


def rename(weights: dict[str, Tensor],
           parts: tuple[str, ...] = PARTS) -> dict[str, dict[str, Tensor]]:
    """Split an official state dict (its "model" entry) into our state dicts, one for each part.

    `parts`: what the file should hold, PARTS or, for the published .pth, TRAINED. "vision" has
    the names of transformers' InstructBlipVisionModel without post_layernorm (LION reads raw
    block states), "t5" those of T5ForConditionalGeneration. Layer counts are read off the keys.
    Raises BadInput naming the keys that are unknown, missing or of another shape.
    """
    weights = without(weights, IGNORED)
    tables = official_names(weights, parts)
    account(weights, {key: row for table in tables.values() for key, row in table.items()}, "LION")
    ours = {part: {new: weights[old] for old, (new, _) in table.items()}
            for part, table in tables.items()}
    for part, join in (("adapters", _join_router), ("vision", _join_qkv_bias), ("t5", _tie)):
        if part in ours:
            join(ours[part])
    return ours


def official_names(weights: dict[str, Tensor], parts: tuple[str, ...] = PARTS) -> dict[str, Table]:
    """The key table of each part for a model as deep as `weights`."""
    # Of the published widths the number of layers is known: a missing end is missed.
    whole = rows(weights, "soft_prompt_hint") in PUBLISHED_WIDTHS
    eva = rows(weights, "ln_vision.weight") == 1408
    encoder, decoder = (count_layers(weights, f"t5_model.{side}.block.", 24 if whole else 1)
                        for side in _T5_FFN)
    tables = {
        "qformer": _qformer(count_layers(weights, "Qformer.bert.encoder.layer.",
                                         12 if whole else 1)),
        "aggregator": _aggregator(blocks=2),
        "adapters": _adapters(encoder, decoder),
        "soft_prompt": {"soft_prompt_hint": ("hint", "d")},
        "t5_proj": _bare("t5_proj", "d q"), "ln_vision": _bare("ln_vision", "v"),
        "ln_adapter": _bare("ln_adapter", "v"),
        "adapter_proj": pair("adapter_proj.0", "0", "m v") | pair("adapter_proj.2", "2", "d m"),
        "vision": _vision(count_layers(weights, "visual_encoder.blocks.", 39 if eva else 1)),
        "t5": _t5(encoder, decoder)}
    return {part: tables[part] for part in parts}


def _bare(official: str, shape: str) -> Table:
    """A Linear or a norm that is a part by itself."""
    return {old: (new.removeprefix("."), letters)
            for old, (new, letters) in pair(official, "", shape).items()}


def _qformer(layers: int) -> Table:
    table = {"query_tokens": ("query_tokens", "1 Q q")} | bert_embeddings(
        "Qformer.bert.embeddings")
    for i in range(layers):
        cross = {"crossattention": ("cross", "v")} if i % CROSS_EVERY == 0 else {}
        table |= bert_layer(f"Qformer.bert.encoder.layer.{i}", f"layers.{i}",
                            {"attention": ("attention", "q")} | cross,
                            {"": "text_ffn", "_query": "query_ffn"})
    return table


def _aggregator(blocks: int) -> Table:
    table = {}
    for i in range(blocks):
        table |= bert_layer(f"fusion_adapter.blocks.{i}", f"blocks.{i}",
                            {"attention": ("attention", "v"), "crossattention": ("cross", "v")},
                            {"": "ffn"}, width="v", inner="f")
    return table


def _adapters(encoder: int, decoder: int) -> Table:
    """Our list runs through the encoder's blocks, then the decoder's, as attach_adapters does."""
    blocks = [("encoder", i) for i in range(encoder)] + [("decoder", i) for i in range(decoder)]
    table = {}
    for index, (side, i) in enumerate(blocks):
        old = f"t5_model.{side}.block.{i}.layer.{_T5_FFN[side]}.adapter"
        for k in (0, 1):
            one, new = f"{old}.adapters.{k}", f"{index}.adapters.{k}"
            table |= pair(f"{one}.down_proj", f"{new}.down", "b d")
            table |= pair(f"{one}.up_proj", f"{new}.up", "d b")
            table |= {f"{one}.scale": (f"{new}.scale", "1"),
                      f"{old}.router_ratio{k + 1}": (f"{index}.router.{k}", "2 d")}
    return table


def _join_router(part: dict[str, Tensor]) -> None:
    """router_ratio1, router_ratio2, each [2 tasks, D] -> router [K, 2 tasks, D]."""
    for key in [k for k in part if k.endswith(".router.0")]:
        name = key.removesuffix(".0")
        part[name] = torch.stack([part.pop(f"{name}.{k}") for k in (0, 1)])


def _vision(blocks: int) -> Table:
    table = {"visual_encoder.cls_token": ("embeddings.class_embedding", "1 1 v"),
             "visual_encoder.pos_embed": ("embeddings.position_embedding", "1 N v")}
    table |= pair("visual_encoder.patch_embed.proj", "embeddings.patch_embedding", "v 3 p p")
    for i in range(blocks):
        old, new = f"visual_encoder.blocks.{i}", f"encoder.layers.{i}"
        for theirs, (name, shape) in _VIT_BLOCK.items():
            table |= pair(f"{old}.{theirs}", f"{new}.{name}", shape)
        table |= {f"{old}.attn.{name}": (f"{new}.self_attn.{name}", shape)
                  for name, shape in _QKV.items()}
    return table


def _join_qkv_bias(part: dict[str, Tensor]) -> None:
    """EVA's keys have no bias: qkv.bias = [q_bias, 0, v_bias], [3 * Dv]."""
    for key in [k for k in part if k.endswith(".q_bias")]:
        stem = key.removesuffix("q_bias")
        q, v = part.pop(key), part.pop(f"{stem}v_bias")
        part[f"{stem}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])


def _t5(encoder: int, decoder: int) -> Table:
    """FlanT5: gated FFN, no biases, a position table in the first block only, untied head."""
    shapes = {"shared": "V d", "lm_head": "V d"}
    for side, blocks in (("encoder", encoder), ("decoder", decoder)):
        attentions = ["SelfAttention", "EncDecAttention"][:_T5_FFN[side]]
        shapes |= {f"{side}.final_layer_norm": "d",
                   f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias": "B H"}
        for i in range(blocks):
            block = f"{side}.block.{i}.layer"
            shapes |= {f"{block}.{j}.{kind}.{x}": shape for j, kind in enumerate(attentions)
                       for x, shape in _T5_ATTENTION.items()}
            shapes |= {f"{block}.{len(attentions)}.DenseReluDense.{w}": shape
                       for w, shape in _T5_MLP.items()}
            shapes |= {f"{block}.{j}.layer_norm": "d" for j in range(len(attentions) + 1)}
    return {f"t5_model.{name}.weight": (f"{name}.weight", shape)
            for name, shape in shapes.items()}


def _tie(part: dict[str, Tensor]) -> None:
    """T5's state dict names its shared embedding three times."""
    for side in _T5_FFN:
        part[f"{side}.embed_tokens.weight"] = part["shared.weight"]
