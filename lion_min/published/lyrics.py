"""The official Lyrics checkpoint (Ziya-Visual-Lyrics-14B) in our model, key by key.

Names: the official stage-2 class, `LyricsLMForConditionalGeneration` (Fengshenbang-LM,
fengshen/models/Lyrics/modeling_lyrics.py, commit 1867d84). The released file calls itself
GroundedBLIPLMForConditionalGeneration, an older class whose names could not be read; where they
differ, the keys are named and nothing is written.

The file also holds a tagger (ram.*) and a detector (grounding_dino.*). Ours come through
transformers (lyrics_refiner.py), so these keys are left out, and said. LoRA starts at zero.

Symbols: N patches, Q queries, Dv and Do widths of image and object features; in the tables v q o
are the widths of ViT, MQ-Former and objects, d the LLM's, f g h inner widths.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lion_min.language import LanguageModel
from lion_min.lyrics.model import Lyrics, LyricsSettings
from lion_min.lyrics.objectives import ObjectiveSettings
from lion_min.lyrics.mqformer import MQFormerSettings
from lion_min.published import keys, layouts
from lion_min.published.keys import Table, pair
from lion_min.published.layouts import CROSS_EVERY
from lion_min.published.lyrics_refiner import PublishedSettings
from lion_min.vision import VisionEncoder

STAGE = 2
FROZEN = ("refiner.", "loras.")            # in no official file: transformers' own, and zero
# What no shape tells. heads, vit_heads, qformer_heads; how many of the queries read objects.
OPTIONS = {"heads": 0, "vit_heads": 16, "qformer_heads": 12, "object_queries": 64}
IGNORED = (r"ram\..*", r"grounding_dino\..*", r"qformer\.embeddings\.position_ids",
           r"language_model\." + layouts.ROTARY)
NAMES = {5120: "lyrics-vicuna13b"}         # by the LLM's width

_VIT_BLOCK = {"layer_norm1": "v", "layer_norm2": "v", "self_attn.qkv": "3v v",
              "self_attn.projection": "v v", "mlp.fc1": "h v", "mlp.fc2": "v h"}


def convert(tensors: dict[str, Tensor],
            **options) -> tuple[dict[str, Tensor], LyricsSettings]:
    """Official tensors -> (ours by parameter name, their settings).

    options: those of OPTIONS. BadInput names the keys that do not fit.
    """
    tensors = keys.without(tensors, IGNORED)
    ours = keys.translate(tensors, official_names(tensors), "Lyrics")
    return ours, settings_of(ours, **OPTIONS | options)


def official_names(tensors: dict[str, Tensor]) -> Table:
    """The key table of a model as deep as `tensors`; the published sizes have known depths."""
    table = {"query_tokens": ("mqformer.query_tokens", "1 Q q")}
    table |= pair("language_projection", "language_projection", "d q")
    return (table | _vision(tensors) | _mqformer(tensors)
            | layouts.llama(tensors, "language_model."))


def _vision(tensors: dict[str, Tensor]) -> Table:
    """EVA's ViT in transformers' names; its last norm is our ln_vision."""
    old, new = "vision_model.embeddings", "vision.model.embeddings"
    table = {f"{old}.class_embedding": (f"{new}.class_embedding", "1 1 v"),
             f"{old}.position_embedding": (f"{new}.position_embedding", "1 N v")}
    table |= pair(f"{old}.patch_embedding", f"{new}.patch_embedding", "v 3 p p")
    table |= pair("vision_model.post_layernorm", "ln_vision", "v")
    known = 39 if keys.rows(tensors, "vision_model.post_layernorm.weight") == 1408 else 1
    for i in range(keys.count_layers(tensors, "vision_model.encoder.layers.", known)):
        for part, shape in _VIT_BLOCK.items():
            name = f"encoder.layers.{i}.{part}"
            table |= pair(f"vision_model.{name}", f"vision.model.{name}", shape)
    return table


def _mqformer(tensors: dict[str, Tensor]) -> Table:
    table = layouts.bert_embeddings("qformer.embeddings", "mqformer.")
    known = 12 if keys.rows(tensors, "qformer.embeddings.LayerNorm.weight") == 768 else 1
    for i in range(keys.count_layers(tensors, "qformer.encoder.layer.", known)):
        cross = {"crossattention": ("cross", "v"),
                 "detection_crossattention": ("object_cross", "o")} if i % CROSS_EVERY == 0 else {}
        table |= layouts.bert_layer(f"qformer.encoder.layer.{i}", f"mqformer.layers.{i}",
                                    {"attention": ("attention", "q")} | cross,
                                    {"": "text_ffn", "_query": "query_ffn"}, inside="attention")
    return table


def settings_of(ours: dict[str, Tensor], heads: int, vit_heads: int, qformer_heads: int,
                object_queries: int) -> LyricsSettings:
    """The settings of the model that converted tensors belong to, read off their shapes."""
    mqformer = MQFormerSettings(
        **layouts.read_qformer(ours, qformer_heads, "mqformer."), object_queries=object_queries,
        object_width=ours["mqformer.layers.0.object_cross.key.weight"].shape[1])
    return _settings(
        vision=layouts.read_eva(ours, vit_heads, "vision_model.embeddings.position_embedding"),
        language=layouts.read_llama(ours, heads), mqformer=mqformer)


def settings_by_name(name: str) -> LyricsSettings:
    """A published model's settings without any file. BadInput for another name."""
    if name not in NAMES.values():
        raise keys.unknown_preset(name, "Lyrics", NAMES.values())
    mqformer = MQFormerSettings(**layouts.BERT_BASE, queries=96, vision_width=layouts.EVA_G.width,
                                vocab=30523, max_text=512, cross_every=CROSS_EVERY,
                                object_queries=64, object_width=260)
    return _settings(vision=layouts.EVA_G, language=layouts.llama_settings(5120),
                     mqformer=mqformer)


def _settings(**parts) -> LyricsSettings:
    """The published model's around its parts."""
    return LyricsSettings(refiner=PublishedSettings(), objectives=ObjectiveSettings(contrast=256),
                          depths=(-1,), object_lines=False, **parts)


def build(settings: LyricsSettings, refiner: nn.Module | None = None) -> Lyrics:
    """A Lyrics of these settings; without a refiner its inputs bring their objects along."""
    return Lyrics(settings, VisionEncoder(settings.vision), refiner,
                  LanguageModel(settings.language))


def load(folder: Path | str, refiner: nn.Module | None = None) -> Lyrics:
    """The Lyrics of an imported folder, around a PublishedRefiner or none. LoRA is zero."""
    return keys.load(folder, LyricsSettings, lambda s: build(s, refiner), FROZEN,
                     refiner=PublishedSettings)
