"""The sizes of an LLM, and a random transformers model of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class LanguageSettings:
    """Sizes of an LLM, in the words of transformers."""

    family: str = "llama"                  # 'llama' (and all whose layers look like it) or 't5'
    vocab: int = 420
    width: int = 128
    layers: int = 4                        # T5: encoder layers
    decoder_layers: int | None = None      # T5; None: as many as encoder layers
    heads: int = 4
    head_width: int | None = None          # None: width / heads
    ffn: int = 512
    positions: int = 1024                  # Llama
    buckets: int = 32                      # T5: relative positions told apart,
    distance: int = 128                    # and the one from which all are alike
    tied: bool = True                      # the head is the embedding; FlanT5 has its own
    pad_id: int = 0
    eos_id: int = 1


def build(s: LanguageSettings) -> nn.Module:
    """A randomly initialised transformers model of these sizes, no network."""
    import transformers
    common = {"vocab_size": s.vocab, "pad_token_id": s.pad_id, "eos_token_id": s.eos_id}
    head_width = s.head_width or s.width // s.heads
    if s.family == "t5":
        model = _build_t5(transformers.T5Config(
            **common, d_model=s.width, d_kv=head_width, d_ff=s.ffn, num_layers=s.layers,
            num_decoder_layers=s.decoder_layers or s.layers, num_heads=s.heads, dropout_rate=0.0,
            relative_attention_num_buckets=s.buckets, relative_attention_max_distance=s.distance,
            feed_forward_proj="gated-gelu", decoder_start_token_id=s.pad_id,
            tie_word_embeddings=s.tied), s.tied)
    elif s.family == "llama":
        config = transformers.LlamaConfig(
            **common, hidden_size=s.width, intermediate_size=s.ffn, num_hidden_layers=s.layers,
            num_attention_heads=s.heads, num_key_value_heads=s.heads, head_dim=head_width,
            bos_token_id=None, max_position_embeddings=s.positions, tie_word_embeddings=s.tied)
        model = transformers.LlamaForCausalLM(config)
    else:
        raise ValueError(f"unknown LLM family {s.family!r}: 'llama' or 't5'")
    # Plain matrix products: in bf16 the fused kernel's backward takes a CPU several times as long.
    model.set_attn_implementation("eager")
    return model


def _build_t5(config, tied: bool) -> nn.Module:
    import transformers
    # BLIP-2 and LION run FlanT5 with the exact GELU; "gated-gelu" alone means the tanh form.
    config.dense_act_fn = "gelu"
    model = transformers.T5ForConditionalGeneration(config)
    if not tied:
        # transformers 5 ties every T5 built from a config: loading a head of its own would
        # write over the embedding. Cut here, and kept cut in the config.
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return model


def too_long(ids: Tensor, read: int, most: int, settings: LanguageSettings) -> list[str]:
    """Notes for the user on answers [S, A] of at most `most` tokens behind `read` others: cut
    before their end, or beyond the positions that the LLM was trained on."""
    notes = []
    if read + most > settings.positions:
        notes.append(f"picture and prompt are {read} tokens long, and the LLM has "
                     f"{settings.positions} positions: do not trust the answer")
    ids = getattr(ids, "sequences", ids)           # of return_dict_in_generate
    if ids.shape[1] >= most and not (ids == settings.eos_id).any(1).all():
        notes.append(f"the answer was cut at {most} tokens, the most that are written")
    return notes
