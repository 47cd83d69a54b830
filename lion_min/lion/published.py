"""The official LION checkpoint in our model: sizes read off its tensors, every part filled.

Nothing of this is a second model: `settings_of` gives settings for the same `Lion` that runs the
tiny preset, and `official.rename` gives the names.

Shapes: N patches, Q queries, Dv vision width.
"""

import math

from torch import Tensor

from ..language import LanguageSettings
from ..qformer import QFormerSettings
from ..vision import VisionSettings
from .model import Lion, LionSettings
from .official import CROSS_EVERY, PARTS, count_layers, rename

# Where in our Lion a part lives whose name is not already its place.
_PLACES = {"t5_proj": "query_proj", "adapter_proj": "mlp", "vision": "vision.model",
           "t5": "llm.model"}


def settings_of(weights: dict[str, Tensor], vit_heads: int = 16, qformer_heads: int = 12,
                aggregator_heads: int = 16, distance: int = 128,
                hint_id: int = 32099) -> LionSettings:
    """The settings of the model that an official state dict with all PARTS belongs to.

    Every size is read off a shape; what no shape tells has the published value as its default.
    """
    parts = rename(weights)
    return LionSettings(
        vision=_vision_settings(parts["vision"], vit_heads),
        language=_language_settings(parts["t5"], distance),
        qformer=_qformer_settings(parts["qformer"], qformer_heads),
        mode="all", depths=(39, 29, 19),  # after the 0-based blocks 38, 28, 18
        aggregator_heads=aggregator_heads,
        aggregator_ffn=len(parts["aggregator"]["blocks.0.ffn.up.weight"]),
        mlp=len(parts["adapter_proj"]["0.weight"]),
        bottleneck=len(parts["adapters"]["0.adapters.0.down.weight"]),
        region_tokens=False, hint_id=hint_id,
        generate={"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 1.0,
                  "min_length": 1, "max_new_tokens": 256})


def _vision_settings(part: dict[str, Tensor], heads: int) -> VisionSettings:
    width, _, patch, _ = part["embeddings.patch_embedding.weight"].shape
    side = math.isqrt(part["embeddings.position_embedding"].shape[1] - 1)        # [1, 1+N, Dv]
    return VisionSettings(
        family="eva", image=side * patch, patch=patch, width=width, heads=heads, stem=(),
        blocks=count_layers(part, "encoder.layers."),
        mlp=len(part["encoder.layers.0.mlp.fc1.weight"]), ln_eps=1e-6)


def _qformer_settings(part: dict[str, Tensor], heads: int) -> QFormerSettings:
    _, queries, width = part["query_tokens"].shape
    return QFormerSettings(
        width=width, layers=count_layers(part, "layers."), heads=heads, queries=queries,
        ffn=len(part["layers.0.query_ffn.up.weight"]), cross_every=CROSS_EVERY,
        vision_width=part["layers.0.cross.key.weight"].shape[1],
        vocab=len(part["words.weight"]), max_text=len(part["positions.weight"]))


def _language_settings(part: dict[str, Tensor], distance: int) -> LanguageSettings:
    attention = "encoder.block.0.layer.0.SelfAttention"
    vocab, width = part["shared.weight"].shape
    buckets, heads = part[f"{attention}.relative_attention_bias.weight"].shape
    return LanguageSettings(
        family="t5", vocab=vocab, width=width, heads=heads, tied=False,
        layers=count_layers(part, "encoder.block."),
        decoder_layers=count_layers(part, "decoder.block."),
        head_width=len(part[f"{attention}.q.weight"]) // heads, buckets=buckets,
        distance=distance, ffn=len(part["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"]))


def load_official(model: Lion, weights: dict[str, Tensor],
                  parts: tuple[str, ...] = PARTS) -> None:
    """Fill `model` with an official state dict, strictly. ValueError when its T5 is tied."""
    t5 = model.llm.model
    if "t5" in parts and t5.lm_head.weight is t5.shared.weight:
        raise ValueError("the official T5 has a head of its own; build ours with tied=False")
    for part, tensors in rename(weights, parts).items():
        module = model.get_submodule(_PLACES.get(part, part))
        module.load_state_dict(tensors, strict=True)
