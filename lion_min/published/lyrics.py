"""The official Lyrics checkpoint (Ziya-Visual-Lyrics-14B) in our model, key by key.

Names: the official stage-2 class, `LyricsLMForConditionalGeneration` (Fengshenbang-LM,
fengshen/models/Lyrics/modeling_lyrics.py, commit 1867d84). The released file calls itself
GroundedBLIPLMForConditionalGeneration, an older class whose names could not be read; where they
differ, the keys are named and nothing is written.

The file also holds a tagger (ram.*) and a detector (grounding_dino.*). Ours come through
transformers (published_refiner.py), so these keys are left out, and said. LoRA starts at zero.

Symbols: N patches, Q queries, Dv and Do widths of image and object features; in the tables v q o
are the widths of ViT, MQ-Former and objects, d the LLM's, f g h inner widths.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lion_min import BadInput, checkpoints

from lion_min.published import keys
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lyrics.model import Lyrics, LyricsSettings
from lion_min.lyrics.objectives import ObjectiveSettings
from lion_min.published.lyrics_refiner import PublishedSettings
from lion_min.lyrics.mqformer import MQFormerSettings
from lion_min.vision import VisionEncoder, VisionSettings

STAGE = 2
FROZEN = ("refiner.", "loras.")            # in no official file: transformers' own, and zero
# What no shape tells. heads, vit_heads, qformer_heads; how many of the queries read objects.
OPTIONS = {"heads": 0, "vit_heads": 16, "qformer_heads": 12, "object_queries": 64}
IGNORED = (r"ram\..*", r"grounding_dino\..*", r"qformer\.embeddings\.position_ids",
           r"language_model\." + keys.ROTARY)
CROSS_EVERY = 2

_ATTENTION = {"attention.query": "query", "attention.key": "key", "attention.value": "value",
              "output.dense": "out", "output.LayerNorm": "norm"}
_VIT_BLOCK = {"layer_norm1": "v", "layer_norm2": "v", "self_attn.qkv": "3v v",
              "self_attn.projection": "v v", "mlp.fc1": "h v", "mlp.fc2": "v h"}

Table = dict[str, tuple[str, str]]         # official key -> (our key, its shape in letters)


def convert(tensors: dict[str, Tensor],
            **options) -> tuple[dict[str, Tensor], LyricsSettings]:
    """Official tensors -> (ours by parameter name, their settings).

    options: those of OPTIONS. BadInput names the keys that do not fit.
    """
    tensors = {k: v for k, v in tensors.items() if not keys.matches(k, IGNORED)}
    table = official_names(tensors)
    keys.account(tensors, {key: shape for key, (_, shape) in table.items()}, "Lyrics")
    ours = {new: tensors[old] for old, (new, _) in table.items()}
    return ours, settings_of(ours, **OPTIONS | options)


def preset_of(settings: LyricsSettings) -> str:
    """The published model that has this width."""
    return {5120: "lyrics-vicuna13b"}.get(settings.language.width, "own")


def official_names(tensors: dict[str, Tensor]) -> Table:
    """The key table of a model as deep as `tensors`; the published sizes have known depths."""
    table = {"query_tokens": ("mqformer.query_tokens", "1 Q q")}
    table |= _pair("language_projection", "language_projection", "d q")
    table |= _vision(tensors) | _mqformer(tensors)
    return table | {key: (f"llm.model.{key.removeprefix('language_model.')}", shape)
                    for key, shape in keys.llama_shapes(tensors, "language_model.").items()}


def _pair(official: str, ours: str, shape: str) -> Table:
    """Weight and bias of a Linear or a norm."""
    return {f"{official}.weight": (f"{ours}.weight", shape),
            f"{official}.bias": (f"{ours}.bias", shape.split()[0])}


def _vision(tensors: dict[str, Tensor]) -> Table:
    """EVA's ViT in transformers' names; its last norm is our ln_vision."""
    old, new = "vision_model.embeddings", "vision.model.embeddings"
    table = {f"{old}.class_embedding": (f"{new}.class_embedding", "1 1 v"),
             f"{old}.position_embedding": (f"{new}.position_embedding", "1 N v")}
    table |= _pair(f"{old}.patch_embedding", f"{new}.patch_embedding", "v 3 p p")
    table |= _pair("vision_model.post_layernorm", "ln_vision", "v")
    known = 39 if keys.rows(tensors, "vision_model.post_layernorm.weight") == 1408 else 1
    for i in range(keys.count_layers(tensors, "vision_model.encoder.layers.", known)):
        for part, shape in _VIT_BLOCK.items():
            place = f"encoder.layers.{i}.{part}"
            table |= _pair(f"vision_model.{place}", f"vision.model.{place}", shape)
    return table


def _mqformer(tensors: dict[str, Tensor]) -> Table:
    old, new = "qformer.embeddings", "mqformer"
    table = {f"{old}.word_embeddings.weight": (f"{new}.words.weight", "W q"),
             f"{old}.position_embeddings.weight": (f"{new}.positions.weight", "P q")}
    table |= _pair(f"{old}.LayerNorm", f"{new}.norm", "q")
    known = 12 if keys.rows(tensors, f"{old}.LayerNorm.weight") == 768 else 1
    for i in range(keys.count_layers(tensors, "qformer.encoder.layer.", known)):
        old, new = f"qformer.encoder.layer.{i}", f"mqformer.layers.{i}"
        looks = {"attention": ("attention", "q")}
        if i % CROSS_EVERY == 0:
            looks |= {"crossattention": ("cross", "v"),
                      "detection_crossattention": ("object_cross", "o")}
        for theirs, (ours, context) in looks.items():
            for part, place in _ATTENTION.items():
                inside = context if place in ("key", "value") else "q"
                shape = "q" if place == "norm" else f"q {inside}"
                table |= _pair(f"{old}.{theirs}.{part}", f"{new}.{ours}.{place}", shape)
        for end, ours in (("", "text_ffn"), ("_query", "query_ffn")):
            table |= _pair(f"{old}.intermediate{end}.dense", f"{new}.{ours}.up", "g q")
            table |= _pair(f"{old}.output{end}.dense", f"{new}.{ours}.out", "q g")
            table |= _pair(f"{old}.output{end}.LayerNorm", f"{new}.{ours}.norm", "q")
    return table


def settings_of(ours: dict[str, Tensor], heads: int, vit_heads: int, qformer_heads: int,
                object_queries: int) -> LyricsSettings:
    """The settings of the model that converted tensors belong to, read off their shapes."""
    width, _, patch, _ = ours["vision.model.embeddings.patch_embedding.weight"].shape
    patches = ours["vision.model.embeddings.position_embedding"].shape[1] - 1  # [1, 1+N, Dv]
    side = keys.side(patches, "vision_model.embeddings.position_embedding")
    vision = VisionSettings(
        family="eva", image=side * patch, patch=patch, width=width, heads=vit_heads, stem=(),
        blocks=keys.count_layers(ours, "vision.model.encoder.layers."), ln_eps=1e-6,
        mlp=len(ours["vision.model.encoder.layers.0.mlp.fc1.weight"]))
    vocab, llm_width = ours["llm.model.lm_head.weight"].shape
    language = LanguageSettings(
        vocab=vocab, width=llm_width, heads=heads or llm_width // keys.LLAMA_HEAD,
        layers=keys.count_layers(ours, "llm.model.model.layers."), positions=2048, tied=False,
        ffn=len(ours["llm.model.model.layers.0.mlp.up_proj.weight"]), eos_id=2)
    _, queries, inner = ours["mqformer.query_tokens"].shape
    mqformer = MQFormerSettings(
        width=inner, layers=keys.count_layers(ours, "mqformer.layers."), heads=qformer_heads,
        ffn=len(ours["mqformer.layers.0.query_ffn.up.weight"]), queries=queries,
        vision_width=width, vocab=len(ours["mqformer.words.weight"]), cross_every=CROSS_EVERY,
        max_text=len(ours["mqformer.positions.weight"]), object_queries=object_queries,
        object_width=ours["mqformer.layers.0.object_cross.key.weight"].shape[1])
    return LyricsSettings(vision=vision, language=language, refiner=PublishedSettings(),
                          mqformer=mqformer, objectives=ObjectiveSettings(contrast=256),
                          depths=(-1,), object_lines=False)


def settings_by_name(name: str) -> LyricsSettings:
    """A published model's settings without any file. BadInput for another name."""
    if name != "lyrics-vicuna13b":
        raise BadInput(f"preset {name!r}: Lyrics' published model is lyrics-vicuna13b")
    eva = VisionSettings(family="eva", image=224, patch=14, width=1408, blocks=39, heads=16,
                         mlp=6144, stem=(), ln_eps=1e-6)
    return LyricsSettings(
        vision=eva, refiner=PublishedSettings(), objectives=ObjectiveSettings(contrast=256),
        language=LanguageSettings(vocab=32000, width=5120, heads=40, layers=40, ffn=13824,
                                  positions=2048, tied=False, eos_id=2),
        mqformer=MQFormerSettings(width=768, layers=12, heads=12, ffn=3072, queries=96,
                                  vision_width=eva.width, vocab=30523, max_text=512,
                                  cross_every=CROSS_EVERY, object_queries=64, object_width=260),
        depths=(-1,), object_lines=False)


def build(settings: LyricsSettings, refiner: nn.Module | None = None) -> Lyrics:
    """A Lyrics of these settings; without a refiner its inputs bring their objects along."""
    return Lyrics(settings, VisionEncoder(settings.vision), refiner,
                  LanguageModel(settings.language))


def load(folder: Path | str, refiner: nn.Module | None = None) -> Lyrics:
    """The Lyrics of an imported folder, around a PublishedRefiner or none. LoRA is zero."""
    tensors, config = checkpoints.load_run(folder)
    settings = keys.restore(LyricsSettings, config["settings"], vision=VisionSettings,
                            language=LanguageSettings, refiner=PublishedSettings,
                            mqformer=MQFormerSettings, objectives=ObjectiveSettings)
    model = build(settings, refiner)
    keys.fill(model, tensors, folder, FROZEN)
    return model.eval()
