"""The presets' models as shapes alone, for cost.py: what each stage builds, and what it trains.

Everything is on the meta device: a tensor has a shape and a type, but no values and no memory.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from lion_min import BadInput
from lion_min.cli import room
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.pretrained.presets import PRESETS
from lion_min.published.regionclip import RegionCLIP, RegionCLIPSettings
from lion_min.scenes import WORLDS
from lion_min.stage import Stage
from lion_min.tokenizer import TinyTokenizer
from lion_min.trainable import matches
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

STAGES = {"lion": (1, 2, 3, 4), "pvit": (1, 2), "lmeye": (1, 2), "lyrics": (1, 2)}
CLIP_B = VisionSettings(image=224, patch=16, width=768, blocks=12, heads=12, mlp=3072, stem=())
SMOLLM2 = LanguageSettings(vocab=49152, width=576, layers=30, heads=9, ffn=1536, positions=8192)
# LMEye's published forms: CLIP's text tower inside the interaction stays frozen.
_LMEYE_TRAINS = {1: ("ln_vision", "qformer", "query_proj", "img_proj", "e_img"),
                 2: ("interaction.request", "interaction.decompose", "interaction.transmit",
                     "e_imgq", "e_imgd")}


# ---- the models --------------------------------------------------------------------------------

def check(system: str, preset: str) -> None:
    """BadInput unless this is a preset of the system."""
    mine = [name for name, p in PRESETS.items() if system in p.systems]
    if preset not in mine:
        raise BadInput(f"preset {preset!r}: no preset of {system}; there are {', '.join(mine)}")


def stage_of(system: str, number: int) -> Stage:
    """The room's stage; BadInput where it has none of this number."""
    if number not in STAGES[system]:
        raise BadInput(f"stage {number!r}: the stages of {system} whose cost is known are "
                       + ", ".join(map(str, STAGES[system])))
    return room(system, f"stage{number}").STAGE


def settings_of(system: str, preset: str, stage: Stage):
    """The settings of a preset's model in this stage."""
    if preset == "tiny":
        vision = VisionSettings.of(WORLDS["medium"].image)
        settings = room(system, "model").tiny(vision, len(TinyTokenizer()))
    elif preset == "clip-smollm2":
        settings = room(system, "model").around(CLIP_B, SMOLLM2, SMOLLM2.vocab)
    else:
        settings = room(system, "published").settings_by_name(preset)
    return replace(settings, mode=stage.mode) if system == "lion" else settings


def build(system: str, settings, stage: Stage) -> nn.Module:
    """The room's model on the meta device: nothing is allocated."""
    with torch.device("meta"):
        s, model = settings, room(system, "model")
        vision = VisionEncoder(s.vision)
        if system == "lion":
            return model.Lion(s, vision, _llm(s))
        if system == "pvit":
            published = isinstance(s.regions, RegionCLIPSettings)
            kind = RegionCLIP if published else room("pvit", "region_encoder").TinyRegions
            return model.Pvit(s, vision, _llm(s), kind(s.regions))
        if system == "lmeye":              # the paper's era gets CLIP's pooled feature from a file
            return model.Lmeye(s, nn.Identity() if s.reads == "pooled" else vision, _llm(s))
        refiner = _refiner(s)
        return model.Alignment(s, vision, refiner) if stage.number == 1 else model.Lyrics(
            s, vision, refiner, _llm(s))


def _llm(s) -> LanguageModel:
    """The LLM as backbones.py loads it: with fused attention, which the tiny one has not."""
    import transformers
    if s.language.vocab == len(TinyTokenizer()):
        return LanguageModel(s.language)
    if s.language != SMOLLM2:
        llm = LanguageModel(s.language)
        llm.model.set_attn_implementation("sdpa")
        return llm
    return LanguageModel(SMOLLM2, transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=SMOLLM2.vocab, hidden_size=SMOLLM2.width, intermediate_size=SMOLLM2.ffn,
        num_hidden_layers=SMOLLM2.layers, num_attention_heads=SMOLLM2.heads,
        num_key_value_heads=3, tie_word_embeddings=True)))


def _refiner(s) -> nn.Module | None:
    """The tiny refiner; a published one is a set of models of its own, run beside this one."""
    refiner, world = room("lyrics", "refiner"), WORLDS["medium"]
    if not isinstance(s.refiner, refiner.RefinerSettings):
        return None
    return refiner.TinyRefiner(s.refiner, TagHead(s.vision.width, (*world.colours, *world.kinds)))


def trains(system: str, model: nn.Module, stage: Stage) -> tuple[str, ...]:
    """The stage's prefixes that this preset's model has parameters under."""
    frozen_tower = system == "lmeye" and model.settings.interaction.encoder == "clip_text"
    names = [name for name, _ in model.named_parameters()]
    prefixes = _LMEYE_TRAINS[stage.number] if frozen_tower else stage.trains
    return tuple(p for p in prefixes if any(matches(name, p) for name in names))
