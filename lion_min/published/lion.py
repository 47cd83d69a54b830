"""The official LION checkpoint (JiuTian-LION, commit 7578437) in our model, key by key.

LION's .pth holds what was trained; the frozen ViT (eva_vit_g.pth) and T5 (google/flan-t5-xl or
-xxl) have files of their own, and may be imported beside it or brought along to `load`. The
official loader ignores what it does not find, so a wrong file loads "successfully". Here every
key must be known, every expected key present, and each of its shape.

Letters of the tables: those of layouts.py, b bottleneck of an adapter, m inner width of the MLP,
i of the aggregator.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lion.model import Lion, LionSettings
from lion_min.lion.system import LionSystem
from lion_min.parts import Parts
from lion_min.pretrained import around
from lion_min.pretrained.backbones import load_language, load_tokenizer, load_vision
from lion_min.published import keys, layouts
from lion_min.published.asking import Questions, imported_parts
from lion_min.published.layouts import attention, ffn
from lion_min.qformer import QFormerSettings
from lion_min.vision import VisionEncoder, VisionSettings

STAGE = 4
NEEDS = {"vision": "InstructBLIP, its ViT and the Q-Former's tokenizer", "llm": "FlanT5"}
FROZEN = ("vision.", "llm.")               # may be absent: files of their own
OPTIONS = {"vit_heads": 16, "qformer_heads": 12, "aggregator_heads": 16, "distance": 128,
           "hint_id": 32099}               # what no shape tells, as published
GENERATE = {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 1.0, "min_length": 1,
            "max_new_tokens": 256}
_XL = layouts.EVA_G | layouts.BERT | layouts.FLAN_T5_XL | {"Q": 32, "i": 3072, "m": 5632, "b": 64}
SIZES = {"lion-flant5-xl": _XL, "lion-flant5-xxl": _XL | layouts.FLAN_T5_XXL}
POSITIONS = "visual_encoder.pos_embed"
# How the frozen parts' own files begin their keys, and what LION puts before them.
_BASES = {r"(cls_token|pos_embed|patch_embed\.|blocks\.)": "visual_encoder.",
          r"(shared|lm_head|encoder|decoder)\.": "t5_model."}


# ---- names ---------------------------------------------------------------------------------------

# Saved by accident, or dropped by the official model itself: the second copies of T5's tied
# embedding, BERT's position counter, and block 39 of eva_vit_g.pth (LION builds 39 blocks, 0..38).
IGNORED = (r"t5_model\.(encoder|decoder)\.embed_tokens\.weight|"
           r"Qformer\.bert\.embeddings\.position_ids|visual_encoder\.blocks\.39\..*")
_ADAPTER = """
OLD.router_ratio{1,2}  NEW.router.{0,1}  2 d
OLD.adapters.{0,1}.scale  NEW.adapters.{0,1}.scale  1
OLD.adapters.{0,1}.down_proj.*  NEW.adapters.{0,1}.down.*  b d
OLD.adapters.{0,1}.up_proj.*  NEW.adapters.{0,1}.up.*  d b
"""
# All that LION's .pth holds. An adapter stands in the feed-forward sub-layer of a T5's block.
TRAINED = """
soft_prompt_hint  soft_prompt.hint  d
t5_proj.*  query_proj.*  d q
{ln_vision,ln_adapter}.*  {ln_vision,ln_adapter}.*  v
adapter_proj.0.*  mlp.0.*  m v
adapter_proj.2.*  mlp.2.*  d m
""" + layouts.qformer_table("Qformer.bert", "qformer")
for _old, _new in (("encoder.block.[Xd].layer.1", "[Xd]"), ("decoder.block.[Yd].layer.2", "decoder.[Yd]")):
    TRAINED += _ADAPTER.replace("OLD", f"t5_model.{_old}.adapter").replace("NEW", f"adapters.{_new}")
for _old, _new in (("fusion_adapter.blocks.0", "aggregator.blocks.0"),
                   ("fusion_adapter.blocks.1", "aggregator.blocks.1")):
    TRAINED += attention(f"{_old}.attention", f"{_new}.attention", "v", "v")
    TRAINED += attention(f"{_old}.crossattention", f"{_new}.cross", "v", "v")
    TRAINED += ffn(_old, f"{_new}.ffn", "v", "i")

# eva_vit_g.pth, in the names of transformers' InstructBlipVisionModel.
VISION = """
visual_encoder.cls_token  vision.model.embeddings.class_embedding  1 1 v
visual_encoder.pos_embed  vision.model.embeddings.position_embedding  1 N v
visual_encoder.patch_embed.proj.*  vision.model.embeddings.patch_embedding.*  v 3 p p
""" + """
OLD.{norm1,norm2}.*  NEW.{layer_norm1,layer_norm2}.*  v
OLD.attn.{q_bias,v_bias}  NEW.self_attn.{q_bias,v_bias}  v
OLD.attn.qkv.weight  NEW.self_attn.qkv.weight  3v v
OLD.attn.proj.*  NEW.self_attn.projection.*  v v
OLD.mlp.fc1.*  NEW.mlp.fc1.*  h v
OLD.mlp.fc2.*  NEW.mlp.fc2.*  v h
""".replace("OLD", "visual_encoder.blocks.[Ev]").replace("NEW", "vision.model.encoder.layers.[Ev]")

# FlanT5: gated FFN, no biases, a position table in the first block only, untied head.
T5 = keys.same("""
{shared,lm_head}.weight  V d
{encoder,decoder}.final_layer_norm.weight  d
{encoder,decoder}.block.0.layer.0.SelfAttention.relative_attention_bias.weight  B H
encoder.block.[Xd].layer.{0,1}.layer_norm.weight  d
encoder.block.[Xd].layer.0.SelfAttention.{q,k,v}.weight  a d
encoder.block.[Xd].layer.0.SelfAttention.o.weight  d a
encoder.block.[Xd].layer.1.DenseReluDense.{wi_0,wi_1}.weight  f d
encoder.block.[Xd].layer.1.DenseReluDense.wo.weight  d f
decoder.block.[Yd].layer.{0,1,2}.layer_norm.weight  d
decoder.block.[Yd].layer.0.SelfAttention.{q,k,v}.weight  a d
decoder.block.[Yd].layer.0.SelfAttention.o.weight  d a
decoder.block.[Yd].layer.1.EncDecAttention.{q,k,v}.weight  a d
decoder.block.[Yd].layer.1.EncDecAttention.o.weight  d a
decoder.block.[Yd].layer.2.DenseReluDense.{wi_0,wi_1}.weight  f d
decoder.block.[Yd].layer.2.DenseReluDense.wo.weight  d f
""", "t5_model.", "llm.model.")
PARTS = (keys.Part(r"visual_encoder\..*", VISION, "ViT", "v"),
         keys.Part(r"t5_model\.(?!.*\.adapter\.).*", T5, "T5", "d"))


def convert(tensors: dict[str, Tensor], **options) -> tuple[dict[str, Tensor], LionSettings]:
    """Official tensors, of one file or several -> (ours by parameter name, their settings).

    options: those of OPTIONS. A frozen part that is not among the tensors is taken for the
    published one. BadInput names the keys that do not fit.
    """
    weights = {next((p for b, p in _BASES.items() if re.match(b, key)), "") + key: tensor
               for key, tensor in tensors.items()}
    ours, n = keys.read(keys.without(weights, IGNORED), TRAINED, "LION", SIZES.values(), PARTS)
    return _joined(ours, n["X"]), settings(n, **options)


def _joined(ours: dict[str, Tensor], encoder_blocks: int) -> dict[str, Tensor]:
    """One tensor of what is several officially; the decoder's adapters behind the encoder's."""
    for name in [n for n in ours if n.endswith(".router.0")]:    # [2 tasks, D] -> [K, 2 tasks, D]
        router = name.removesuffix(".0")
        ours[router] = torch.stack([ours.pop(f"{router}.{k}") for k in (0, 1)])
    for name in [n for n in ours if n.endswith(".q_bias")]:      # EVA's keys have no bias
        layer, q = name.removesuffix("q_bias"), ours.pop(name)
        ours[f"{layer}qkv.bias"] = torch.cat([q, torch.zeros_like(q), ours.pop(f"{layer}v_bias")])
    return {re.sub(r"^adapters\.decoder\.(\d+)", lambda m: f"adapters.{encoder_blocks + int(m[1])}",
                   name): tensor for name, tensor in ours.items()}


# ---- the model -----------------------------------------------------------------------------------

def settings(n: keys.Sizes, **options) -> LionSettings:
    """The settings of the model of these sizes; options: those of OPTIONS."""
    o = OPTIONS | options
    return LionSettings(
        mode="all", depths=(39, 29, 19),       # behind the 0-based blocks 38, 28, 18
        region_tokens=False, generate=dict(GENERATE), hint_id=o["hint_id"],
        vision=layouts.eva(n, o["vit_heads"], POSITIONS), language=layouts.t5(n, o["distance"]),
        qformer=QFormerSettings(**layouts.qformer(n, o["qformer_heads"])),
        aggregator_heads=o["aggregator_heads"], aggregator_ffn=n["i"], mlp=n["m"],
        bottleneck=n["b"])


settings_by_name = partial(keys.settings_by_name, "LION", SIZES, settings)


def build(settings: LionSettings, vision: nn.Module | None = None,
          llm: LanguageModel | None = None) -> Lion:
    """A Lion of these settings; the frozen parts are made, too, unless they are given."""
    return Lion(settings, vision or VisionEncoder(settings.vision),
                llm or LanguageModel(settings.language))


def load(folder: Path | str, vision: nn.Module | None = None,
         llm: LanguageModel | None = None) -> Lion:
    """The Lion of an imported folder. A frozen part that the folder lacks must be given."""
    prefixes = [prefix for prefix, part in zip(FROZEN, (vision, llm)) if part is not None]
    return keys.load(folder, LionSettings, lambda s: build(s, vision, llm), prefixes)


def open_system(folder: Path | str, stage, device, vision: str, llm: str, **_) -> LionSystem:
    """An imported LION, ready to be asked; without tags, for RAM is a model of its own.

    stage: LION's stage 4. llm: FlanT5's folder or name, for its tokenizer, and its weights where
    the import has none; vision: InstructBLIP's, for the Q-Former's tokenizer in
    qformer_tokenizer/ and, likewise, the ViT.
    """
    no_vision, no_llm = keys.lacks(folder, FROZEN)
    model = load(folder, load_vision(vision) if no_vision else None,
                 load_language(llm)[0] if no_llm else None)
    s = model.settings
    tokenizer = load_tokenizer(llm, s.language.vocab)
    system = LionSystem(imported_parts(model, folder, tokenizer, device),
                        replace(stage, tags=False), model.to(device))
    system.question_tokenizer = Questions(
        load_tokenizer(vision, s.qformer.vocab, "qformer_tokenizer"))
    return system


def complete(parts: Parts, **_) -> None:
    """The settings between these parts."""
    parts.published = settings_around(parts.preset, parts.vision.settings, parts.llm.settings,
                                      len(parts.tokenizer))


def settings_around(preset: str, vision: VisionSettings, language: LanguageSettings, vocab: int
                    ) -> LionSettings:
    """Those between a ViT and an LLM with `vocab` ids: published ones around the published ViT."""
    near = around.lion(vision, language, vocab)
    if preset not in SIZES or (s := settings_by_name(preset)).vision != vision:
        return near
    return replace(s, language=language, generate={}, region_id=near.region_id, hint_id=near.hint_id,
                   qformer=replace(s.qformer, vocab=vocab))          # the LLM's words, not BERT's
