"""The official LION checkpoint in our model: sizes read off its tensors, every part filled.

Nothing of this is a second model: `settings_of` gives settings for the same `Lion` that runs the
tiny preset, and lion_names.py the names. LION's .pth holds what was trained; the frozen ViT
(eva_vit_g.pth) and T5 (google/flan-t5-xl or -xxl) have files of their own, and may be imported
beside it or brought along to `load`.
"""

import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from lion_min import BadInput, checkpoints
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lion.model import Lion, LionSettings
from lion_min.lion.system import LionSystem
from lion_min.parts import Parts
from lion_min.pretrained.backbones import load_language, load_tokenizer, load_vision
from lion_min.pretrained.hf_tokenizer import PretrainedTokenizer
from lion_min.pretrained.presets import PRESETS
from lion_min.published import keys
from lion_min.published.layouts import (BERT_BASE, CROSS_EVERY, EVA_G, flan_t5, read_eva,
                                        read_qformer)
from lion_min.published.lion_names import IGNORED, PUBLISHED_WIDTHS, TRAINED, rename
from lion_min.qformer import QFormerSettings
from lion_min.vision import TagHead, VisionEncoder

STAGE = 4
FROZEN = ("vision.", "llm.")               # may be absent: files of their own
OPTIONS = {"vit_heads": 16, "qformer_heads": 12, "aggregator_heads": 16, "distance": 128,
           "hint_id": 32099}               # what no shape tells, as published
GENERATE = {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 1.0, "min_length": 1,
            "max_new_tokens": 256}
NAMES = {2048: "lion-flant5-xl", 4096: "lion-flant5-xxl"}   # by the T5's width
# The submodule of our Lion that a part fills, where it is called otherwise.
_SUBMODULES = {"t5_proj": "query_proj", "adapter_proj": "mlp", "vision": "vision.model",
               "t5": "llm.model"}
# How the frozen parts' own files begin their keys, and what LION puts before them.
_BASES = {r"(cls_token|pos_embed|patch_embed\.|blocks\.)": "visual_encoder.",
          r"(shared|lm_head|encoder|decoder)\.": "t5_model."}


def convert(tensors: dict[str, Tensor], **options) -> tuple[dict[str, Tensor], LionSettings]:
    """Official tensors, of one file or several -> (ours by parameter name, their settings).

    options: those of OPTIONS. BadInput names the keys that do not fit.
    """
    weights = {next((p for b, p in _BASES.items() if re.match(b, key)), "") + key: tensor
               for key, tensor in tensors.items()}
    ours = {f"{_SUBMODULES.get(part, part)}.{name}": tensor
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
    width = next((w for w, known in NAMES.items() if known == name), None)
    if width is None:
        raise keys.unknown_preset(name, "LION", NAMES.values())
    qformer = QFormerSettings(**BERT_BASE, queries=32, vision_width=EVA_G.width, vocab=30523,
                              max_text=512, cross_every=CROSS_EVERY)
    return _settings(vision=EVA_G, language=flan_t5(width), qformer=qformer, aggregator_heads=16,
                     aggregator_ffn=3072, mlp=5632, bottleneck=64, hint_id=OPTIONS["hint_id"])


def _settings(**sizes) -> LionSettings:
    """What every published LION has in common, and its sizes."""
    return LionSettings(mode="all", depths=(39, 29, 19),  # behind the 0-based blocks 38, 28, 18
                        region_tokens=False, generate=dict(GENERATE), **sizes)


def build(settings: LionSettings, vision: nn.Module | None = None,
          llm: LanguageModel | None = None) -> Lion:
    """A Lion of these settings; the frozen parts are made, too, unless they are given."""
    return Lion(settings, vision or VisionEncoder(settings.vision),
                llm or LanguageModel(settings.language))


def load(folder: Path | str, vision: nn.Module | None = None,
         llm: LanguageModel | None = None) -> Lion:
    """The Lion of an imported folder. A frozen part that the folder lacks must be given."""
    given = [prefix for prefix, m in zip(FROZEN, (vision, llm)) if m is not None]
    return keys.load(folder, LionSettings, lambda s: build(s, vision, llm), given)


def open_system(folder: Path | str, stage, device="cpu", vision: str | None = None,
                language: str | None = None) -> LionSystem:
    """An imported LION, ready to be asked; without tags, for RAM is a model of its own.

    stage: LION's stage 4. language: FlanT5's folder or name, for its tokenizer, and its weights
    where the import has none; vision: InstructBLIP's, for the Q-Former's tokenizer in
    qformer_tokenizer/ and, likewise, the ViT. None: those of the preset.
    """
    tensors, config = checkpoints.load_run(folder)
    if (preset := PRESETS.get(config.get("preset"))) is None and not (vision and language):
        raise BadInput(f"{folder}: of no preset's size; say where its parts lie: --vision DIR "
                       "--llm DIR")
    vision, language = vision or preset.vision, language or preset.language
    no_vision, no_llm = (not any(name.startswith(p) for name in tensors) for p in FROZEN)
    model = load(folder, load_vision(vision) if no_vision else None,
                 load_language(language)[0] if no_llm else None)
    s = model.settings
    tokenizer = load_tokenizer(language, s.language.vocab)
    questions = Questions(load_tokenizer(vision, s.qformer.vocab, "qformer_tokenizer"))
    tagger = TagHead(s.vision.width, ()).to(device)
    parts = Parts(model.vision, tagger, model.llm, tokenizer, preset=config.get("preset"))
    system = LionSystem(parts, replace(stage, tags=False), model.to(device))
    system.question_tokenizer = questions
    return system


class Questions:
    """BERT's words for the Q-Former: [CLS] the bare question [SEP]."""

    def __init__(self, tokenizer: PretrainedTokenizer):
        self.tokenizer = tokenizer
        self.pad_id, self.unk_id = tokenizer.pad_id, tokenizer.unk_id

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.chat_prompt(self.tokenizer.encode(text))


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
    return _settings(
        vision=read_eva(parts["vision"], vit_heads, "visual_encoder.pos_embed", "")
        if "vision" in parts else EVA_G,
        language=_language_settings(parts["t5"], distance) if "t5" in parts else flan_t5(width),
        qformer=QFormerSettings(**read_qformer(parts["qformer"], qformer_heads)),
        aggregator_heads=aggregator_heads,
        aggregator_ffn=len(parts["aggregator"]["blocks.0.ffn.up.weight"]),
        mlp=len(parts["adapter_proj"]["0.weight"]),
        bottleneck=len(parts["adapters"]["0.adapters.0.down.weight"]), hint_id=hint_id)


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
