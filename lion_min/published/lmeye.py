"""The official paper-era LMEye checkpoint in our model: sizes read off its tensors, exact names.

A file holds {'net': {name: tensor}}: `embedding_img` [1, D], `embedding_imgd` [1, D], imgLinear,
promptMlp, llm2clip, imgdLinear (spec section 6), perhaps each behind "module.". CLIP's text tower
and the LLM come from their own files, in the names of transformers: import them beside the
checkpoint, or bring them along to `load`. Later checkpoints (instruction_*) are refused: what the
released one holds is unknown (spec section 6).

Letters of the tables: those of layouts.py; of CLIP's text tower c width, e inner width, W words,
P positions, T layers; t is the return slots times d. Symbols: D LLM width.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from lion_min.language import LanguageModel
from lion_min.lmeye.interaction import InteractionSettings
from lion_min.lmeye.model import Lmeye, LmeyeSettings
from lion_min.published import keys, layouts
from lion_min.qformer import QFormerSettings
from lion_min.vision import VisionSettings

STAGE = 2
FROZEN = ("interaction.encoder.", "llm.")  # may be absent: files of their own
OPTIONS = {"img_id": 32000, "imgd_id": 32001, "heads": 0, "clip_heads": 12, "bos_id": 49406,
           "eos_id": 49407}                # what no shape tells; 0: LLaMA's, a head for 128
# CLIP's image half, whose pooled feature comes from get_image_features, and computed tables.
IGNORED = (r"vision_model\..*|visual_projection\.weight|logit_scale|"
           r"text_model\.embeddings\.position_ids|") + layouts.ROTARY
DROPOUT = 0.5                              # of the image tokens, in training alone
_TOWER = "interaction.encoder.model."      # CLIP's text tower in our Lmeye
CLIP_L = {"c": 768, "W": 49408, "P": 77, "T": 12, "e": 3072}     # ViT-L/14's
SIZES = {"lmeye-llama7b": CLIP_L | layouts.LLAMA_7B | {"t": 5 * 4096},
         "lmeye-llama13b": CLIP_L | layouts.LLAMA_13B | {"t": 5 * 5120}}

TRAINED = """
embedding_img  e_img  1 d
embedding_imgd  e_imgd  1 d
imgLinear.*  img_proj.*  d c
promptMlp.*  interaction.decompose.*  5c c
llm2clip.*  interaction.request.*  c d
imgdLinear.*  interaction.transmit.*  t c
"""
CLIP = keys.same("""
text_model.embeddings.token_embedding.weight  W c
text_model.embeddings.position_embedding.weight  P c
text_projection.weight  c c
text_model.final_layer_norm.*  c
text_model.encoder.layers.[Tc].self_attn.{q_proj,k_proj,v_proj,out_proj}.*  c c
text_model.encoder.layers.[Tc].mlp.fc1.*  e c
text_model.encoder.layers.[Tc].mlp.fc2.*  c e
text_model.encoder.layers.[Tc].{layer_norm1,layer_norm2}.*  c
""", "", _TOWER)
PARTS = (keys.Part(r"(text_model|text_projection)\..*", CLIP, "text tower", "c"),
         keys.Part(r"(model\.|lm_head\.).*", layouts.llama_table(), "LLM", "d"))


def convert(tensors: dict[str, Tensor], legacy_overwrite: bool = False,
            **options) -> tuple[dict[str, Tensor], LmeyeSettings]:
    """Official tensors, of one file or several -> (ours by parameter name, their settings).

    legacy_overwrite: every official loader asks `"embedding_img" in name`, which is true of
    "embedding_imgd" too, so the published scores were made with e_img := e_imgd. options: those
    of OPTIONS. BadInput names the keys that do not fit. LLM and text tower may be absent.
    """
    tensors = keys.without({k.removeprefix("module."): v for k, v in tensors.items()}, IGNORED)
    ours, n = keys.read(tensors, TRAINED, "LMEye (of the paper era)", SIZES.values(), PARTS)
    ours |= {name: ours[name][0] for name in ("e_img", "e_imgd")}              # [1, D] -> [D]
    ours |= {"e_img": ours["e_imgd"].clone()} if legacy_overwrite else {}
    return ours, settings(n, **options)


def settings(n: keys.Sizes, **options) -> LmeyeSettings:
    """The settings of the model of these sizes; options: those of OPTIONS.

    Around a LLaMA it is the paper's era, whose pooled feature comes from CLIP's own image model,
    get_image_features(...)[:, None]; around a FlanT5 that of July 2023 (spec section 0, G1, G2).
    """
    o = OPTIONS | options
    if "X" in n:
        eva = layouts.EVA_G | layouts.BERT | {"Q": 32, "W": 1, "P": 1}    # the Q-Former has no text
        return LmeyeSettings(
            vision=layouts.eva(eva, 16), depths=(-1,), reads="queries", slot_id=32100,
            request_id=32101, language=layouts.t5(n),
            qformer=QFormerSettings(**layouts.qformer(eva, 12)),
            interaction=_interaction(n, 12, image_width=768, pool="tail", dropout=0.0))
    return LmeyeSettings(
        vision=VisionSettings(image=224, patch=14, stem=()), language=layouts.llama(n, o["heads"]),
        interaction=_interaction(n, o["clip_heads"], image_width=n["c"], soft=5, requests=1,
                                 returned=n["t"] // n["d"], dropout=DROPOUT, bos_id=o["bos_id"],
                                 eos_id=o["eos_id"]),
        static="pooled", reads="pooled", img_id=o["img_id"], slot_id=o["imgd_id"])


def _interaction(n: keys.Sizes, heads: int, **more) -> InteractionSettings:
    """CLIP's text tower of these sizes."""
    return InteractionSettings(
        encoder="clip_text", llm_width=n["d"], width=n["c"], vocab=n["W"], positions=n["P"],
        layers=n["T"], ffn=n["e"], heads=heads, **more)


settings_by_name = partial(keys.settings_by_name, "LMEye", SIZES | {
    "lmeye-flant5-xl": CLIP_L | layouts.FLAN_T5_XL}, settings)


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
