"""The official LION checkpoint in our model: sizes read off its tensors, every part filled.

Nothing of this is a second model: `settings_of` gives settings for the same `Lion` that runs the
tiny preset, and `official.rename` gives the names. LION's .pth holds what was trained; the frozen
ViT (eva_vit_g.pth) and T5 (google/flan-t5-xl or -xxl) have files of their own, and may be
imported beside it or brought along to `load`.

Shapes: N patches, Q queries, Dv vision width.
"""

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from lion_min import BadInput, checkpoints

from lion_min.published import keys
from lion_min.pretrained.backbones import load_language, load_vision, load_words
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lion.model import Lion, LionSettings
from lion_min.lion.system import LionSystem
from lion_min.parts import Parts
from lion_min.published.lion_names import CROSS_EVERY, IGNORED, PARTS, PUBLISHED_WIDTHS, TRAINED, rename
from lion_min.pretrained.presets import PRESETS
from lion_min.qformer import QFormerSettings
from lion_min.vision import TagHead, VisionEncoder, VisionSettings
from lion_min.pretrained.hf_tokenizer import PretrainedTokenizer

STAGE = 4
FROZEN = ("vision.", "llm.")               # may be absent: files of their own
OPTIONS = {"vit_heads": 16, "qformer_heads": 12, "aggregator_heads": 16, "distance": 128,
           "hint_id": 32099}               # what no shape tells, as published
GENERATE = {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 1.0, "min_length": 1,
            "max_new_tokens": 256}
EVA_G = VisionSettings(family="eva", image=224, patch=14, width=1408, blocks=39, heads=16,
                       mlp=6144, stem=(), ln_eps=1e-6)
# Where in our Lion a part lives whose name is not already its place.
_PLACES = {"t5_proj": "query_proj", "adapter_proj": "mlp", "vision": "vision.model",
           "t5": "llm.model"}
# How the frozen parts' own files begin their keys, and what LION puts before them.
_BASES = {r"(cls_token|pos_embed|patch_embed\.|blocks\.)": "visual_encoder.",
          r"(shared|lm_head|encoder|decoder)\.": "t5_model."}


def flan_t5(width: int) -> LanguageSettings:
    """FlanT5-XL (width 2048) or FlanT5-XXL (4096)."""
    return LanguageSettings(family="t5", vocab=32128, width=width, layers=24, decoder_layers=24,
                            heads=width // 64, head_width=64, ffn=width * 5 // 2, tied=False)


def preset_of(settings: LionSettings) -> str:
    """The published model that has this width."""
    return {2048: "lion-flant5-xl", 4096: "lion-flant5-xxl"}.get(settings.language.width, "own")


def convert(tensors: dict[str, Tensor], **options) -> tuple[dict[str, Tensor], LionSettings]:
    """Official tensors, of one file or several -> (ours by parameter name, their settings).

    options: those of OPTIONS. BadInput names the keys that do not fit.
    """
    weights = {next((p for b, p in _BASES.items() if re.match(b, key)), "") + key: tensor
               for key, tensor in tensors.items()}
    ours = {f"{_PLACES.get(part, part)}.{name}": tensor
            for part, named in rename(weights, parts_in(weights)).items()
            for name, tensor in named.items() if not name.endswith("embed_tokens.weight")}
    return ours, settings_of(weights, **OPTIONS | options)


def parts_in(weights: dict[str, Tensor]) -> tuple[str, ...]:
    """TRAINED, and each frozen part of which there is a key."""
    t5 = any(re.fullmatch(r"t5_model\.(?!.*(embed_tokens|\.adapter)\.).*", k) for k in weights)
    vision = any(k.startswith("visual_encoder.") for k in weights)
    return TRAINED + ("vision",) * vision + ("t5",) * t5


def settings_by_name(name: str) -> LionSettings:
    """A published model's settings without any file. BadInput for another name."""
    widths = {"lion-flant5-xl": 2048, "lion-flant5-xxl": 4096}
    if name not in widths:
        raise BadInput(f"preset {name!r}: LION's published models are {', '.join(widths)}")
    return LionSettings(
        vision=EVA_G, language=flan_t5(widths[name]),
        qformer=QFormerSettings(width=768, layers=12, heads=12, ffn=3072, queries=32,
                                vision_width=EVA_G.width, vocab=30523, max_text=512,
                                cross_every=CROSS_EVERY),
        mode="all", depths=(39, 29, 19), aggregator_heads=16, aggregator_ffn=3072, mlp=5632,
        bottleneck=64, region_tokens=False, hint_id=OPTIONS["hint_id"], generate=dict(GENERATE))


def build(settings: LionSettings, vision: nn.Module | None = None,
          llm: LanguageModel | None = None) -> Lion:
    """A Lion of these settings; the frozen parts are made, too, unless they are given."""
    return Lion(settings, vision or VisionEncoder(settings.vision),
                llm or LanguageModel(settings.language))


def load(folder: Path | str, vision: nn.Module | None = None,
         llm: LanguageModel | None = None) -> Lion:
    """The Lion of an imported folder. A frozen part that the folder lacks must be given."""
    tensors, config = checkpoints.load_run(folder)
    settings = keys.restore(LionSettings, config["settings"], vision=VisionSettings,
                            language=LanguageSettings, qformer=QFormerSettings)
    model = build(settings, vision, llm)
    keys.fill(model, tensors, folder, [p for p, m in zip(FROZEN, (vision, llm)) if m is not None])
    return model.eval()


def open_system(folder: Path | str, stage, device="cpu", vision: str | None = None,
                language: str | None = None) -> LionSystem:
    """An imported LION, ready to be asked; without tags, for RAM is a model of its own.

    stage: LION's stage 4. language: FlanT5's folder or name, for its tokenizer, and its weights where the import has
    none; vision: InstructBLIP's, for the Q-Former's tokenizer in qformer_tokenizer/ and, likewise,
    the ViT. None: those of the preset.
    """
    tensors, config = checkpoints.load_run(folder)
    if (preset := PRESETS.get(config.get("preset"))) is None and not (vision and language):
        raise BadInput(f"{folder}: of no preset's size; say where its parts lie: --vision DIR "
                       "--llm DIR")
    vision, language = vision or preset.vision, language or preset.language
    alone = [not any(name.startswith(part) for name in tensors) for part in FROZEN]
    model = load(folder, load_vision(vision) if alone[0] else None,
                 load_language(language)[0] if alone[1] else None)
    s = model.settings
    words = load_words(language, s.language.vocab)
    questions = Questions(load_words(vision, s.qformer.vocab, "qformer_tokenizer"))
    tagger = TagHead(s.vision.width, ()).to(device)
    parts = Parts(model.vision, tagger, model.llm, words, preset=config.get("preset"))
    system = LionSystem(parts, replace(stage, tags=False), model.to(device))
    system.question_tokenizer = questions
    return system


class Questions:
    """BERT's words for the Q-Former: [CLS] the bare question [SEP]."""

    def __init__(self, words: PretrainedTokenizer):
        self.words, self.pad_id, self.unk_id = words, words.pad_id, words.unk_id

    def encode(self, text: str) -> list[int]:
        return self.words.chat_prompt(self.words.encode(text))


def settings_of(weights: dict[str, Tensor], vit_heads: int = 16, qformer_heads: int = 12,
                aggregator_heads: int = 16, distance: int = 128,
                hint_id: int = 32099) -> LionSettings:
    """The settings of the model that an official state dict belongs to.

    Every size is read off a shape; what no shape tells has the published value as its default.
    A frozen part that is not among the tensors is taken for the published one of its width.
    """
    parts = rename(weights, parts_in(weights))
    seen, width = len(parts["ln_vision"]["weight"]), len(parts["soft_prompt"]["hint"])
    if "vision" not in parts and seen != EVA_G.width:
        raise BadInput(f"the ViT that LION saw is {seen} wide, the published one {EVA_G.width}; "
                       "give the ViT's file, too")
    if "t5" not in parts and width not in PUBLISHED_WIDTHS:
        raise BadInput(f"the T5 is {width} wide, the published ones 2048 and 4096; "
                       "give the T5's file, too")
    return LionSettings(
        vision=_vision_settings(parts["vision"], vit_heads) if "vision" in parts else EVA_G,
        language=_language_settings(parts["t5"], distance) if "t5" in parts else flan_t5(width),
        qformer=_qformer_settings(parts["qformer"], qformer_heads),
        mode="all", depths=(39, 29, 19),  # after the 0-based blocks 38, 28, 18
        aggregator_heads=aggregator_heads,
        aggregator_ffn=len(parts["aggregator"]["blocks.0.ffn.up.weight"]),
        mlp=len(parts["adapter_proj"]["0.weight"]),
        bottleneck=len(parts["adapters"]["0.adapters.0.down.weight"]),
        region_tokens=False, hint_id=hint_id,
        generate=dict(GENERATE))


def _vision_settings(part: dict[str, Tensor], heads: int) -> VisionSettings:
    width, _, patch, _ = part["embeddings.patch_embedding.weight"].shape
    patches = part["embeddings.position_embedding"].shape[1] - 1          # [1, 1+N, Dv]
    side = keys.side(patches, "visual_encoder.pos_embed")
    return VisionSettings(
        family="eva", image=side * patch, patch=patch, width=width, heads=heads, stem=(),
        blocks=keys.count_layers(part, "encoder.layers."),
        mlp=len(part["encoder.layers.0.mlp.fc1.weight"]), ln_eps=1e-6)


def _qformer_settings(part: dict[str, Tensor], heads: int) -> QFormerSettings:
    _, queries, width = part["query_tokens"].shape
    return QFormerSettings(
        width=width, layers=keys.count_layers(part, "layers."), heads=heads, queries=queries,
        ffn=len(part["layers.0.query_ffn.up.weight"]), cross_every=CROSS_EVERY,
        vision_width=part["layers.0.cross.key.weight"].shape[1],
        vocab=len(part["words.weight"]), max_text=len(part["positions.weight"]))


def _language_settings(part: dict[str, Tensor], distance: int) -> LanguageSettings:
    attention = "encoder.block.0.layer.0.SelfAttention"
    vocab, width = part["shared.weight"].shape
    buckets, heads = part[f"{attention}.relative_attention_bias.weight"].shape
    return LanguageSettings(
        family="t5", vocab=vocab, width=width, heads=heads, tied=False,
        layers=keys.count_layers(part, "encoder.block."),
        decoder_layers=keys.count_layers(part, "decoder.block."),
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
