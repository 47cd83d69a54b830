"""Each system's settings between a pretrained ViT and LLM, for the presets without published ones.

vision, language: their sizes; vocab: words of the LLM's tokenizer, behind which new ids begin.
"""

from __future__ import annotations

from lion_min.language import LanguageSettings
from lion_min.lion.model import LionSettings
from lion_min.lmeye.interaction import InteractionSettings
from lion_min.lmeye.model import LmeyeSettings
from lion_min.lyrics.model import LyricsSettings
from lion_min.lyrics.mqformer import MQFormerSettings
from lion_min.lyrics.objectives import ObjectiveSettings
from lion_min.pretrained.crops import CropSettings
from lion_min.pvit.model import PvitSettings
from lion_min.qformer import QFormerSettings
from lion_min.vision import VisionSettings


def lion(vision: VisionSettings, language: LanguageSettings, vocab: int) -> LionSettings:
    """Depths at the blocks' end, three quarters and half, as LION's 39, 29, 19 of 39."""
    last = vision.blocks
    return LionSettings(
        vision, language,
        QFormerSettings(width=256, layers=4, heads=4, ffn=1024, queries=32, init_std=256 ** -0.5,
                        vision_width=vision.width, vocab=vocab, max_text=128),
        depths=(last, round(last * 3 / 4), last // 2), aggregator_heads=vision.heads,
        aggregator_ffn=4 * vision.width, mlp=2 * language.width, bottleneck=64,
        region_depths=(last // 2, last), region_id=vocab + 2, hint_id=vocab + 3)


def pvit(vision: VisionSettings, language: LanguageSettings, vocab: int) -> PvitSettings:
    """The ViT sees the regions, too. A box's feature comes from three quarters of its depth: the
    last blocks serve what it was trained for."""
    return PvitSettings(
        vision, language, CropSettings(vision.width, 3 * vision.blocks // 4),
        open_id=vocab, close_id=vocab + 1, region_id=vocab + 2,
        depths=(vision.blocks // 2, vision.blocks - 1), mlp=2 * language.width,
        region_mlp=2 * language.width)


def lmeye(vision: VisionSettings, language: LanguageSettings, vocab: int) -> LmeyeSettings:
    """The later form, with a trainable block over the patches."""
    depths, width = (vision.blocks // 2, vision.blocks), 2 * vision.width
    return LmeyeSettings(
        vision, language, InteractionSettings(
            language.width, width, width=language.width, mlp=2 * language.width,
            heads=language.heads, ffn=2 * language.width, init_std=language.width ** -0.5),
        request_id=vocab, slot_id=vocab + 1, depths=depths, token_std=0.1,
        qformer=QFormerSettings(width=256, layers=4, heads=4, ffn=1024, queries=32, vocab=1,
                                init_std=256 ** -0.5, vision_width=width, max_text=1))


def lyrics(vision: VisionSettings, language: LanguageSettings, vocab: int, refiner: object,
           object_width: int) -> LyricsSettings:
    """Around a published refiner, too: queries read every detection, `object_width` wide, and the
    LLM no lines. The MQ-Former's text is the LLM's words."""
    depths, width = (vision.blocks // 2, vision.blocks), 2 * vision.width
    return LyricsSettings(
        vision, language, refiner, MQFormerSettings(
            width=256, layers=4, heads=4, ffn=1024, queries=96, object_queries=64,
            vision_width=width, object_width=object_width, vocab=vocab + 6, max_text=512,
            init_std=256 ** -0.5),
        ObjectiveSettings(matched_objects=0.5), depths, object_lines=False,
        lora_targets=lora_targets(language))


def lora_targets(language: LanguageSettings) -> tuple[str, str, str]:
    """What q, k and v are called in an LLM."""
    return ("q", "k", "v") if language.family == "t5" else LyricsSettings.lora_targets
