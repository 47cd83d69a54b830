"""Checkpoints in the published layouts: the reference's tensors, or Lyrics' random ones.

Each `write_*` puts a system's files into a folder as they are published and returns the words of
the import command after the system's name; each `*_tensors` gives the same as one dict.
"""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lion_min.checkpoints import __main__ as checkpoints_main

TRAINED_T5 = (".adapter.", "embed_tokens")
ROTARY = "model.layers.{}.self_attn.rotary_emb.inv_freq"


def under(values: dict[str, Tensor], prefix: str = "weights/") -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}


def shard(folder: Path, tensors: dict[str, Tensor], kind: str = "bin") -> Path:
    """A Hugging Face folder of two shards and their index."""
    folder.mkdir(parents=True)
    stem = "pytorch_model" if kind == "bin" else "model"
    names = [f"{stem}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    places = {key: names[i % 2] for i, key in enumerate(sorted(tensors))}
    for name in names:
        own = {k: v.clone() for k, v in tensors.items() if places[k] == name}
        save_file(own, folder / name) if kind != "bin" else torch.save(own, folder / name)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(
        {"metadata": {"total_size": 1}, "weight_map": places}))
    return folder


# ---- LION ----------------------------------------------------------------------------------------

lion_tensors = pvit_tensors = under


def write_lion(folder: Path, values) -> list[str]:
    """The published .pth with what it holds by accident, EVA's file, FlanT5's folder."""
    weights = under(values)
    vit = {k.removeprefix("visual_encoder."): v for k, v in weights.items()
           if k.startswith("visual_encoder.")}
    t5 = {k.removeprefix("t5_model."): v for k, v in weights.items()
          if k.startswith("t5_model.") and ".adapter." not in k}
    trained = {k: v for k, v in weights.items()
               if not k.startswith("visual_encoder.") and k.removeprefix("t5_model.") not in t5}
    for side in ("encoder", "decoder"):
        trained[f"t5_model.{side}.embed_tokens.weight"] = t5["shared.weight"].bfloat16()
    trained["Qformer.bert.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save({"model": trained, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]},
                "epoch": 9}, folder / "LION.pth")
    torch.save(vit, folder / "eva_vit_g.pth")
    shard(folder / "flan-t5", t5, "safetensors")
    return [str(folder / name) for name in ("LION.pth", "eva_vit_g.pth", "flan-t5")]


# ---- PVIT ----------------------------------------------------------------------------------------

def write_pvit(folder: Path, values, delta: bool = True) -> list[str]:
    """The delta's shards, RegionCLIP's file, and LLaMA as the base; or all whole."""
    weights = under(values)
    own = {k: v.clone() for k, v in weights.items() if not k.startswith("backbone.")}
    own |= {ROTARY.format(i): torch.ones(4) for i in (0, 1)}
    generator = torch.Generator().manual_seed(0)
    base = {k: torch.randn(v.shape, generator=generator) for k, v in own.items()
            if not any(part in k for part in ("_projector", "bbox_fc"))}
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        base[key] = base[key][:-5].clone()                      # LLaMA lacks the new words
    if delta:
        for key, value in base.items():
            own[key][:len(value)] -= value
    backbone = {k: v for k, v in weights.items() if k.startswith("backbone.")}
    torch.save({"model": backbone | {"lang_encoder.token": torch.ones(2)}}, folder / "rc.pth")
    torch.save(base, folder / "llama.bin")
    words = [str(shard(folder / "pvit", own)), str(folder / "rc.pth")]
    return words + (["--base", str(folder / "llama.bin")] if delta else [])


# ---- LMEye ---------------------------------------------------------------------------------------

def lmeye_tensors(values, form: str = "q5") -> dict[str, Tensor]:
    return (under(values, f"weights_{form}/") | under(values, "weights/clip.")
            | under(values, "weights/llm."))


def write_lmeye(folder: Path, values, form: str = "q5") -> list[str]:
    """The legacy file of Parameters behind DDP's prefix, CLIP's with its image half, the LLM's."""
    net = {f"module.{k}": nn.Parameter(v) for k, v in under(values, f"weights_{form}/").items()}
    torch.save({"net": net, "optimizer": {"state": {}}, "epoch": 4}, folder / "epoch4.pth",
               _use_new_zipfile_serialization=False)
    clip = under(values, "weights/clip.")
    more = {"logit_scale": torch.ones(()), "visual_projection.weight": torch.ones(4, 4),
            "vision_model.post_layernorm.bias": torch.ones(4),
            "text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file({k: v.clone() for k, v in (clip | more).items()}, folder / "clip.safetensors")
    torch.save(under(values, "weights/llm."), folder / "llama.bin")
    return [str(folder / name) for name in ("epoch4.pth", "clip.safetensors", "llama.bin")]


# ---- Lyrics: no reference exists -----------------------------------------------------------------

SIZES = {"heads": 2, "vit_heads": 2, "qformer_heads": 2, "object_queries": 3}


def lyrics_tensors(_=None, objects: int = 6) -> dict[str, Tensor]:
    """Random tensors under the names of LyricsLMForConditionalGeneration: two layers of each
    part, ViT 8 wide, MQ-Former 12, `objects`, LLM 16; 2 image and 3 object queries."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        found[name] = torch.randn(shape, generator=generator) * 0.5

    def pair(name: str, rows: int, *columns: int) -> None:
        add(f"{name}.weight", rows, *columns)
        add(f"{name}.bias", rows)

    add("query_tokens", 1, 5, 12)
    pair("language_projection", 16, 12)
    add("vision_model.embeddings.class_embedding", 1, 1, 8)
    add("vision_model.embeddings.position_embedding", 1, 5, 8)
    pair("vision_model.embeddings.patch_embedding", 8, 3, 4, 4)
    pair("vision_model.post_layernorm", 8)
    add("qformer.embeddings.word_embeddings.weight", 20, 12)
    add("qformer.embeddings.position_embeddings.weight", 9, 12)
    pair("qformer.embeddings.LayerNorm", 12)
    add("language_model.model.embed_tokens.weight", 21, 16)
    add("language_model.model.norm.weight", 16)
    add("language_model.lm_head.weight", 21, 16)
    for i in (0, 1):
        vit, q, llm = (f"vision_model.encoder.layers.{i}", f"qformer.encoder.layer.{i}",
                       f"language_model.model.layers.{i}")
        for name, *shape in (("layer_norm1", 8), ("layer_norm2", 8), ("self_attn.qkv", 24, 8),
                             ("self_attn.projection", 8, 8), ("mlp.fc1", 10, 8),
                             ("mlp.fc2", 8, 10)):
            pair(f"{vit}.{name}", *shape)
        for kind, context in (("attention", 12), ("crossattention", 8),
                              ("detection_crossattention", objects))[:1 if i else 3]:
            pair(f"{q}.{kind}.attention.query", 12, 12)
            pair(f"{q}.{kind}.attention.key", 12, context)
            pair(f"{q}.{kind}.attention.value", 12, context)
            pair(f"{q}.{kind}.output.dense", 12, 12)
            pair(f"{q}.{kind}.output.LayerNorm", 12)
        for end in ("", "_query"):
            pair(f"{q}.intermediate{end}.dense", 14, 12)
            pair(f"{q}.output{end}.dense", 12, 14)
            pair(f"{q}.output{end}.LayerNorm", 12)
        for name in "qkvo":
            add(f"{llm}.self_attn.{name}_proj.weight", 16, 16)
        add(f"{llm}.mlp.gate_proj.weight", 18, 16)
        add(f"{llm}.mlp.up_proj.weight", 18, 16)
        add(f"{llm}.mlp.down_proj.weight", 16, 18)
        add(f"{llm}.input_layernorm.weight", 16)
        add(f"{llm}.post_attention_layernorm.weight", 16)
    return found


def write_lyrics(folder: Path, _=None, objects: int = 6) -> list[str]:
    """The released folder's form: shards, with the tagger and the detector among them."""
    more = {"ram.fc.weight": torch.ones(1, 3), "grounding_dino.bbox_embed.0.bias": torch.ones(4),
            "qformer.embeddings.position_ids": torch.arange(9)[None],
            "language_model." + ROTARY.format(0): torch.ones(4)}
    return [str(shard(folder / "ziya", lyrics_tensors(objects=objects) | more))]


# ---- the command -----------------------------------------------------------------------------------

SYSTEMS = ("lion", "pvit", "lmeye", "lyrics")
SET = {"lion": ["vit_heads=4", "qformer_heads=4", "aggregator_heads=16", "distance=16",
                "hint_id=61"],
       "pvit": ["heads=4"], "lmeye": ["heads=2", "clip_heads=2", "img_id=48", "imgd_id=49",
                                      "bos_id=97", "eos_id=98"],
       "lyrics": [f"{k}={v}" for k, v in SIZES.items()]}


@pytest.fixture(scope="module")
def values(reference):
    """{system: the official module's tensors}."""
    return {s: reference(s) for s in SYSTEMS[:3]} | {"lyrics": None}


def published(system: str):
    """The module that imports a system's published files."""
    return import_module(f"lion_min.published.{system}")


def run(system: str, words: list[str], out: Path) -> int:
    """`checkpoints import` of these files with the numbers that they do not hold."""
    return checkpoints_main.main(["import", system, *words, "--out", str(out), "--set", *SET[system]])
