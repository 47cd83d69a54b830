"""The parts that several published checkpoints share: LLMs, EVA's ViT, BERT's layers.

Of each part its table (keys.py), the published sizes by the table's letters, and the settings
that sizes make. The letters of all four systems:

    LLM     d width, f inner width, V words, L layers; T5: X encoder and Y decoder blocks,
            a width of all heads, H heads, B buckets of positions
    ViT     v width, h inner width, E blocks, p patch, N positions
    BERT    q width, g inner width, W words, P positions, K layers, Q queries
"""

from __future__ import annotations

from lion_min.language import LanguageSettings
from lion_min.published.keys import Sizes, same, side
from lion_min.vision import VisionSettings

# ---- LLMs: LLaMA in Hugging Face's names, on which three of the four systems stand -------------

_LLAMA = """
model.embed_tokens.weight  V d
model.norm.weight  d
lm_head.weight  V d
model.layers.[Ld].self_attn.{q_proj,k_proj,v_proj,o_proj}.weight  d d
model.layers.[Ld].mlp.{gate_proj,up_proj}.weight  f d
model.layers.[Ld].mlp.down_proj.weight  d f
model.layers.[Ld].{input_layernorm,post_attention_layernorm}.weight  d
"""
LLAMA_7B = {"d": 4096, "f": 11008, "V": 32000, "L": 32}
LLAMA_13B = {"d": 5120, "f": 13824, "V": 32000, "L": 40}
LLAMA_HEAD = 128                                                 # width of a head, in both
ROTARY = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"  # old files; it is computed

FLAN_T5_XL = {"d": 2048, "a": 2048, "f": 5120, "V": 32128, "H": 32, "B": 32, "X": 24, "Y": 24}
FLAN_T5_XXL = FLAN_T5_XL | {"d": 4096, "a": 4096, "f": 10240, "H": 64}


def llama_table(prefix: str = "") -> str:
    """The LLaMA whose keys stand behind `prefix`."""
    return same(_LLAMA, prefix, "llm.model.")


def llama(n: Sizes, heads: int = 0) -> LanguageSettings:
    """A LLaMA of these sizes; heads 0: each 128 wide."""
    return LanguageSettings(vocab=n["V"], width=n["d"], heads=heads or n["d"] // LLAMA_HEAD,
                            layers=n["L"], ffn=n["f"], positions=2048, tied=False, eos_id=2)


def t5(n: Sizes, distance: int = 128) -> LanguageSettings:
    """A FlanT5 of these sizes."""
    return LanguageSettings(
        family="t5", vocab=n["V"], width=n["d"], layers=n["X"], decoder_layers=n["Y"],
        heads=n["H"], head_width=n["a"] // n["H"], buckets=n["B"], distance=distance, ffn=n["f"],
        tied=False)


# ---- EVA's ViT and the Q-Formers, which are BERTs ----------------------------------------------

EVA_G = {"v": 1408, "h": 6144, "p": 14, "N": 257, "E": 39}
BERT = {"q": 768, "g": 3072, "W": 30523, "P": 512, "K": 12}


def eva(n: Sizes, heads: int, positions: str = "") -> VisionSettings:
    """A ViT of these sizes; positions: their official key, for the message."""
    return VisionSettings(family="eva", image=side(n["N"] - 1, positions) * n["p"], patch=n["p"],
                          width=n["v"], blocks=n["E"], heads=heads, mlp=n["h"], stem=(),
                          ln_eps=1e-6)


def qformer(n: Sizes, heads: int) -> dict[str, int]:
    """The fields of QFormerSettings. Official Q-Formers cross-attend in every second layer."""
    return {"width": n["q"], "layers": n["K"], "heads": heads, "ffn": n["g"], "queries": n["Q"],
            "vision_width": n["v"], "vocab": n["W"], "max_text": n["P"], "cross_every": 2}


def qformer_table(old: str, new: str, inside: str = "self") -> str:
    """inside: what the keys call an attention without its output layer."""
    layer, ours = f"{old}.encoder.layer.[Kq]", f"{new}.layers.[Kq]"
    cross = attention(f"{layer}.crossattention", f"{ours}.cross", "q", "v", inside)
    return f"""
query_tokens  {new}.query_tokens  1 Q q
{old}.embeddings.word_embeddings.weight  {new}.words.weight  W q
{old}.embeddings.position_embeddings.weight  {new}.positions.weight  P q
{old}.embeddings.LayerNorm.*  {new}.norm.*  q
""" + (attention(f"{layer}.attention", f"{ours}.attention", "q", "q", inside)
       + cross.replace("[Kq]", "[Kq:2]") + ffn(layer, f"{ours}.text_ffn", "q", "g")
       + ffn(layer, f"{ours}.query_ffn", "q", "g", "_query"))


def attention(old: str, new: str, width: str, context: str, inside: str = "self") -> str:
    """BERT's attention to states `context` wide, with its output layer."""
    return f"""
{old}.{inside}.query.*  {new}.query.*  {width} {width}
{old}.{inside}.{{key,value}}.*  {new}.{{key,value}}.*  {width} {context}
{old}.output.dense.*  {new}.out.*  {width} {width}
{old}.output.LayerNorm.*  {new}.norm.*  {width}
"""


def ffn(old: str, new: str, width: str, inner: str, end: str = "") -> str:
    """BERT's feed-forward net."""
    return f"""
{old}.intermediate{end}.dense.*  {new}.up.*  {inner} {width}
{old}.output{end}.dense.*  {new}.out.*  {width} {inner}
{old}.output{end}.LayerNorm.*  {new}.norm.*  {width}
"""
