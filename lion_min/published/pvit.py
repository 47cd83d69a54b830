"""The official PVIT and RegionCLIP checkpoints in our model, key by key.

Two files make one state dict here, `pvit | regionclip`: PVIT's own (`model.*`, `lm_head.*`, once
the delta is added to LLaMA's) and `regionclip_pretrained-cc_rn50x4.pth` (`backbone.*`). CLIP's
ViT comes from neither; transformers loads it.

Letters of the tables: those of layouts.py, c CLIP's width, F region feature, p positions of the
attention pool, h half of RegionCLIP's width, whose blocks of layer i have 2^i h planes and four
times as many channels outside. Symbols: V words, D width.
"""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from lion_min import BadInput
from lion_min.language import LanguageModel
from lion_min.parts import Parts
from lion_min.pretrained import around
from lion_min.pretrained.backbones import load_tokenizer, load_vision
from lion_min.pretrained.crops import CropRegions
from lion_min.published import importing, keys, layouts
from lion_min.published.asking import imported_parts
from lion_min.published.regionclip import RegionCLIP, RegionCLIPSettings
from lion_min.pvit.model import Pvit, PvitSettings
from lion_min.pvit.system import PvitSystem
from lion_min.vision import VisionEncoder, VisionSettings

STAGE = 2
NEEDS = {"vision": "CLIP ViT-L/14", "llm": "LLaMA, for its tokenizer"}
VICUNA = (                                 # the template of its training, with one system's words
    "{{ bos_token }}A chat between a curious user and an artificial intelligence assistant. The "
    "assistant gives helpful, detailed, and polite answers to the user's questions. "
    "{% for m in messages %}{{ 'USER: ' + m['content'] + ' ' if m['role'] == 'user' else "
    "'ASSISTANT: ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}")
FROZEN = ("vision.",)                      # CLIP's ViT: in none of the files
OPTIONS = {"heads": 32}                    # of the LLM: what no shape tells, as published
VIT_L = VisionSettings(family="clip", image=224, patch=14, width=1024, blocks=24, heads=16,
                       mlp=4096, stem=())
# Rotary tables are computed; RegionCLIP's text half is not used.
IGNORED = layouts.ROTARY + r"|lang_encoder\..*"
NEW_WORDS = 5                              # <im_patch> <im_start> <im_end> <Region> </Region>

BRIDGE = ("mm_projector", "prompt_projector", "bbox_fc")
STAGES = "ABCD"                            # letters of the ResNet's numbers of blocks
SIZES = {"pvit-7b": layouts.LLAMA_7B | {"V": 32000 + NEW_WORDS, "h": 40, "F": 640, "p": 82,
                                        "A": 4, "B": 6, "C": 10, "D": 6}}


def _stage(i: int, letter: str) -> str:
    """The table of a stage of RegionCLIP's ResNet; its first block has a shortcut."""
    block, inside, outside = f"layer{i}.[{letter}h]", f"{2 ** i}h", f"{4 * 2 ** i}h"
    before = "2h" if i == 1 else f"{2 * 2 ** i}h"
    return f"""
{block}.conv1.weight  {block}.branch.0.weight  {inside} {outside} 1 1
layer{i}.0.conv1.weight  layer{i}.0.branch.0.weight  {inside} {before} 1 1
{block}.conv2.weight  {block}.branch.3.weight  {inside} {inside} 3 3
{block}.conv3.weight  {block}.branch.7.weight  {outside} {inside} 1 1
{block}.bn1.NORM  {block}.branch.1.NORM  {inside}
{block}.bn2.NORM  {block}.branch.4.NORM  {inside}
{block}.bn3.NORM  {block}.branch.8.NORM  {outside}
layer{i}.0.downsample.0.weight  layer{i}.0.shortcut.1.weight  {outside} {before} 1 1
layer{i}.0.downsample.1.NORM  layer{i}.0.shortcut.2.NORM  {outside}
"""


def _backbone() -> str:
    """The table of RegionCLIP's ResNet, whose norms have four tensors each."""
    rows = """
conv1.weight  stem.0.weight  h 3 3 3
conv2.weight  stem.3.weight  h h 3 3
conv3.weight  stem.6.weight  2h h 3 3
{bn1,bn2}.NORM  {stem.1,stem.4}.NORM  h
bn3.NORM  stem.7.NORM  2h
attnpool.positional_embedding  attnpool.positions  p 64h
attnpool.{q,k,v}_proj.*  attnpool.{query,key,value}.*  64h 64h
attnpool.c_proj.*  attnpool.out.*  F 64h
""" + "".join(_stage(i, letter) for i, letter in enumerate(STAGES, 1))
    rows = re.sub(r"^(\S+)  ", r"backbone.\1  regions.", rows, flags=re.MULTILINE)
    return "".join(rows.replace("NORM", tensor)
                   for tensor in ("weight", "bias", "running_mean", "running_var"))


TABLE = layouts.llama_table() + _backbone() + """
model.mm_projector.*  mm_projector.*  d c
model.prompt_projector.*  prompt_projector.*  d F
"""
BOXES = keys.Part(r".*\.bbox_fc\..*", "model.bbox_fc.*  bbox_fc.*  d 4")     # not yet in stage 1


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
    tensors = keys.without(tensors, IGNORED)
    ours, n = keys.read(tensors, TABLE, "PVIT", SIZES.values(), [BOXES])
    ours["markers"] = tensors["model.embed_tokens.weight"][-2:].clone()      # [2, D]
    return ours, settings(n, box_embedding="bbox_fc.weight" in ours, **options)


def settings(n: keys.Sizes, box_embedding: bool = True, heads: int = 32) -> PvitSettings:
    """The settings of the model of these sizes; the LLM's last words are the new ones."""
    patch, *_, opening, closing = range(n["V"] - NEW_WORDS, n["V"])
    return PvitSettings(
        vision=VIT_L, language=layouts.llama(n, heads), regions=region_settings(n), open_id=opening,
        close_id=closing, region_id=patch, image_id=patch, depths=(-2,), mlp=0, region_mlp=0,
        box_embedding=box_embedding,
        generate={"max_new_tokens": 128})  # the demo's; run_cli's 32 cut answers


def region_settings(n: keys.Sizes) -> RegionCLIPSettings:
    """RegionCLIP's of these sizes."""
    return RegionCLIPSettings(
        layers=tuple(n[stage] for stage in STAGES), width=2 * n["h"], heads=n["h"], output=n["F"],
        resolution=32 * keys.side(n["p"] - 1, "backbone.attnpool.positional_embedding"))


settings_by_name = partial(keys.settings_by_name, "PVIT", SIZES, settings)


def build(settings: PvitSettings, vision: nn.Module | None = None) -> Pvit:
    """A Pvit of these settings; the ViT is made, too, unless it is given."""
    return Pvit(settings, vision or VisionEncoder(settings.vision),
                LanguageModel(settings.language), RegionCLIP(settings.regions))


def load(folder: Path | str, vision: nn.Module) -> Pvit:
    """The Pvit of an imported folder around CLIP's ViT, a VisionEncoder or what acts like one."""
    return keys.load(folder, PvitSettings, lambda s: build(s, vision), FROZEN,
                     regions=RegionCLIPSettings)


def load_regions(file: Path | str) -> RegionCLIP:
    """RegionCLIP of its official file (regionclip_pretrained-cc_rn50x4.pth). BadInput as `read`."""
    tensors = keys.without(importing.read_file(file), IGNORED)
    ours, n = keys.read(tensors, _backbone(), f"RegionCLIP ({file})", SIZES.values())
    regions = RegionCLIP(region_settings(n))
    keys.fill(regions, {k.removeprefix("regions."): v for k, v in ours.items()}, file)
    return regions.eval()


def complete(parts: Parts, regions: str = "", **_) -> None:
    """The settings between these parts. RegionCLIP, where its file is given; else the ViT sees each
    box cut out (CropRegions)."""
    parts.published = s = around.pvit(parts.vision.settings, parts.llm.settings,
                                      len(parts.tokenizer))
    parts.beside["regions"] = load_regions(regions) if regions else \
        CropRegions(s.regions, parts.vision)


def open_system(folder: Path | str, stage, device, vision: str, llm: str, **_) -> PvitSystem:
    """An imported PVIT, ready to be asked. vision: CLIP's folder or name; llm: LLaMA's, for its
    tokenizer, which gets the template that PVIT was trained with."""
    encoder = load_vision(vision)
    model = load(folder, encoder)
    s = model.settings = replace(model.settings, vision=encoder.settings)
    tokenizer = load_tokenizer(llm, s.language.vocab, template=VICUNA)
    tokenizer.vocab, tokenizer.region_id = s.open_id, s.region_id      # the last two: marks
    return PvitSystem(imported_parts(model, folder, tokenizer, device), stage, model.to(device))


def add_base(delta: dict[str, Tensor], base: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's PVIT/pvit holds differences from LLaMA-7B (official apply_delta.py).

    Rows of new words and the bridge's tensors are absolute; all else is target minus base.
    """
    whole = {}
    for key in sorted(base.keys() - delta.keys()):
        if not re.fullmatch(IGNORED, key):
            raise BadInput(f"the delta lacks LLaMA's key '{key}'; take all of its files")
    for key, value in delta.items():
        absolute = key.startswith(tuple(f"model.{part}." for part in BRIDGE))
        if absolute or re.fullmatch(IGNORED, key):
            whole[key] = value
            continue
        if key not in base:
            raise BadInput(f"the base lacks the delta's key '{key}'; give the whole of LLaMA-7B")
        more = NEW_WORDS if key in ("model.embed_tokens.weight", "lm_head.weight") else 0
        old = base[key]                                                   # [V - 5, D] of words
        if list(value.shape) != [size + more * (i == 0) for i, size in enumerate(old.shape)]:
            raise BadInput(f"key '{key}' is {list(value.shape)} in the delta and "
                           f"{list(old.shape)} in the base; LLaMA-7B is its base")
        whole[key] = value.clone()
        whole[key][:len(old)] += old.to(value.dtype)
    return whole
