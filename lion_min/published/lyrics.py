"""The official Lyrics checkpoint (Ziya-Visual-Lyrics-14B) in our model, key by key.

Names: the official stage-2 class, `LyricsLMForConditionalGeneration` (Fengshenbang-LM,
fengshen/models/Lyrics/modeling_lyrics.py, commit 1867d84). The released file calls itself
GroundedBLIPLMForConditionalGeneration, an older class whose names could not be read; where they
differ, the keys are named and nothing is written.

The file also holds a tagger (ram.*) and a detector (grounding_dino.*). Ours come through
transformers (lyrics_refiner.py), so these keys are left out, and said. LoRA starts at zero.

Letters of the table: those of layouts.py, o the width of an object's features.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lyrics.model import Lyrics, LyricsSettings
from lion_min.lyrics.objectives import ObjectiveSettings
from lion_min.lyrics.mqformer import MQFormerSettings
from lion_min.lyrics.pairtext import PairText
from lion_min.lyrics.system import LyricsSystem
from lion_min.padding import pad_rows
from lion_min.parts import Parts
from lion_min.pretrained import around
from lion_min.pretrained.backbones import load_tokenizer
from lion_min.published import keys, layouts, lyrics_refiner
from lion_min.published.asking import Questions, imported_parts
from lion_min.published.lyrics_refiner import PublishedSettings
from lion_min.vision import VisionEncoder, VisionSettings

STAGE = 2
NEEDS = {"vision": "InstructBLIP, for the Q-Former's tokenizer", "llm": "Vicuna, for its tokenizer",
         "detector": "Grounding-DINO"}
FROZEN = ("refiner.", "loras.")            # in no official file: transformers' own, and zero
# What no shape tells. heads, vit_heads, qformer_heads; how many of the queries read objects.
OPTIONS = {"heads": 0, "vit_heads": 16, "qformer_heads": 12, "object_queries": 64}
IGNORED = (r"ram\..*|grounding_dino\..*|qformer\.embeddings\.position_ids|"
           r"language_model\.") + layouts.ROTARY
SIZES = {"lyrics-vicuna13b": layouts.EVA_G | layouts.BERT | layouts.LLAMA_13B | {"Q": 96, "o": 260}}
POSITIONS = "vision_model.embeddings.position_embedding"

TABLE = """
language_projection.*  language_projection.*  d q
vision_model.post_layernorm.*  ln_vision.*  v
""" + keys.same("""
embeddings.class_embedding  1 1 v
embeddings.position_embedding  1 N v
embeddings.patch_embedding.*  v 3 p p
encoder.layers.[Ev].{layer_norm1,layer_norm2}.*  v
encoder.layers.[Ev].self_attn.qkv.*  3v v
encoder.layers.[Ev].self_attn.projection.*  v v
encoder.layers.[Ev].mlp.fc1.*  h v
encoder.layers.[Ev].mlp.fc2.*  v h
""", "vision_model.", "vision.model.") + layouts.qformer_table(
    "qformer", "mqformer", "attention") + layouts.attention(
    "qformer.encoder.layer.[Kq:2].detection_crossattention", "mqformer.layers.[Kq:2].object_cross",
    "q", "o", "attention") + layouts.llama_table("language_model.")


def convert(tensors: dict[str, Tensor],
            **options) -> tuple[dict[str, Tensor], LyricsSettings]:
    """Official tensors -> (ours by parameter name, their settings).

    options: those of OPTIONS. BadInput names the keys that do not fit.
    """
    ours, n = keys.read(keys.without(tensors, IGNORED), TABLE, "Lyrics", SIZES.values())
    return ours, settings(n, **options)


def settings(n: keys.Sizes, **options) -> LyricsSettings:
    """The settings of the model of these sizes; options: those of OPTIONS."""
    o = OPTIONS | options
    return LyricsSettings(
        vision=layouts.eva(n, o["vit_heads"], POSITIONS), language=layouts.llama(n, o["heads"]),
        mqformer=MQFormerSettings(**layouts.qformer(n, o["qformer_heads"]), object_width=n["o"],
                                  object_queries=o["object_queries"]),
        refiner=PublishedSettings(), objectives=ObjectiveSettings(contrast=256), depths=(-1,),
        object_lines=False)


settings_by_name = partial(keys.settings_by_name, "Lyrics", SIZES, settings)


def build(settings: LyricsSettings, refiner: nn.Module | None = None) -> Lyrics:
    """A Lyrics of these settings; without a refiner its inputs bring their objects along."""
    return Lyrics(settings, VisionEncoder(settings.vision), refiner,
                  LanguageModel(settings.language))


def load(folder: Path | str, refiner: nn.Module | None = None) -> Lyrics:
    """The Lyrics of an imported folder, around a PublishedRefiner or none. LoRA is zero."""
    return keys.load(folder, LyricsSettings, lambda s: build(s, refiner), FROZEN,
                     refiner=PublishedSettings)


def complete(parts: Parts, detector: str, segmenter: str = "", **_) -> None:
    """The published refiner, and the settings around it and these parts."""
    parts.beside["refiner"] = refiner = lyrics_refiner.load(detector, segmenter)
    parts.published = settings_around(parts.preset, parts.vision.settings, parts.llm.settings,
                                      len(parts.tokenizer), refiner.detector.config.d_model + 4,
                                      refiner.settings)


def settings_around(preset: str, vision: VisionSettings, language: LanguageSettings, vocab: int,
                    width: int, refiner: PublishedSettings | None = None) -> LyricsSettings:
    """The settings of a preset around a ViT, an LLM with `vocab` ids and objects `width` wide."""
    if preset not in SIZES:
        return around.lyrics(vision, language, vocab, refiner or PublishedSettings(), width)
    s = settings_by_name(preset)
    return replace(
        s, vision=vision, language=language, lora_targets=around.lora_targets(language),
        mqformer=replace(s.mqformer, vision_width=vision.width, object_width=width, vocab=vocab + 6))


def open_system(folder: Path | str, stage, device, vision: str, llm: str, detector: str,
                segmenter: str = "", **_) -> LyricsSystem:
    """An imported Lyrics, ready to be asked; no tags prompt its detector, for RAM is another model.
    vision: InstructBLIP's folder or name, for qformer_tokenizer/; llm: Vicuna's."""
    model = load(folder, lyrics_refiner.load(detector, segmenter))
    s = model.settings
    tokenizer = load_tokenizer(llm, s.language.vocab)
    system = LyricsSystem(imported_parts(model, folder, tokenizer, device), stage, model.to(device))
    questions = Questions(load_tokenizer(vision, s.mqformer.vocab, "qformer_tokenizer"))
    system.question_text = partial(bert_text, questions, s.mqformer.max_text)
    return system


def bert_text(questions: Questions, most: int, prompts: list[str]) -> PairText:
    """Bare questions in BERT's words, cut on the right at `most`."""
    ids = pad_rows([questions.encode(p)[:most] for p in prompts], -1)     # [S, L]
    none = torch.zeros_like(ids)
    return PairText(ids.clamp(min=0), ids >= 0, torch.arange(ids.shape[1]).expand_as(ids), none,
                    none.bool())
