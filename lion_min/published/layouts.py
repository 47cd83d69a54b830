"""The parts that several published checkpoints share: LLMs, EVA's ViT, BERT's layers.

A table gives each official key our key and its shape in letters (keys.py). The settings of a part
are read off the shapes of its tensors, under our names.
"""

from __future__ import annotations

from torch import Tensor

from lion_min.language import LanguageSettings
from lion_min.published import keys
from lion_min.published.keys import Table, pair
from lion_min.vision import VisionSettings

# ---- LLMs: LLaMA in Hugging Face's names, on which three of the four systems stand ---------------

_LLAMA = {"self_attn.q_proj": "d d", "self_attn.k_proj": "d d", "self_attn.v_proj": "d d",
          "self_attn.o_proj": "d d", "mlp.gate_proj": "f d", "mlp.up_proj": "f d",
          "mlp.down_proj": "d f", "input_layernorm": "d", "post_attention_layernorm": "d"}
ROTARY = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"  # old files; it is computed
LLAMA_SIZES = {4096: (32, 11008), 5120: (40, 13824)}      # 7B and 13B, by width: layers, ffn
LLAMA_HEAD = 128                                                 # width of a head, in both


def llama(tensors: dict[str, Tensor], prefix: str = "", words: str = "V",
          width: str = "d") -> Table:
    """The table of the LLaMA behind `prefix`, its words and its width in these letters."""
    known = LLAMA_SIZES.get(keys.rows(tensors, f"{prefix}model.norm.weight"), (1,))[0]
    layers = keys.count_layers(tensors, f"{prefix}model.layers.", known)
    table = {"model.embed_tokens.weight": "V d", "model.norm.weight": "d", "lm_head.weight": "V d"}
    table |= {f"model.layers.{i}.{part}.weight": shape for i in range(layers)
              for part, shape in _LLAMA.items()}
    letters = str.maketrans({"V": words, "d": width})
    return {prefix + name: (f"llm.model.{name}", shape.translate(letters))
            for name, shape in table.items()}


def llama_settings(width: int, vocab: int = 32000, heads: int = 0, layers: int | None = None,
                   ffn: int | None = None) -> LanguageSettings:
    """LLaMA-7B (width 4096), -13B (5120) or one of other sizes; heads 0: each 128 wide."""
    layers, ffn = (layers, ffn) if layers else LLAMA_SIZES[width]
    return LanguageSettings(vocab=vocab, width=width, heads=heads or width // LLAMA_HEAD,
                            layers=layers, ffn=ffn, positions=2048, tied=False, eos_id=2)


def read_llama(ours: dict[str, Tensor], heads: int = 0) -> LanguageSettings:
    """The settings of the LLaMA among converted tensors."""
    vocab, width = ours["llm.model.lm_head.weight"].shape
    return llama_settings(width, vocab, heads, keys.count_layers(ours, "llm.model.model.layers."),
                          len(ours["llm.model.model.layers.0.mlp.up_proj.weight"]))


def flan_t5(width: int) -> LanguageSettings:
    """FlanT5-XL (width 2048) or FlanT5-XXL (4096)."""
    return LanguageSettings(family="t5", vocab=32128, width=width, layers=24, decoder_layers=24,
                            heads=width // 64, head_width=64, ffn=width * 5 // 2, tied=False)


# ---- EVA's ViT -----------------------------------------------------------------------------------

def _eva(image: int, patch: int, width: int, blocks: int, heads: int, mlp: int) -> VisionSettings:
    return VisionSettings(family="eva", image=image, patch=patch, width=width, blocks=blocks,
                          heads=heads, mlp=mlp, stem=(), ln_eps=1e-6)


EVA_G = _eva(image=224, patch=14, width=1408, blocks=39, heads=16, mlp=6144)


def read_eva(ours: dict[str, Tensor], heads: int, official: str,
             prefix: str = "vision.model.") -> VisionSettings:
    """The settings of the ViT behind `prefix`; official: its key of positions, for the message."""
    width, _, patch, _ = ours[f"{prefix}embeddings.patch_embedding.weight"].shape
    patches = ours[f"{prefix}embeddings.position_embedding"].shape[1] - 1          # [1, 1+N, Dv]
    return _eva(keys.side(patches, official) * patch, patch, width,
                keys.count_layers(ours, f"{prefix}encoder.layers."), heads,
                len(ours[f"{prefix}encoder.layers.0.mlp.fc1.weight"]))


# ---- BERT: the Q-Formers and LION's aggregator ---------------------------------------------------

BERT_BASE = {"width": 768, "layers": 12, "heads": 12, "ffn": 3072}
CROSS_EVERY = 2                            # the official Q-Formers' cross-attention frequency


def bert_layer(official: str, ours: str, attentions: dict[str, tuple[str, str]],
               ffns: dict[str, str], width: str = "q", inner: str = "g",
               inside: str = "self") -> Table:
    """One layer of BERT. attentions: their name -> ours and the letter of what is attended to;
    ffns: their suffix -> our name; inside: what they call an attention without its output."""
    table = {}
    for theirs, (name, context) in attentions.items():
        for part, letter in (("query", width), ("key", context), ("value", context)):
            table |= pair(f"{official}.{theirs}.{inside}.{part}", f"{ours}.{name}.{part}",
                          f"{width} {letter}")
        table |= _output(f"{official}.{theirs}.output", f"{ours}.{name}", f"{width} {width}")
    for suffix, name in ffns.items():
        table |= pair(f"{official}.intermediate{suffix}.dense", f"{ours}.{name}.up",
                      f"{inner} {width}")
        table |= _output(f"{official}.output{suffix}", f"{ours}.{name}", f"{width} {inner}")
    return table


def _output(official: str, ours: str, shape: str) -> Table:
    return pair(f"{official}.dense", f"{ours}.out", shape) | pair(
        f"{official}.LayerNorm", f"{ours}.norm", shape.split()[0])


def bert_embeddings(official: str, ours: str = "") -> Table:
    return {f"{official}.word_embeddings.weight": (f"{ours}words.weight", "W q"),
            f"{official}.position_embeddings.weight": (f"{ours}positions.weight", "P q")
            } | pair(f"{official}.LayerNorm", f"{ours}norm", "q")


def read_qformer(ours: dict[str, Tensor], heads: int, prefix: str = "") -> dict[str, int]:
    """The fields of QFormerSettings for the Q-Former behind `prefix`."""
    _, queries, width = ours[f"{prefix}query_tokens"].shape
    return {"width": width, "layers": keys.count_layers(ours, f"{prefix}layers."), "heads": heads,
            "ffn": len(ours[f"{prefix}layers.0.query_ffn.up.weight"]), "queries": queries,
            "vision_width": ours[f"{prefix}layers.0.cross.key.weight"].shape[1],
            "vocab": len(ours[f"{prefix}words.weight"]), "cross_every": CROSS_EVERY,
            "max_text": len(ours[f"{prefix}positions.weight"])}
