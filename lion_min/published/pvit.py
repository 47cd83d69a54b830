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

from lion_min import BadInput, checkpoints
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.published import keys
from lion_min.published.regionclip import RegionCLIP, RegionCLIPSettings
from lion_min.pvit.model import Pvit, PvitSettings
from lion_min.vision import VisionEncoder, VisionSettings

STAGE = 2
FROZEN = ("vision.",)                      # CLIP's ViT: in none of the files
OPTIONS = {"heads": 32}                    # of the LLM: what no shape tells, as published
VIT_L = VisionSettings(family="clip", image=224, patch=14, width=1024, blocks=24, heads=16,
                       mlp=4096, stem=())
# Rotary tables are computed; RegionCLIP's text half is not used.
IGNORED = (keys.ROTARY, r"lang_encoder\..*")
NEW_WORDS = 5                              # <im_patch> <im_start> <im_end> <Region> </Region>

_NORM = ("weight", "bias", "running_mean", "running_var")
# Official convolution (its norm follows it) -> its place in our Sequential.
_STEM = {"1": 0, "2": 3, "3": 6}
_BRANCH = {"1": 0, "2": 3, "3": 7}
_RN50X4 = (4, 6, 10, 6)                    # blocks of layer1 .. layer4, 40 = h
_BRIDGE = {"mm_projector": "d c", "prompt_projector": "d F", "bbox_fc": "d 4"}

Table = dict[str, str]                     # official key -> our key


def convert(tensors: dict[str, Tensor], base: dict[str, Tensor] | None = None,
            **options) -> tuple[dict[str, Tensor], PvitSettings]:
    """PVIT's and RegionCLIP's tensors -> (ours by parameter name, their settings).

    base: LLaMA's, when PVIT's are differences from it, as Hugging Face's are. options: those of
    OPTIONS. BadInput names the keys that do not fit.
    """
    if base is not None:
        seen = {k: v for k, v in tensors.items() if k.startswith(("backbone.", "lang_encoder."))}
        tensors = add_base({k: v for k, v in tensors.items() if k not in seen}, base) | seen
    ours = rename(tensors)
    ours["markers"] = tensors["model.embed_tokens.weight"][-2:].clone()      # [2, D]
    return ours, settings_of(tensors, **OPTIONS | options)


def preset_of(settings: PvitSettings) -> str:
    """The published model that has this width."""
    return {4096: "pvit-7b"}.get(settings.language.width, "own")


def settings_by_name(name: str) -> PvitSettings:
    """A published model's settings without any file. BadInput for another name."""
    if name != "pvit-7b":
        raise BadInput(f"preset {name!r}: PVIT's published model is pvit-7b")
    words = 32000                          # LLaMA's; the new ones follow
    return PvitSettings(
        vision=VIT_L, regions=RegionCLIPSettings(),
        language=LanguageSettings(family="llama", vocab=words + NEW_WORDS, width=4096, heads=32,
                                  positions=2048, tied=False, layers=32, eos_id=2, ffn=11008),
        open_id=words + 3, close_id=words + 4, region_id=words, image_id=words,
        depths=(-2,), mlp=0, region_mlp=0, generate={"max_new_tokens": 128})


def build(settings: PvitSettings, vision: nn.Module | None = None) -> Pvit:
    """A Pvit of these settings; the ViT is made, too, unless it is given."""
    return Pvit(settings, vision or VisionEncoder(settings.vision),
                LanguageModel(settings.language), RegionCLIP(settings.regions))


def load(folder: Path | str, vision: nn.Module) -> Pvit:
    """The Pvit of an imported folder around CLIP's ViT, a VisionEncoder or what acts like one."""
    tensors, config = checkpoints.load_run(folder)
    settings = keys.restore(PvitSettings, config["settings"], vision=VisionSettings,
                            language=LanguageSettings, regions=RegionCLIPSettings)
    model = build(settings, vision)
    keys.fill(model, tensors, folder, FROZEN)
    return model.eval()


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
            layers=keys.count_layers(weights, "model.layers."), eos_id=2,
            ffn=len(weights["model.layers.0.mlp.up_proj.weight"])),
        regions=_region_settings(weights),
        open_id=opens, close_id=closes, region_id=patch, image_id=patch,
        depths=(-2,), mlp=0, region_mlp=0, box_embedding="model.bbox_fc.weight" in weights,
        generate={"max_new_tokens": 128})  # the demo's; run_cli's 32 cut answers


def _region_settings(weights: dict[str, Tensor]) -> RegionCLIPSettings:
    pool = "backbone.attnpool"
    positions, channels = weights[f"{pool}.positional_embedding"].shape
    return RegionCLIPSettings(
        layers=tuple(keys.count_layers(weights, f"backbone.layer{i}.") for i in (1, 2, 3, 4)),
        width=len(weights["backbone.conv3.weight"]), heads=channels // 64,
        output=len(weights[f"{pool}.c_proj.weight"]),
        resolution=32 * keys.side(positions - 1, f"{pool}.positional_embedding"))


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
    weights = {k: v for k, v in weights.items() if not keys.matches(k, IGNORED)}
    table = official_names(weights)
    keys.account(weights, shapes(weights), "PVIT")
    return {new: weights[old] for old, new in table.items()}


def official_names(weights: dict[str, Tensor]) -> Table:
    """The key table of a model as deep as `weights`: {official: ours}."""
    table = {name: f"llm.model.{name}" for name in keys.llama_shapes(weights)}
    table |= {f"model.{part}.{w}": f"{part}.{w}" for part in _bridge(weights)
              for w in ("weight", "bias")}
    return table | {f"backbone.{old}": f"regions.{new}" for old, new in _backbone(weights).items()}


def _bridge(weights: dict[str, Tensor]) -> list[str]:
    """Without bbox_fc after stage 1."""
    return [p for p in _BRIDGE if p != "bbox_fc" or any(f".{p}." in key for key in weights)]


def shapes(weights: dict[str, Tensor]) -> keys.Shapes:
    """The shape of every official key, in letters."""
    table = keys.llama_shapes(weights)
    for part in _bridge(weights):
        table |= {f"model.{part}.weight": _BRIDGE[part], f"model.{part}.bias": "d"}
    return table | {f"backbone.{key}": _backbone_shape(key) for key in _backbone(weights)}


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


def _backbone(weights: dict[str, Tensor]) -> Table:
    table = {"attnpool.positional_embedding": "attnpool.positions"}
    for old, new in (("q", "query"), ("k", "key"), ("v", "value"), ("c", "out")):
        table |= {f"attnpool.{old}_proj.{w}": f"attnpool.{new}.{w}" for w in ("weight", "bias")}
    for n, place in _STEM.items():
        table |= _conv(f"conv{n}", f"bn{n}", "stem", place)
    known = _RN50X4 if keys.rows(weights, "backbone.conv1.weight") == 40 else (1, 1, 1, 1)
    for layer, least in zip(("layer1", "layer2", "layer3", "layer4"), known):
        for i in range(keys.count_layers(weights, f"backbone.{layer}.", least)):
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


def add_base(delta: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's PVIT/pvit holds differences from LLaMA-7B (official apply_delta.py).

    Rows of new words and the bridge's tensors are absolute; all else is target minus base.
    """
    whole = {}
    for key in sorted(base.keys() - delta.keys()):
        if not keys.matches(key, IGNORED):
            raise BadInput(f"the delta lacks LLaMA's key '{key}'; take all of its files")
    for key, value in delta.items():
        alone = key.startswith(tuple(f"model.{part}." for part in _BRIDGE))
        if alone or keys.matches(key, IGNORED):
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
