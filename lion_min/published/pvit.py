"""The official PVIT and RegionCLIP checkpoints in our model, key by key.

Two files make one state dict here, `pvit | regionclip`: PVIT's own (`model.*`, `lm_head.*`, once
the delta is added to LLaMA's) and `regionclip_pretrained-cc_rn50x4.pth` (`backbone.*`). CLIP's
ViT comes from neither; transformers loads it.

Every key must be known, every expected one there and of its shape: BadInput names those that are
not. Shapes: V words, D width, F region feature; in the tables d LLM, c CLIP width, h half of
RegionCLIP's, whose blocks of layer i have 2^i h planes and four times as many channels outside.
"""

import re
from pathlib import Path

from torch import Tensor, nn

from lion_min import BadInput
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.published import keys, layouts
from lion_min.published.keys import Table
from lion_min.published.regionclip import RegionCLIP, RegionCLIPSettings
from lion_min.pvit.model import Pvit, PvitSettings
from lion_min.vision import VisionEncoder, VisionSettings

STAGE = 2
FROZEN = ("vision.",)                      # CLIP's ViT: in none of the files
NAMES = {4096: "pvit-7b"}                  # by the LLM's width
OPTIONS = {"heads": 32}                    # of the LLM: what no shape tells, as published
VIT_L = VisionSettings(family="clip", image=224, patch=14, width=1024, blocks=24, heads=16,
                       mlp=4096, stem=())
# Rotary tables are computed; RegionCLIP's text half is not used.
IGNORED = (layouts.ROTARY, r"lang_encoder\..*")
NEW_WORDS = 5                              # <im_patch> <im_start> <im_end> <Region> </Region>

_NORM = ("weight", "bias", "running_mean", "running_var")
# Official convolution (its norm follows it) -> its index in our Sequential.
_STEM = {"1": 0, "2": 3, "3": 6}
_BRANCH = {"1": 0, "2": 3, "3": 7}
_RN50X4 = (4, 6, 10, 6)                    # blocks of layer1 .. layer4, 40 = h
_BRIDGE = {"mm_projector": "d c", "prompt_projector": "d F", "bbox_fc": "d 4"}


def convert(tensors: dict[str, Tensor], base: dict[str, Tensor] | None = None,
            **options) -> tuple[dict[str, Tensor], PvitSettings]:
    """PVIT's and RegionCLIP's tensors -> (ours by parameter name, their settings).

    base: LLaMA's, when PVIT's are differences from it, as Hugging Face's are. options: those of
    OPTIONS. BadInput names the keys that do not fit.
    """
    if base is not None:
        encoder = {k: v for k, v in tensors.items()
                   if k.startswith(("backbone.", "lang_encoder."))}
        tensors = add_base({k: v for k, v in tensors.items() if k not in encoder}, base) | encoder
    return rename(tensors), settings_of(tensors, **OPTIONS | options)


def settings_by_name(name: str) -> PvitSettings:
    """A published model's settings without any file. BadInput for another name."""
    if name not in NAMES.values():
        raise keys.unknown_preset(name, "PVIT", NAMES.values())
    language = layouts.llama_settings(4096, 32000 + NEW_WORDS)  # LLaMA's words, then the new ones
    return _settings(VIT_L, language, RegionCLIPSettings())


def _settings(vision: VisionSettings, language: LanguageSettings, regions: RegionCLIPSettings,
              box_embedding: bool = True) -> PvitSettings:
    """The published model's around its parts; the LLM's last words are the new ones."""
    patch, *_, opening, closing = range(language.vocab - NEW_WORDS, language.vocab)
    return PvitSettings(
        vision=vision, language=language, regions=regions, open_id=opening, close_id=closing,
        region_id=patch, image_id=patch, depths=(-2,), mlp=0, region_mlp=0,
        box_embedding=box_embedding,
        generate={"max_new_tokens": 128})  # the demo's; run_cli's 32 cut answers


def build(settings: PvitSettings, vision: nn.Module | None = None) -> Pvit:
    """A Pvit of these settings; the ViT is made, too, unless it is given."""
    return Pvit(settings, vision or VisionEncoder(settings.vision),
                LanguageModel(settings.language), RegionCLIP(settings.regions))


def load(folder: Path | str, vision: nn.Module) -> Pvit:
    """The Pvit of an imported folder around CLIP's ViT, a VisionEncoder or what acts like one."""
    return keys.load(folder, PvitSettings, lambda s: build(s, vision), FROZEN,
                     regions=RegionCLIPSettings)


def settings_of(weights: dict[str, Tensor], vision: VisionSettings = VIT_L,
                heads: int = 32) -> PvitSettings:
    """The settings of the model that an official state dict belongs to, read off its shapes.

    What no shape tells (the LLM's heads, the ViT) has the published value as its default.
    """
    ours = rename(weights)                 # names what is missing before a KeyError does
    return _settings(vision, layouts.read_llama(ours, heads), _region_settings(weights),
                     "model.bbox_fc.weight" in weights)


def _region_settings(weights: dict[str, Tensor]) -> RegionCLIPSettings:
    pool = "backbone.attnpool"
    positions, channels = weights[f"{pool}.positional_embedding"].shape
    return RegionCLIPSettings(
        layers=tuple(keys.count_layers(weights, f"backbone.layer{i}.") for i in (1, 2, 3, 4)),
        width=len(weights["backbone.conv3.weight"]), heads=channels // 64,
        output=len(weights[f"{pool}.c_proj.weight"]),
        resolution=32 * keys.side(positions - 1, f"{pool}.positional_embedding"))


def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official state dict -> ours, without `vision.*`. BadInput on a wrong key."""
    weights = keys.without(weights, IGNORED)
    ours = keys.translate(weights, official_names(weights), "PVIT")
    return ours | {"markers": weights["model.embed_tokens.weight"][-2:].clone()}     # [2, D]


def official_names(weights: dict[str, Tensor]) -> Table:
    """The key table of a model as deep as `weights`; without bbox_fc after stage 1."""
    table = layouts.llama(weights)
    for part, shape in _BRIDGE.items():
        if part != "bbox_fc" or any(f".{part}." in key for key in weights):
            table |= keys.pair(f"model.{part}", part, shape)
    return table | {f"backbone.{old}": (f"regions.{new}", _backbone_shape(old))
                    for old, new in _backbone(weights).items()}


def _backbone_shape(key: str) -> str:
    if key.startswith("attnpool."):
        rows = "p" if "positional" in key else "F" if "c_proj" in key else "64h"
        return rows if key.endswith("bias") else f"{rows} 64h"
    if not key.startswith("layer"):                                       # the stem
        rows = "2h" if key.startswith(("conv3", "bn3")) else "h"
        columns = "3" if key.startswith("conv1") else "h"
        return f"{rows} {columns} 3 3" if key.startswith("conv") else rows
    layer, block, part = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", key).groups()
    planes = 2 ** int(layer)
    inside, outside = f"{planes}h", f"{4 * planes}h"
    before = outside if block != "0" else f"{2 * planes}h" if layer != "1" else "2h"
    return {"conv1.weight": f"{inside} {before} 1 1", "conv2.weight": f"{inside} {inside} 3 3",
            "conv3.weight": f"{outside} {inside} 1 1",
            "downsample.0.weight": f"{outside} {before} 1 1"}.get(
                part, inside if part.startswith(("bn1.", "bn2.")) else outside)


def _backbone(weights: dict[str, Tensor]) -> dict[str, str]:
    table = {"attnpool.positional_embedding": "attnpool.positions"}
    for old, new in (("q", "query"), ("k", "key"), ("v", "value"), ("c", "out")):
        table |= {f"attnpool.{old}_proj.{w}": f"attnpool.{new}.{w}" for w in ("weight", "bias")}
    for n, index in _STEM.items():
        table |= _conv(f"conv{n}", f"bn{n}", "stem", index)
    depths = _RN50X4 if keys.rows(weights, "backbone.conv1.weight") == 40 else (1, 1, 1, 1)
    for layer, least in zip(("layer1", "layer2", "layer3", "layer4"), depths):
        for i in range(keys.count_layers(weights, f"backbone.{layer}.", least)):
            block = f"{layer}.{i}"
            for n, index in _BRANCH.items():
                table |= _conv(f"{block}.conv{n}", f"{block}.bn{n}", f"{block}.branch", index)
            if i == 0:
                table |= _conv(f"{block}.downsample.0", f"{block}.downsample.1",
                               f"{block}.shortcut", 1)
    return table


def _conv(conv: str, norm: str, ours: str, index: int) -> dict[str, str]:
    """A convolution at `index` of a Sequential and the norm behind it."""
    return {f"{conv}.weight": f"{ours}.{index}.weight"} | {
        f"{norm}.{w}": f"{ours}.{index + 1}.{w}" for w in _NORM}


def add_base(delta: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's PVIT/pvit holds differences from LLaMA-7B (official apply_delta.py).

    Rows of new words and the bridge's tensors are absolute; all else is target minus base.
    """
    whole = {}
    for key in sorted(base.keys() - delta.keys()):
        if not keys.matches(key, IGNORED):
            raise BadInput(f"the delta lacks LLaMA's key '{key}'; take all of its files")
    for key, value in delta.items():
        absolute = key.startswith(tuple(f"model.{part}." for part in _BRIDGE))
        if absolute or keys.matches(key, IGNORED):
            whole[key] = value
            continue
        if key not in base:
            raise BadInput(f"the base lacks the delta's key '{key}'; give the whole of LLaMA-7B")
        more = NEW_WORDS if key in ("model.embed_tokens.weight", "lm_head.weight") else 0
        old = base[key]                                                   # [V - 5, D] of words
        if list(value.shape) != [keys.rows(base, key) + more, *old.shape[1:]]:
            raise BadInput(f"key '{key}' is {list(value.shape)} in the delta and "
                           f"{list(old.shape)} in the base; LLaMA-7B is its base")
        whole[key] = value.clone()
        whole[key][:len(old)] += old.to(value.dtype)
    return whole
