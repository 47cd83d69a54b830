"""The official PVIT and RegionCLIP checkpoints in our model, key by key.

Two files make one state dict here, `pvit | regionclip`: PVIT's own (`model.*`, `lm_head.*`, once
the delta is added to LLaMA's) and `regionclip_pretrained-cc_rn50x4.pth` (`backbone.*`). CLIP's
ViT comes from neither; transformers loads it.

Every key must be known and every expected one there: BadInput names the first that is not.

Shapes: V words, D width, F region feature.
"""

import math
import re

import torch
from torch import Tensor

from lion_min import BadInput
from lion_min.language import LanguageSettings
from lion_min.pvit.model import Pvit, PvitSettings
from lion_min.pvit.region_encoder import RegionCLIPSettings
from lion_min.vision import VisionSettings

VIT_L = VisionSettings(family="clip", image=224, patch=14, width=1024, blocks=24, heads=16,
                       mlp=4096, stem=())
# Rotary tables are computed; RegionCLIP's text half is not used.
IGNORED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq", r"lang_encoder\..*")
NEW_WORDS = 5                              # <im_patch> <im_start> <im_end> <Region> </Region>
BRIDGE = ("mm_projector", "prompt_projector", "bbox_fc")

_NORM = ("weight", "bias", "running_mean", "running_var")
# Official convolution (its norm follows it) -> its place in our Sequential.
_STEM = {"1": 0, "2": 3, "3": 6}
_BRANCH = {"1": 0, "2": 3, "3": 7}
_LLAMA = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm",
          "post_attention_layernorm")

Table = dict[str, str]                     # official key -> our key


def settings_of(weights: dict[str, Tensor], vision: VisionSettings = VIT_L,
                heads: int = 32) -> PvitSettings:
    """The settings of the model that an official state dict belongs to, read off its shapes.

    What no shape tells (the LLM's heads, the ViT) has the published value as its default.
    """
    rename(weights)                        # names what is missing before a KeyError does
    vocab, width = weights["model.embed_tokens.weight"].shape
    patch, *_, opens, closes = range(vocab - NEW_WORDS, vocab)
    return PvitSettings(
        vision=vision,
        language=LanguageSettings(
            family="llama", vocab=vocab, width=width, heads=heads, positions=2048, tied=False,
            layers=_count(weights, "model.layers."), eos_id=2,
            ffn=len(weights["model.layers.0.mlp.up_proj.weight"])),
        regions=_region_settings(weights),
        open_id=opens, close_id=closes, region_id=patch, image_id=patch,
        depths=(-2,), mlp=0, region_mlp=0, box_embedding="model.bbox_fc.weight" in weights,
        generate={"max_new_tokens": 128})  # the demo's; run_cli's 32 cut answers


def _region_settings(weights: dict[str, Tensor]) -> RegionCLIPSettings:
    pool = "backbone.attnpool"
    positions, channels = weights[f"{pool}.positional_embedding"].shape
    return RegionCLIPSettings(
        layers=tuple(_count(weights, f"backbone.layer{i}.") for i in (1, 2, 3, 4)),
        width=len(weights["backbone.conv3.weight"]), heads=channels // 64,
        output=len(weights[f"{pool}.c_proj.weight"]), resolution=32 * math.isqrt(positions - 1))


def load_official(model: Pvit, weights: dict[str, Tensor]) -> None:
    """Fill everything but the ViT, strictly; `settings_of(weights)` are the model's settings."""
    ours = rename(weights)
    ours["markers"] = weights["model.embed_tokens.weight"][-2:]           # [2, D]
    result = model.load_state_dict(ours, strict=False)
    left = [k for k in result.missing_keys if not k.startswith("vision.")]
    if left or result.unexpected_keys:     # the settings are another model's
        raise BadInput(f"this PVIT has not the parts of the checkpoint: "
                       f"{[*left, *result.unexpected_keys][0]!r}; build it with settings_of")


def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict -> ours, without `vision.*` and `markers`. BadInput on a wrong key."""
    weights = {k: v for k, v in weights.items() if not any(re.fullmatch(p, k) for p in IGNORED)}
    table = official_names(weights)
    for key in sorted(weights.keys() - table.keys()):
        raise BadInput(f"not a PVIT checkpoint: unknown key '{key}'")
    for key in table:
        if key not in weights:
            raise BadInput(f"incomplete PVIT checkpoint: key '{key}' is missing; "
                           "take the whole of PVIT's and RegionCLIP's files")
    return {new: weights[old] for old, new in table.items()}


def official_names(weights: dict[str, Tensor]) -> Table:
    """The key table of a model as deep as `weights`: {official: ours}."""
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    names += [f"model.layers.{i}.{part}.weight" for i in range(_count(weights, "model.layers."))
              for part in _LLAMA]
    table = {name: f"llm.model.{name}" for name in names}
    has_bbox = any(k.startswith("model.bbox_fc.") for k in weights)       # not after stage 1
    table |= {f"model.{part}.{w}": f"{part}.{w}" for part in BRIDGE[:2 + has_bbox]
              for w in ("weight", "bias")}
    return table | {f"backbone.{old}": f"regions.{new}" for old, new in _backbone(weights).items()}


def _backbone(weights: dict[str, Tensor]) -> Table:
    table = {"attnpool.positional_embedding": "attnpool.positions"}
    for old, new in (("q", "query"), ("k", "key"), ("v", "value"), ("c", "out")):
        table |= {f"attnpool.{old}_proj.{w}": f"attnpool.{new}.{w}" for w in ("weight", "bias")}
    for n, place in _STEM.items():
        table |= _conv(f"conv{n}", f"bn{n}", "stem", place)
    for layer in (f"layer{i}" for i in (1, 2, 3, 4)):
        for i in range(_count(weights, f"backbone.{layer}.")):
            block = f"{layer}.{i}"
            for n, place in _BRANCH.items():
                table |= _conv(f"{block}.conv{n}", f"{block}.bn{n}", f"{block}.branch", place)
            if i == 0:
                table |= _conv(f"{block}.downsample.0", f"{block}.downsample.1",
                               f"{block}.shortcut", 1)
    return table


def _conv(conv: str, norm: str, ours: str, place: int) -> Table:
    """A convolution at `place` of a Sequential and the norm behind it."""
    return {f"{conv}.weight": f"{ours}.{place}.weight"} | {
        f"{norm}.{w}": f"{ours}.{place + 1}.{w}" for w in _NORM}


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    """Numbered layers under a prefix: the highest number plus one, so that a gap is missed."""
    numbers = [int(k[len(prefix):].split(".")[0]) for k in weights if k.startswith(prefix)
               and k[len(prefix):].split(".")[0].isdigit()]
    return max(numbers, default=0) + 1


def add_base(delta: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's PVIT/pvit holds differences from LLaMA-7B (official apply_delta.py).

    Rows of new words and the bridge's tensors are absolute; all else is target minus base.
    """
    whole = {}
    for key, value in delta.items():
        if key in base:
            grown = torch.zeros_like(value)
            grown[:len(base[key])] = base[key].to(value.dtype)
            value = value + grown
        whole[key] = value
    for key in sorted(base.keys() - delta.keys()):
        if not re.fullmatch(IGNORED[0], key):
            raise BadInput(f"the delta lacks LLaMA's key '{key}'; take all of its files")
    return whole
