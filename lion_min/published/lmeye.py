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

from lion_min import BadInput, checkpoints

from lion_min.published import keys
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lmeye.interaction import InteractionSettings
from lion_min.lmeye.model import Lmeye, LmeyeSettings
from lion_min.qformer import QFormerSettings
from lion_min.vision import VisionSettings

_PLACES = {"imgLinear": "img_proj", "promptMlp": "interaction.decompose",
           "llm2clip": "interaction.request", "imgdLinear": "interaction.transmit"}
NAMES = {"embedding_img": "e_img", "embedding_imgd": "e_imgd"} | {
    f"{theirs}.{end}": f"{ours}.{end}"
    for theirs, ours in _PLACES.items() for end in ("weight", "bias")}
DROPOUT = 0.5                              # of the image tokens, in training alone
STAGE = 2
FROZEN = ("interaction.encoder.", "llm.")  # may be absent: files of their own
OPTIONS = {"img_id": 32000, "imgd_id": 32001, "heads": 0, "clip_heads": 12, "bos_id": 49406,
           "eos_id": 49407}                # what no shape tells; 0: LLaMA's, a head for 128
# CLIP's image half, whose pooled feature comes from get_image_features, and computed tables.
IGNORED = (r"vision_model\..*", r"visual_projection\.weight", "logit_scale", keys.ROTARY,
           r"text_model\.embeddings\.position_ids")
_CLIP, _LLM = r"(text_model|text_projection)\..*", r"(model\.|lm_head\.).*"
_NET_SHAPES = {"embedding_img": "1 D", "embedding_imgd": "1 D", "imgLinear": "D c",
               "promptMlp": "5c c", "llm2clip": "c D", "imgdLinear": "t c"}
_CLIP_LAYER = {"self_attn.q_proj": "c c", "self_attn.k_proj": "c c", "self_attn.v_proj": "c c",
               "self_attn.out_proj": "c c", "mlp.fc1": "e c", "mlp.fc2": "c e",
               "layer_norm1": "c", "layer_norm2": "c"}
_CLIP_L = {"vocab": 49408, "positions": 77, "layers": 12, "ffn": 3072}  # ViT-L/14's, c = 768


def convert(tensors: dict[str, Tensor], legacy_overwrite: bool = False,
            **options) -> tuple[dict[str, Tensor], LmeyeSettings]:
    """Official tensors, of one file or several -> (ours by parameter name, their settings).

    legacy_overwrite: see rename. options: those of OPTIONS. BadInput names the keys that do not
    fit. LLM and text tower may be absent.
    """
    tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    tensors = {k: v for k, v in tensors.items() if not keys.matches(k, IGNORED)}
    clip, llm = ({k: v for k, v in tensors.items() if re.fullmatch(p, k)} for p in (_CLIP, _LLM))
    keys.account(tensors, shapes(clip, llm), "LMEye (of the paper era)")
    net = {k: v for k, v in tensors.items() if k in NAMES}
    settings = settings_of(net, clip, **_sized(net, llm, OPTIONS | options))
    ours = rename(net, legacy_overwrite)
    ours |= {f"interaction.encoder.model.{k}": v for k, v in clip.items()}
    return ours | {f"llm.model.{k}": v for k, v in llm.items()}, settings


def shapes(clip: dict[str, Tensor], llm: dict[str, Tensor]) -> keys.Shapes:
    """The shape of every official key; without the keys of a part that is absent."""
    table = {}
    for name in NAMES:
        shape = _NET_SHAPES[name.removesuffix(".weight").removesuffix(".bias")]
        table[name] = shape.split()[0] if name.endswith("bias") else shape
    if clip:
        text = "text_model"
        table |= {f"{text}.embeddings.token_embedding.weight": "V c",
                  f"{text}.embeddings.position_embedding.weight": "P c",
                  "text_projection.weight": "c c",
                  f"{text}.final_layer_norm.weight": "c", f"{text}.final_layer_norm.bias": "c"}
        least = 12 if keys.rows(clip, "text_projection.weight") == 768 else 1
        for i in range(keys.count_layers(clip, f"{text}.encoder.layers.", least)):
            for part, shape in _CLIP_LAYER.items():
                table |= {f"{text}.encoder.layers.{i}.{part}.weight": shape,
                          f"{text}.encoder.layers.{i}.{part}.bias": shape.split()[0]}
    if llm:                                # the letters of keys.py are d, f, V
        own = {"d": "D", "f": "F", "V": "W"}
        table |= {k: re.sub("[dfV]", lambda m: own[m[0]], shape)
                  for k, shape in keys.llama_shapes(llm).items()}
    return table


def _sized(net: dict[str, Tensor], llm: dict[str, Tensor], options: dict) -> dict:
    """The options with the LLM's settings among them, for settings_of."""
    width = net["embedding_img"].shape[1]
    heads = options.pop("heads") or width // keys.LLAMA_HEAD
    if not llm and width not in keys.LLAMA_LAYERS:
        raise BadInput(f"the LLM is {width} wide, LLaMA-7B and -13B 4096 and 5120; give the LLM's "
                       "file, too (LLaMA's layout)")
    language = LanguageSettings(
        width=width, heads=heads, positions=2048, tied=False, eos_id=2,
        vocab=len(llm["lm_head.weight"]) if llm else 32000,
        layers=keys.count_layers(llm, "model.layers.", keys.LLAMA_LAYERS.get(width, 1)),
        ffn=len(llm["model.layers.0.mlp.up_proj.weight"]) if llm else keys.LLAMA_FFN[width])
    return options | {"language": language}


def preset_of(settings: LmeyeSettings) -> str:
    """The published model that has this width."""
    return {4096: "lmeye-llama7b", 5120: "lmeye-llama13b"}.get(settings.language.width, "own")


def settings_by_name(name: str) -> LmeyeSettings:
    """A published model's settings without any file: the paper's era around LLaMA-7B, or the one
    of July 2023 around FlanT5-XL (spec section 0, G1 and G2). BadInput for another name."""
    tower = dict(encoder="clip_text", width=768, image_width=768, heads=12, dropout=DROPOUT,
                 **_CLIP_L)
    if name == "lmeye-llama7b":
        language = LanguageSettings(width=4096, heads=32, positions=2048, tied=False, eos_id=2,
                                    vocab=32000, layers=32, ffn=11008)
        return LmeyeSettings(
            vision=VisionSettings(image=224, patch=14, stem=()), language=language,
            interaction=InteractionSettings(llm_width=4096, requests=1, soft=5, returned=5,
                                            **tower),
            static="pooled", reads="pooled", img_id=32000, slot_id=32001)
    if name != "lmeye-flant5-xl":
        raise BadInput(f"preset {name!r}: LMEye's published models are lmeye-llama7b and "
                       "lmeye-flant5-xl")
    eva = VisionSettings(family="eva", image=224, patch=14, width=1408, blocks=39, heads=16,
                         mlp=6144, stem=(), ln_eps=1e-6)
    return LmeyeSettings(
        vision=eva, depths=(-1,), reads="queries", slot_id=32100, request_id=32101,
        language=LanguageSettings(family="t5", vocab=32128, width=2048, layers=24, heads=32,
                                  decoder_layers=24, head_width=64, ffn=5120, tied=False),
        interaction=InteractionSettings(llm_width=2048, pool="tail", **tower | {"dropout": 0.0}),
        qformer=QFormerSettings(width=768, layers=12, heads=12, ffn=3072, queries=32,
                                vision_width=eva.width, vocab=1, max_text=1))


def build(settings: LmeyeSettings, llm: LanguageModel | None = None) -> Lmeye:
    """An Lmeye of these settings. Its image input is CLIP's pooled feature: it has no ViT."""
    return Lmeye(settings, nn.Identity(), llm or LanguageModel(settings.language))


def load(folder: Path | str, tower: dict[str, Tensor] | None = None,
         llm: LanguageModel | None = None) -> Lmeye:
    """The Lmeye of an imported folder. What the folder lacks must be given: the state dict of
    CLIPTextModelWithProjection, the LLM."""
    tensors, config = checkpoints.load_run(folder)
    settings = keys.restore(LmeyeSettings, config["settings"], vision=VisionSettings,
                            language=LanguageSettings, interaction=InteractionSettings)
    tensors |= {f"{FROZEN[0]}model.{k}": v for k, v in (tower or {}).items()}
    model = build(settings, llm)
    keys.fill(model, tensors, folder, FROZEN[1:] if llm is not None else ())
    return model.eval()


def settings_of(net: dict[str, Tensor], clip: dict[str, Tensor], language: LanguageSettings,
                img_id: int, imgd_id: int, clip_heads: int = 12, bos_id: int = 49406,
                eos_id: int = 49407) -> LmeyeSettings:
    """The settings of the model these tensors belong to; what no shape tells is an argument."""
    net = rename(net)
    width, llm_width = net["interaction.request.weight"].shape
    text = "text_model.embeddings"
    tower = {"vocab": len(clip[f"{text}.token_embedding.weight"]),
             "positions": len(clip[f"{text}.position_embedding.weight"]),
             "layers": keys.count_layers(clip, "text_model.encoder.layers."),
             "ffn": len(clip["text_model.encoder.layers.0.mlp.fc1.weight"])} if clip else _CLIP_L
    return LmeyeSettings(
        # The pooled feature comes from CLIP's own image model: get_image_features(...)[:, None].
        vision=VisionSettings(image=224, patch=14, stem=()), language=language,
        interaction=InteractionSettings(
            llm_width=llm_width, image_width=net["img_proj.weight"].shape[1],
            encoder="clip_text", width=width, requests=1,
            soft=len(net["interaction.decompose.weight"]) // width,
            returned=len(net["interaction.transmit.weight"]) // llm_width,
            heads=clip_heads, dropout=DROPOUT, bos_id=bos_id, eos_id=eos_id, **tower),
        static="pooled", reads="pooled", img_id=img_id, slot_id=imgd_id)


def rename(net: dict[str, Tensor], legacy_overwrite: bool = False) -> dict[str, Tensor]:
    """Official names -> ours. BadInput unless exactly the official names are there.

    legacy_overwrite: every official loader asks `"embedding_img" in name`, which is true of
    "embedding_imgd" too, so the published scores were made with e_img := e_imgd.
    """
    net = {name.removeprefix("module."): tensor for name, tensor in net.items()}
    if missing := sorted(NAMES.keys() - net.keys()):
        raise BadInput(f"not a whole LMEye checkpoint: missing {', '.join(missing)}")
    if unknown := sorted(net.keys() - NAMES.keys()):
        raise BadInput(f"not an LMEye checkpoint of the paper era: unknown {', '.join(unknown)}")
    ours = {NAMES[name]: tensor[0] if name.startswith("embedding") else tensor
            for name, tensor in net.items()}
    return ours | ({"e_img": ours["e_imgd"].clone()} if legacy_overwrite else {})


def load_official(model: Lmeye, net: dict[str, Tensor], clip: dict[str, Tensor],
                  llm: dict[str, Tensor], legacy_overwrite: bool = False) -> None:
    """Fill the whole model, strictly: checkpoint, CLIP text tower, LLM."""
    model.llm.model.load_state_dict(llm, strict=True)
    model.interaction.encoder.model.load_state_dict(clip, strict=True)
    frozen = ("vision.", "llm.", "interaction.encoder.")
    checkpoints.load_into(
        model, rename(net, legacy_overwrite), "the LMEye checkpoint",
        names=[n for n, _ in model.named_parameters() if not n.startswith(frozen)])
