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

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lmeye.interaction import InteractionSettings
from lion_min.lmeye.model import Lmeye, LmeyeSettings
from lion_min.lmeye.stages import LmeyeStage
from lion_min.lmeye.system import LmeyeSystem
from lion_min.parts import Parts
from lion_min.pretrained import around
from lion_min.pretrained.backbones import load_language, load_tokenizer, load_whole
from lion_min.published import keys, layouts
from lion_min.published.asking import imported_parts
from lion_min.qformer import QFormerSettings
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

STAGE = 2
NEEDS = {"vision": "CLIP ViT-L/14, whole", "llm": "LLaMA"}
KINDS = {"vision": "tower"}                # of the SIZES below: --vision is a whole CLIP, as --tower
FROZEN = ("interaction.encoder.", "llm.")  # may be absent: files of their own
OPTIONS = {"img_id": 32000, "imgd_id": 32001, "heads": 0, "clip_heads": 12, "bos_id": 49406,
           "eos_id": 49407}                # what no shape tells; 0: LLaMA's, a head for 128
# CLIP's image half, whose pooled feature comes from get_image_features, and computed tables.
IGNORED = (r"vision_model\..*|visual_projection\.weight|logit_scale|"
           r"text_model\.embeddings\.position_ids|") + layouts.ROTARY
# What trains in the published forms, where CLIP's text tower is frozen; else what the stage says.
LINEARS = ("interaction.request", "interaction.decompose", "interaction.transmit", "e_imgd")
TRAINS = {("pooled", 1): ("img_proj", "e_img"), ("pooled", 2): LINEARS,
          ("qformer", 2): (*LINEARS, "e_imgq")}
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
            interaction=_interaction(n, 12, image_width=eva["q"], pool="tail", dropout=0.0))
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


FORMS = SIZES | {"lmeye-flant5-xl": CLIP_L | layouts.FLAN_T5_XL}
settings_by_name = partial(keys.settings_by_name, "LMEye", FORMS, settings)


def build(settings: LmeyeSettings, llm: LanguageModel | None = None,
          vision: nn.Module | None = None) -> Lmeye:
    """An Lmeye of these settings. Its image input is CLIP's pooled feature; vision: a PooledClip,
    or None where that is at hand."""
    return Lmeye(settings, vision or nn.Identity(), llm or LanguageModel(settings.language))


def load(folder: Path | str, tower: dict[str, Tensor] | None = None,
         llm: LanguageModel | None = None, vision: nn.Module | None = None) -> Lmeye:
    """The Lmeye of an imported folder. What the folder lacks must be given: the state dict of
    CLIPTextModelWithProjection, the LLM."""
    more = {f"{_TOWER}{k}": v for k, v in (tower or {}).items()}
    return keys.load(folder, LmeyeSettings, lambda s: build(s, llm, vision),
                     ("vision.", *FROZEN[1:] * (llm is not None)), more)


# ---- CLIP's two halves: the image feature, and the text tower that interacts ---------------------

class PooledClip(VisionEncoder):
    """CLIP's get_image_features as an encoder of one state: pixels [B, 3, H, W] -> [[B, 1, c]]."""

    def __init__(self, clip: nn.Module):
        v = clip.config.vision_config
        super().__init__(VisionSettings(
            image=v.image_size, patch=v.patch_size, width=v.hidden_size, blocks=v.num_hidden_layers,
            heads=v.num_attention_heads, mlp=v.intermediate_size, stem=(), ln_eps=v.layer_norm_eps),
            clip.vision_model)
        self.projection = clip.visual_projection

    def forward(self, pixels: Tensor) -> list[Tensor]:
        cls = super().forward(pixels)[-1][:, :1]
        return [self.projection(self.model.post_layernorm(cls))]


def load_clip(source: str, flag: str = "--vision") -> nn.Module:
    """A whole CLIP, both towers and projections."""
    return load_whole("tower", source, flag)[0]


def text_tower(clip: nn.Module) -> nn.Module:
    """The CLIPTextModelWithProjection of a whole CLIP."""
    import transformers
    config = clip.config.text_config
    config.projection_dim = clip.config.projection_dim
    tower = transformers.CLIPTextModelWithProjection(config)
    tower.text_model, tower.text_projection = clip.text_model, clip.text_projection
    return tower


def complete(parts: Parts, vision: str, tower: str = "", **_) -> None:
    """The settings between these parts; for the published forms CLIP's halves, too."""
    if parts.preset not in FORMS:
        parts.published = around.lmeye(parts.vision.settings, parts.llm.settings,
                                       len(parts.tokenizer))
        return
    pooled = parts.preset in SIZES
    clip = load_clip(vision) if pooled else load_clip(tower, "--tower")
    parts.beside["tower"], text = text_tower(clip), clip.config.text_config
    v = parts.vision.settings
    if pooled:
        parts.vision = PooledClip(clip)
        parts.tagger = TagHead(text.hidden_size, (), heads=1)
    parts.published = settings_around(parts.preset, v, parts.llm.settings, len(parts.tokenizer),
                                      text)


def settings_around(preset: str, vision: VisionSettings, language: LanguageSettings, vocab: int,
                    text=None) -> LmeyeSettings:
    """The settings of a published form, one of FORMS, around a ViT and an LLM with `vocab` ids.
    text: the transformers config of CLIP's text tower; None: the published one."""
    s, pooled = settings_by_name(preset), preset in SIZES
    tower = {} if text is None else {
        "width": text.hidden_size, "vocab": text.vocab_size, "layers": text.num_hidden_layers,
        "positions": text.max_position_embeddings, "ffn": text.intermediate_size,
        "heads": text.num_attention_heads,
        "bos_id": text.vocab_size - 2, "eos_id": text.vocab_size - 1}     # hub configs say 0 and 2
    if pooled and tower:
        tower["image_width"] = text.hidden_size
    return replace(
        s, vision=vision, language=language, slot_id=vocab, generate={},
        **{"img_id": vocab + 1} if pooled else {"request_id": vocab + 1, "qformer": replace(
            s.qformer, vision_width=vision.width)},
        interaction=replace(s.interaction, llm_width=language.width, **tower))


def fitted(stage: LmeyeStage, settings: LmeyeSettings) -> LmeyeStage:
    """The stage as a published form trains it; any other as it is."""
    return stage if settings.interaction.encoder != "clip_text" else replace(stage, plan=replace(stage.plan, lr_scale={}),
                   trains=TRAINS.get((settings.static, stage.number), stage.trains))


def open_system(folder: Path | str, stage, device, vision: str, llm: str, **_) -> LmeyeSystem:
    """An imported LMEye, ready to be asked. vision: a whole CLIP, whose image half is in no import;
    llm: LLaMA, for its tokenizer and, where the import has none, its weights."""
    no_tower, no_llm = keys.lacks(folder, FROZEN)
    clip = load_clip(vision)
    model = load(folder, text_tower(clip).state_dict() if no_tower else None,
                 load_language(llm)[0] if no_llm else None, PooledClip(clip))
    s = model.settings
    tokenizer = load_tokenizer(llm, s.language.vocab)
    parts = imported_parts(model, folder, tokenizer, device, s.interaction.width)
    return LmeyeSystem(parts, stage, model.to(device))
