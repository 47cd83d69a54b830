"""The presets' models on the meta device, for plan.py, and the tokens that pass their modules.

On the meta device a tensor has a shape and a type, but no values and no memory. A sample is one
image with one question and one region. Symbols: V patches and CLS, Q queries, M objects.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from lion_min import BadInput
from lion_min.cli import LION, LMEYE, LYRICS, PVIT
from lion_min.launch import module_of
from lion_min.launch import published as published_of
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.pretrained.presets import PRESETS
from lion_min.published.regionclip import RegionCLIP
from lion_min.pvit.region_encoder import TinyRegions, TinyRegionSettings
from lion_min.scenes import WORLDS
from lion_min.tokenizer import TinyTokenizer
from lion_min.trainable import matches, only_trainable
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

PROMPT, ANSWER, DETECTIONS = 64, 32, 900   # tokens of a sample's text; Grounding-DINO's objects
STAGES = {LION: (1, 2, 3, 4), PVIT: (1, 2), LMEYE: (1, 2), LYRICS: (1, 2)}
CLIP_B = VisionSettings(image=224, patch=16, width=768, blocks=12, heads=12, mlp=3072, stem=())
SMOLLM2 = LanguageSettings(vocab=49152, width=576, layers=30, heads=9, ffn=1536, positions=8192)
# LMEye's published forms: CLIP's text tower inside the interaction stays frozen.
LMEYE_TRAINS = {1: ("ln_vision", "qformer", "query_proj", "img_proj", "e_img"),
                2: ("interaction.request", "interaction.decompose", "interaction.transmit",
                    "e_imgq", "e_imgd")}


def settings_of(system: str, preset: str, stage):
    """The settings of a preset's model in this stage; BadInput for another system's preset."""
    presets = [name for name, p in PRESETS.items() if system in p.systems]
    if preset not in presets:
        raise BadInput(f"preset {preset!r}: no preset of {system}; there are {', '.join(presets)}")
    if preset == "tiny":
        vision = VisionSettings.of(WORLDS["medium"].image)
        settings = module_of(system, "model").tiny(vision, len(TinyTokenizer()))
    elif preset == "clip-smollm2":
        settings = module_of(system, "model").around(CLIP_B, SMOLLM2, SMOLLM2.vocab)
    else:
        settings = published_of(system).settings_by_name(preset)
    return replace(settings, mode=stage.mode) if system == LION else settings


def build(system: str, preset: str, number: int) -> nn.Module:
    """A stage's model on the meta device, its trained parameters marked; BadInput as `plan`."""
    if number not in STAGES[system]:
        raise BadInput(f"stage {number!r}: the stages of {system} whose cost is known are "
                       + ", ".join(map(str, STAGES[system])))
    stage = module_of(system, f"stage{number}").STAGE
    s = settings_of(system, preset, stage)
    with torch.device("meta"):
        model = _model(system, s, number)
    names = [name for name, _ in model.named_parameters()]
    published = system == LMEYE and s.interaction.encoder == "clip_text"
    only_trainable(model, tuple(p for p in (LMEYE_TRAINS[number] if published else stage.trains)
                                if any(matches(name, p) for name in names)))
    return model


def _model(system: str, s, number: int) -> nn.Module:
    m, vision, world = module_of(system, "model"), VisionEncoder(s.vision), WORLDS["medium"]
    if system == LION:
        return m.Lion(s, vision, _llm(s.language))
    if system == PVIT:
        regions = TinyRegions if isinstance(s.regions, TinyRegionSettings) else RegionCLIP
        return m.Pvit(s, vision, _llm(s.language), regions(s.regions))
    if system == LMEYE:                  # the paper's era reads CLIP's pooled feature from a file
        return m.Lmeye(s, nn.Identity() if s.reads == "pooled" else vision, _llm(s.language))
    tags = TagHead(s.vision.width, (*world.colours, *world.kinds))
    tiny = m.TinyRefiner(s.refiner, tags) if isinstance(s.refiner, m.RefinerSettings) else None
    return m.Alignment(s, vision, tiny) if number == 1 else m.Lyrics(
        s, vision, tiny, _llm(s.language))


def _llm(s: LanguageSettings) -> LanguageModel:
    """SmolLM2 shares its key heads, for which LanguageSettings have no field."""
    if s != SMOLLM2:
        return LanguageModel(s)
    import transformers
    return LanguageModel(s, transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=s.vocab, hidden_size=s.width, intermediate_size=s.ffn, tie_word_embeddings=True,
        num_hidden_layers=s.layers, num_attention_heads=s.heads, num_key_value_heads=3)))


# ---- tokens of a sample --------------------------------------------------------------------------

def tokens(system: str, s, number: int) -> dict[str, int]:
    """Pattern of a module's name -> tokens that pass it; the first match counts. Besides: 'LLM',
    the tokens it reads, 'passes' that share a module's tokens, 'logits'."""
    V = 1 + s.vision.side ** 2                                            # patches and CLS
    rules = {"vision": V, "passes": 1, "LLM": 0, "logits": ANSWER * s.language.vocab}
    if system == LION:
        Q, Z = s.qformer.queries * (s.mode != "aggregator"), V * (s.mode != "qformer")
        return rules | {"aggregator|ln_adapter|mlp": V, "region_proj": 1} | _qformer(
            s.qformer, V, PROMPT) | _language(s, Q + Z, Z)
    if system == PVIT:                   # RegionCLIP's convolutions on a 4:3 picture and a crop
        side, crop = getattr(s.regions, "shortest", 0), getattr(s.regions, "roi", 0)
        pixels = {f"regions.layer{i}": side ** 2 * 4 // 3 // 4 ** (i + 1) for i in (1, 2, 3)}
        return rules | pixels | {"regions.stem": side ** 2 // 3, "regions": crop ** 2 // 4,
                                 "prompt_projector|bbox_fc": 1} | _language(s, V - 1, V - 1) | {
                                     "mm_projector": V - 1}
    if system == LMEYE:
        Q, i, asks = s.qformer.queries if s.qformer else 0, s.interaction, number == 2
        features = V - 1 if s.reads == "patches" else Q or 1
        if s.qformer:
            rules |= _qformer(s.qformer, V - 1, 0)
        return rules | {key: asks * count for key, count in {
            "interaction.request": 1, "interaction.decompose": features, ".*transmit": i.requests,
            r".*look\.(key|value)|.*norm_image": features * i.soft,
            "interaction.encoder.blocks": i.requests,
            "interaction": 2 + features * i.soft + i.requests}.items()} | {
                "img_proj": 1} | _language(s, Q, Q, i.returned * asks)
    q, M = s.mqformer, getattr(s.refiner, "queries", DETECTIONS)
    if number == 2:
        return rules | _qformer(q, V - 1, PROMPT, objects=M) | _language(
            s, M * s.object_lines + q.queries, M * s.object_lines)
    return rules | _qformer(q, V - 1, PROMPT + ANSWER, 4, 6, M) | {
        "heads": q.queries, "passes": 5, "logits": ANSWER * q.vocab}


def _qformer(s, N: int, L: int, looks: int = 1, reads: int = 1, objects: int = 0) -> dict[str, int]:
    """looks, reads: passes of queries and of text; Lyrics' four objectives have several."""
    Q, Qo = s.queries, getattr(s, "object_queries", 0)
    return {"ln_vision": N, "query_proj|language_projection": Q,
            r".*object_cross\.(key|value)": looks * objects, ".*object_cross": looks * Qo,
            r".*\.cross\.(key|value)": looks * N, r".*\.cross": looks * (Q - Qo),
            ".*query_ffn": looks * Q, ".*text_ffn": reads * L, "m?qformer": looks * Q + reads * L}


def _language(s, before: int, shared: int, slots: int = 0) -> dict[str, int]:
    """The LLM behind `before` visual tokens, of which `shared` ones are read once, apart from the
    others; slots: LMEye's encoder-decoder encodes twice."""
    inside, twice = before + PROMPT, slots > 0
    rules = {"llm.*lm_head": ANSWER, "LLM": inside + ANSWER,
             "shared": shared * (s.language.family != "t5")}
    if s.language.family != "t5":
        return rules | {"llm|adapters|loras": inside + ANSWER}
    decoder = "|".join(rf"adapters\.{i}\b" for i in range(s.language.layers, 99))
    return rules | {r"llm.*EncDecAttention\.[kv]": inside, f"llm.model.decoder|{decoder}": ANSWER,
                    "llm|adapters": inside + (inside - slots) * twice, "passes": 1 + twice}
