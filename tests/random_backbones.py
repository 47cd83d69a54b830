"""Tiny random backbones in the layouts that are published: each function writes one folder.

What makes a published folder awkward is kept: CLIP beside its text tower, grouped-query attention
under a chat template, more embedding rows than tokens (Qwen2, T5), T5 with a head of its own.
"""

import functools
import json
from pathlib import Path

import pytest
import torch

LINES = ["what is this ? a red bicycle beside the wooden bench .",
         "Where is the dog? The dog lies on the couch: [0.440,0.060,0.650,0.367]",
         "Describe the region [0.100,0.200,0.300,0.400] in a few words.",
         "user system assistant You are a helpful assistant."] * 3
CHATML = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
          "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
          "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def write_clip(folder: Path, image: int = 32, patch: int = 8, width: int = 32,
               positions: int = 8) -> Path:
    """A whole CLIP, as openai/clip-vit-base-patch16; its text tower reads `positions`."""
    from transformers import CLIPConfig, CLIPModel
    return _saved(CLIPModel, CLIPConfig(
        text_config=_text_tower(16) | {"max_position_embeddings": positions},
        vision_config=_tower(image, patch, width), projection_dim=16), folder)


def write_siglip(folder: Path, image: int = 32, patch: int = 8, width: int = 32) -> Path:
    """A whole SigLIP, both towers, as google/siglip-base-patch16-224."""
    from transformers import SiglipConfig, SiglipModel
    return _saved(SiglipModel, SiglipConfig(
        text_config=_text_tower(width), vision_config=_tower(image, patch, width)), folder)


def write_eva(folder: Path, image: int = 32, patch: int = 8, width: int = 32) -> Path:
    """InstructBLIP, as Salesforce/instructblip-flan-t5-xl: EVA's ViT, a Q-Former and a FlanT5."""
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration
    qformer = _text_tower(16) | {"encoder_hidden_size": width}
    config = InstructBlipConfig(
        vision_config=_tower(image, patch, width) | {"hidden_act": "gelu", "layer_norm_eps": 1e-6},
        qformer_config=qformer, text_config=_t5_sizes(300) | {"model_type": "t5"},
        num_query_tokens=2)
    return _saved(InstructBlipForConditionalGeneration, config, folder)


def write_blip2(folder: Path) -> Path:
    """BLIP-2, as Salesforce/blip2-flan-t5-xl: EVA's ViT, a Q-Former without text and a FlanT5."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration
    config = Blip2Config(
        vision_config=_tower(32, 8, 32) | {"hidden_act": "gelu", "layer_norm_eps": 1e-6},
        qformer_config=_text_tower(16) | {"encoder_hidden_size": 32},
        text_config=_t5_sizes(300) | {"model_type": "t5"}, num_query_tokens=2)
    return _saved(Blip2ForConditionalGeneration, config, folder)


def write_plain_llama(folder: Path, vocab: int) -> Path:
    """As huggyllama/llama-7b: no chat template, a head of its own; its words: write_words."""
    from transformers import LlamaConfig, LlamaForCausalLM
    return _saved(LlamaForCausalLM, LlamaConfig(**_decoder(vocab) | {
        "num_key_value_heads": 4, "tie_word_embeddings": False}), folder)


def write_words(folder: Path, count: int) -> Path:
    """A tokenizer of Llama's form, of `count` tokens: <unk> <s> </s> and letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    letters = "0123456789[],.\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJ?:'"
    names = ["<unk>", "<s>", "</s>", *letters][:count]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>",
                            eos_token="</s>").save_pretrained(folder)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text("{}")
    return folder


def grounding_dino(vocab: Path, words: tuple[str, ...] = (), queries: int = 20, width: int = 32):
    """(GroundingDinoForObjectDetection, its processor), random; vocab: a file for BERT's words, of
    which `words` begin at 200."""
    import transformers as t
    names = [f"[unused{i}]" for i in range(1100)]       # Grounding-DINO knows BERT's ids of these
    for place, word in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]",
                        1010: ",", 1012: ".", 1029: "?"}.items():
        names[place] = word
    names[200:200 + len(words)] = words
    vocab.write_text("\n".join(names))
    torch.manual_seed(0)
    detector = t.GroundingDinoForObjectDetection(t.GroundingDinoConfig(
        backbone_config=t.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
                                     window_size=4, out_indices=[2, 3, 4]),
        text_config=t.BertConfig(vocab_size=1100, hidden_size=32, num_hidden_layers=1,
                                 num_attention_heads=2, intermediate_size=32),
        num_queries=queries, d_model=width, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_attention_heads=2, max_text_len=32))
    with torch.no_grad():                               # queries of a fresh model are all alike
        for name, p in detector.named_parameters():
            if p.ndim >= 2 and "backbone" not in name:
                p.normal_(0, 0.15)
        detector.model.decoder.layer_norm.weight.normal_(1, 0.5)     # as trained: not the identity
    processor = t.GroundingDinoProcessor(
        t.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
        t.BertTokenizerFast(vocab=str(vocab)))
    return detector.eval(), processor


def sam():
    """(SamModel, its image processor), random."""
    import transformers as t
    model = t.SamModel(t.SamConfig(
        vision_config=dict(hidden_size=16, output_channels=16, num_hidden_layers=1, mlp_dim=16,
                           num_attention_heads=2, image_size=64, patch_size=8, window_size=4,
                           global_attn_indexes=[0], num_pos_feats=8, initializer_range=0.05),
        prompt_encoder_config=dict(hidden_size=16, image_size=64, patch_size=8,
                                   mask_input_channels=4),
        mask_decoder_config=dict(hidden_size=16, mlp_dim=16, num_hidden_layers=1,
                                 num_attention_heads=2, iou_head_hidden_dim=16)))
    with torch.no_grad():                               # else every mask is the same grey
        for p in model.mask_decoder.parameters():
            p.add_(0.6 * torch.randn_like(p))
    return model.eval(), t.SamImageProcessor(size={"longest_edge": 64},
                                             pad_size={"height": 64, "width": 64})


def write_dino(folder: Path) -> Path:
    """As IDEA-Research/grounding-dino-tiny; its words are some kinds of the drawn world."""
    folder.mkdir()
    return _both(folder, *grounding_dino(folder / "vocab.txt", ("circle", "star", "ring", "cross")))


def write_sam(folder: Path) -> Path:
    """As facebook/sam-vit-base."""
    return _both(folder, *sam())


def _both(folder: Path, model, processor) -> Path:
    for part in (model, processor):
        part.save_pretrained(folder)
    return folder


def write_dinov2(folder: Path, image: int = 32, patch: int = 8, width: int = 32,
                 registers: int = 0) -> Path:
    """As facebook/dinov2-small: trained on larger squares than preprocessor_config.json crops."""
    import transformers
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    sizes = _tower(image + 2 * patch, patch, width) | {"mlp_ratio": 2}
    sizes |= {"num_register_tokens": registers} if registers else {}
    _saved(getattr(transformers, f"{kind}Model"), getattr(transformers, f"{kind}Config")(**sizes), folder)
    crop = {"crop_size": {"height": image, "width": image}, "size": {"shortest_edge": image + 4}}
    (folder / "preprocessor_config.json").write_text(json.dumps(crop))
    return folder


def write_llama(folder: Path) -> Path:
    """As HuggingFaceTB/SmolLM2-135M-Instruct: a chat model, <|im_end|> pads and ends."""
    from transformers import LlamaConfig, LlamaForCausalLM
    tokenizer = _byte_pairs(bos_token="<|im_start|>", eos_token="<|im_end|>",
                            pad_token="<|im_end|>", unk_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    return _saved(LlamaForCausalLM, LlamaConfig(
        **_decoder(len(tokenizer)), bos_token_id=1, eos_token_id=2, pad_token_id=2), folder)


def write_qwen2(folder: Path) -> Path:
    """As Qwen/Qwen2-0.5B-Instruct: biases in attention, no <bos>, padded embedding rows; its own
    generation settings sample and punish repetition."""
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
    tokenizer = _byte_pairs(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    _saved(Qwen2ForCausalLM, Qwen2Config(
        **_decoder(len(tokenizer) + 5), bos_token_id=0, eos_token_id=2, sliding_window=4,
        use_sliding_window=False), folder)
    GenerationConfig(do_sample=True, temperature=0.7, top_p=0.8, repetition_penalty=1.1,
                     bos_token_id=0, pad_token_id=0, eos_token_id=[2, 0]).save_pretrained(folder)
    return folder


def write_qwen3(folder: Path) -> Path:
    """As Qwen/Qwen3-0.6B: heads wider than width / heads, normed queries, thoughts in the template."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    tokenizer = _byte_pairs(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML.replace("assistant\n' }}", "assistant\n' }}{% if enable_thinking is "
                                             "false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}")
    tokenizer.save_pretrained(folder)
    return _saved(Qwen3ForCausalLM, Qwen3Config(
        **_decoder(len(tokenizer) + 5), head_dim=16, bos_token_id=0, eos_token_id=2), folder)


def write_gemma3(folder: Path) -> Path:
    """As google/gemma-3-1b-it: a layer that sees four tokens back, norms on both sides of the MLP,
    scaled embeddings, a template that takes no other roles than user and assistant in turn."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig
    tokenizer = _byte_pairs(bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] != ('user', 'assistant')"
        "[loop.index0 % 2] %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    tokenizer.save_pretrained(folder)
    return _saved(Gemma3ForCausalLM, Gemma3TextConfig(
        **_decoder(len(tokenizer)), head_dim=16, query_pre_attn_scalar=16, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"], bos_token_id=0, eos_token_id=2), folder)


def write_t5(folder: Path) -> Path:
    """As google/flan-t5-xl: a unigram tokenizer with 4 sentinels, rows beyond it, an own head."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer
    words = Tokenizer(models.Unigram())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.train_from_iterator(LINES, trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"))
    pieces = sorted(words.get_vocab(), key=words.get_vocab().get)
    scores = [(piece, 0.0 if i < 3 else -float(i)) for i, piece in enumerate(pieces)]
    scores += [(f"<extra_id_{i}>", 0.0) for i in (3, 2, 1, 0)]
    tokenizer = T5Tokenizer(vocab=scores, extra_ids=4)
    tokenizer.save_pretrained(folder)
    model = _random(T5ForConditionalGeneration, T5Config(**_t5_sizes(len(tokenizer) + 7)))
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    model.config.tie_word_embeddings = False       # transformers 5 ties every T5 it makes
    model.save_pretrained(folder)
    return folder


TOWERS = {"clip": write_clip, "siglip": write_siglip, "eva": write_eva, "dinov2": write_dinov2,
          "registers": functools.partial(write_dinov2, registers=4)}
LLMS = {"llama": write_llama, "qwen2": write_qwen2, "qwen3": write_qwen3, "gemma3": write_gemma3,
        "t5": write_t5}
CHAT = ("llama", "qwen2", "qwen3", "gemma3")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder("clip"), folder("t5"), ...: written once, read by many."""
    root = tmp_path_factory.mktemp("backbones")
    return functools.cache(lambda name: (TOWERS | LLMS)[name](root / name))


# ---- sizes and tokenizers --------------------------------------------------------------------

def _tower(image: int, patch: int, width: int) -> dict:
    return {"image_size": image, "patch_size": patch, "hidden_size": width,
            "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4}


def _text_tower(width: int) -> dict:
    return {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 30, "max_position_embeddings": 8,
            "bos_token_id": 1, "eos_token_id": 2}


def _decoder(vocab: int) -> dict:
    return {"vocab_size": vocab, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 512, "tie_word_embeddings": True}


def _t5_sizes(vocab: int) -> dict:
    return {"vocab_size": vocab, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2,
            "num_decoder_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0,
            "eos_token_id": 1}


def _byte_pairs(**named: str):
    """A byte-level BPE tokenizer whose digits stand alone, with the ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(LINES, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **named)
    tokenizer.chat_template = CHATML
    return tokenizer


def _random(kind: type, config) -> torch.nn.Module:
    """Wide enough weights that a slip changes an answer; seeded."""
    torch.manual_seed(0)
    model = kind(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def _saved(kind: type, config, folder: Path) -> Path:
    _random(kind, config).save_pretrained(folder)
    return folder
