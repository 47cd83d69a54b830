"""The official paper-era LMEye checkpoint in our model: sizes read off its tensors, exact names.

A file holds {'net': {name: tensor}}: `embedding_img` [1, D], `embedding_imgd` [1, D], imgLinear,
promptMlp, llm2clip, imgdLinear (spec section 6), perhaps each behind "module.". CLIP's text tower
and the LLM come from their own files, in the names of transformers: import them beside the
checkpoint, or bring them along to `load`. Later checkpoints (instruction_*) are refused: what the
released one holds is unknown (spec section 6).

Symbols: D LLM width, c CLIP width, m return slots, k image tokens made of the pooled feature; in
the tables also t = m D, and e CLIP's inner width.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn

from lion_min import BadInput
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lmeye.interaction import InteractionSettings
from lion_min.lmeye.model import Lmeye, LmeyeSettings
from lion_min.published import keys, layouts
from lion_min.qformer import QFormerSettings
from lion_min.vision import VisionSettings

_LINEARS = {"imgLinear": ("img_proj", "D c"), "promptMlp": ("interaction.decompose", "5c c"),
            "llm2clip": ("interaction.request", "c D"),
            "imgdLinear": ("interaction.transmit", "t c")}
_TOWER = "interaction.encoder.model."      # CLIP's text tower in our Lmeye
DROPOUT = 0.5                              # of the image tokens, in training alone
STAGE = 2
FROZEN = ("interaction.encoder.", "llm.")  # may be absent: files of their own
NAMES = {4096: "lmeye-llama7b", 5120: "lmeye-llama13b"}   # by the LLM's width
OPTIONS = {"img_id": 32000, "imgd_id": 32001, "heads": 0, "clip_heads": 12, "bos_id": 49406,
           "eos_id": 49407}                # what no shape tells; 0: LLaMA's, a head for 128
# CLIP's image half, whose pooled feature comes from get_image_features, and computed tables.
IGNORED = (r"vision_model\..*", r"visual_projection\.weight", "logit_scale", layouts.ROTARY,
           r"text_model\.embeddings\.position_ids")
_CLIP, _LLM = r"(text_model|text_projection)\..*", r"(model\.|lm_head\.).*"
_CLIP_LAYER = {"self_attn.q_proj": "c c", "self_attn.k_proj": "c c", "self_attn.v_proj": "c c",
               "self_attn.out_proj": "c c", "mlp.fc1": "e c", "mlp.fc2": "c e",
               "layer_norm1": "c", "layer_norm2": "c"}
_CLIP_L = {"vocab": 49408, "positions": 77, "layers": 12, "ffn": 3072}  # ViT-L/14's, c = 768


def convert(tensors: dict[str, Tensor], legacy_overwrite: bool = False,
            **options) -> tuple[dict[str, Tensor], LmeyeSettings]:
    """Official tensors, of one file or several -> (ours by parameter name, their settings).

    legacy_overwrite: every official loader asks `"embedding_img" in name`, which is true of
    "embedding_imgd" too, so the published scores were made with e_img := e_imgd. options: those
    of OPTIONS. BadInput names the keys that do not fit. LLM and text tower may be absent.
    """
    tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    tensors = keys.without(tensors, IGNORED)
    clip, llm = ({k: v for k, v in tensors.items() if re.fullmatch(p, k)} for p in (_CLIP, _LLM))
    ours = keys.translate(tensors, official_names(clip, llm), "LMEye (of the paper era)")
    ours |= {name: ours[name][0] for name in ("e_img", "e_imgd")}              # [1, D] -> [D]
    ours |= {"e_img": ours["e_imgd"].clone()} if legacy_overwrite else {}
    return ours, settings_of(ours, **OPTIONS | options)


def official_names(clip: dict[str, Tensor], llm: dict[str, Tensor]) -> keys.Table:
    """The key table; without the keys of a part that is absent."""
    table = {"embedding_img": ("e_img", "1 D"), "embedding_imgd": ("e_imgd", "1 D")}
    for theirs, (name, shape) in _LINEARS.items():
        table |= keys.pair(theirs, name, shape)
    table |= _clip(clip) if clip else {}
    return table | (layouts.llama(llm, words="W", width="D") if llm else {})


def _clip(clip: dict[str, Tensor]) -> keys.Table:
    """CLIP's text tower in transformers' names."""
    text, least = "text_model", 12 if keys.rows(clip, "text_projection.weight") == 768 else 1
    shapes = {f"{text}.embeddings.token_embedding.weight": "V c",
              f"{text}.embeddings.position_embedding.weight": "P c",
              "text_projection.weight": "c c"}
    table = {name: (_TOWER + name, shape) for name, shape in shapes.items()} | keys.pair(
        f"{text}.final_layer_norm", f"{_TOWER}{text}.final_layer_norm", "c")
    for i in range(keys.count_layers(clip, f"{text}.encoder.layers.", least)):
        for part, shape in _CLIP_LAYER.items():
            name = f"{text}.encoder.layers.{i}.{part}"
            table |= keys.pair(name, _TOWER + name, shape)
    return table


def settings_by_name(name: str) -> LmeyeSettings:
    """A published model's settings without any file: the paper's era around LLaMA-7B, or the one
    of July 2023 around FlanT5-XL (spec section 0, G1 and G2). BadInput for another name."""
    tower = {"encoder": "clip_text", "width": 768, "image_width": 768, "heads": 12,
             "dropout": DROPOUT} | _CLIP_L
    if name == "lmeye-llama7b":
        return _paper(layouts.llama_settings(4096), soft=5, returned=5, **tower)
    if name != "lmeye-flant5-xl":
        raise keys.unknown_preset(name, "LMEye", ("lmeye-llama7b", "lmeye-flant5-xl"))
    return LmeyeSettings(
        vision=layouts.EVA_G, depths=(-1,), reads="queries", slot_id=32100, request_id=32101,
        language=layouts.flan_t5(2048),
        interaction=InteractionSettings(llm_width=2048, pool="tail", **tower | {"dropout": 0.0}),
        qformer=QFormerSettings(**layouts.BERT_BASE, queries=32, vision_width=layouts.EVA_G.width,
                                vocab=1, max_text=1))


def _paper(language: LanguageSettings, img_id: int = 32000, imgd_id: int = 32001,
           **interaction) -> LmeyeSettings:
    """The paper's era. The pooled feature comes from CLIP's own image model:
    get_image_features(...)[:, None]."""
    return LmeyeSettings(
        vision=VisionSettings(image=224, patch=14, stem=()), language=language,
        interaction=InteractionSettings(llm_width=language.width, requests=1, **interaction),
        static="pooled", reads="pooled", img_id=img_id, slot_id=imgd_id)


def build(settings: LmeyeSettings, llm: LanguageModel | None = None) -> Lmeye:
    """An Lmeye of these settings. Its image input is CLIP's pooled feature: it has no ViT."""
    return Lmeye(settings, nn.Identity(), llm or LanguageModel(settings.language))


def load(folder: Path | str, tower: dict[str, Tensor] | None = None,
         llm: LanguageModel | None = None) -> Lmeye:
    """The Lmeye of an imported folder. What the folder lacks must be given: the state dict of
    CLIPTextModelWithProjection, the LLM."""
    more = {f"{_TOWER}{k}": v for k, v in (tower or {}).items()}
    return keys.load(folder, LmeyeSettings, lambda s: build(s, llm),
                     FROZEN[1:] if llm is not None else (), more)


def settings_of(ours: dict[str, Tensor], img_id: int, imgd_id: int, heads: int, clip_heads: int,
                bos_id: int, eos_id: int) -> LmeyeSettings:
    """The settings of the model that converted tensors belong to; what no shape tells is an
    argument. A part that is not among the tensors is taken for the published one."""
    width, llm_width = ours["interaction.request.weight"].shape
    text, tower = f"{_TOWER}text_model", _CLIP_L
    if f"{_TOWER}text_projection.weight" in ours:
        tower = {"vocab": len(ours[f"{text}.embeddings.token_embedding.weight"]),
                 "positions": len(ours[f"{text}.embeddings.position_embedding.weight"]),
                 "layers": keys.count_layers(ours, f"{text}.encoder.layers."),
                 "ffn": len(ours[f"{text}.encoder.layers.0.mlp.fc1.weight"])}
    return _paper(
        _language(ours, llm_width, heads), img_id, imgd_id,
        encoder="clip_text", width=width, image_width=ours["img_proj.weight"].shape[1],
        soft=len(ours["interaction.decompose.weight"]) // width,
        returned=len(ours["interaction.transmit.weight"]) // llm_width,
        heads=clip_heads, dropout=DROPOUT, bos_id=bos_id, eos_id=eos_id, **tower)


def _language(ours: dict[str, Tensor], width: int, heads: int) -> LanguageSettings:
    if "llm.model.lm_head.weight" in ours:
        return layouts.read_llama(ours, heads)
    if width not in layouts.LLAMA_SIZES:
        raise BadInput(f"the LLM is {width} wide, LLaMA-7B and -13B 4096 and 5120; give the LLM's "
                       "file, too (LLaMA's layout)")
    return layouts.llama_settings(width, heads=heads)
