"""The official paper-era LMEye checkpoint in our model: sizes read off its tensors, exact names.

A file holds {'net': {name: tensor}}: `embedding_img` [1, D], `embedding_imgd` [1, D], imgLinear,
promptMlp, llm2clip, imgdLinear (spec section 6), perhaps each behind "module.". CLIP's text tower
and the LLM come from their own files, in the names of transformers.

Symbols: D LLM width, c CLIP width, m return slots, k image tokens made of the pooled feature.
"""

from __future__ import annotations

from torch import Tensor

from .. import checkpoints
from ..language import LanguageSettings
from ..vision import VisionSettings
from .interaction import InteractionSettings
from .model import Lmeye, LmeyeSettings

_PLACES = {"imgLinear": "img_proj", "promptMlp": "interaction.decompose",
           "llm2clip": "interaction.request", "imgdLinear": "interaction.transmit"}
NAMES = {"embedding_img": "e_img", "embedding_imgd": "e_imgd"} | {
    f"{theirs}.{end}": f"{ours}.{end}"
    for theirs, ours in _PLACES.items() for end in ("weight", "bias")}
DROPOUT = 0.5                              # of the image tokens, in training alone


def settings_of(net: dict[str, Tensor], clip: dict[str, Tensor], language: LanguageSettings,
                img_id: int, imgd_id: int, clip_heads: int = 12, bos_id: int = 49406,
                eos_id: int = 49407) -> LmeyeSettings:
    """The settings of the model these tensors belong to; what no shape tells is an argument."""
    net = rename(net)
    width, llm_width = net["interaction.request.weight"].shape
    text = "text_model.embeddings"
    vocab, positions = (len(clip[f"{text}.{kind}_embedding.weight"])
                        for kind in ("token", "position"))
    layers = {k.split(".")[3] for k in clip if k.startswith("text_model.encoder.layers.")}
    return LmeyeSettings(
        # The pooled feature comes from CLIP's own image model: get_image_features(...)[:, None].
        vision=VisionSettings(image=224, patch=14, stem=()), language=language,
        interaction=InteractionSettings(
            llm_width=llm_width, image_width=net["img_proj.weight"].shape[1],
            encoder="clip_text", width=width, requests=1,
            soft=len(net["interaction.decompose.weight"]) // width,
            returned=len(net["interaction.transmit.weight"]) // llm_width,
            layers=len(layers), heads=clip_heads, dropout=DROPOUT,
            ffn=len(clip["text_model.encoder.layers.0.mlp.fc1.weight"]),
            vocab=vocab, positions=positions, bos_id=bos_id, eos_id=eos_id),
        static="pooled", reads="pooled", img_id=img_id, slot_id=imgd_id)


def rename(net: dict[str, Tensor], legacy_overwrite: bool = False) -> dict[str, Tensor]:
    """Official names -> ours. ValueError unless exactly the official names are there.

    legacy_overwrite: every official loader asks `"embedding_img" in name`, which is true of
    "embedding_imgd" too, so the published scores were made with e_img := e_imgd.
    """
    net = {name.removeprefix("module."): tensor for name, tensor in net.items()}
    if missing := sorted(NAMES.keys() - net.keys()):
        raise ValueError(f"not a whole LMEye checkpoint: missing {', '.join(missing)}")
    if unknown := sorted(net.keys() - NAMES.keys()):
        raise ValueError(f"not an LMEye checkpoint of the paper era: unknown {', '.join(unknown)}")
    ours = {NAMES[name]: tensor[0] if name.startswith("embedding") else tensor
            for name, tensor in net.items()}
    return ours | ({"e_img": ours["e_imgd"]} if legacy_overwrite else {})


def load_official(model: Lmeye, net: dict[str, Tensor], clip: dict[str, Tensor],
                  llm: dict[str, Tensor], legacy_overwrite: bool = False) -> None:
    """Fill the whole model, strictly: checkpoint, CLIP text tower, LLM."""
    model.llm.model.load_state_dict(llm, strict=True)
    model.interaction.encoder.model.load_state_dict(clip, strict=True)
    frozen = ("vision.", "llm.", "interaction.encoder.")
    checkpoints.load_into(
        model, rename(net, legacy_overwrite), "the LMEye checkpoint",
        names=[n for n, _ in model.named_parameters() if not n.startswith(frozen)])
