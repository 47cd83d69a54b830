"""Pretrained backbones by name or folder, through transformers: a ViT that sees, an LLM.

A folder in Hugging Face's layout (config.json, *.safetensors, a tokenizer) or a name on the Hub.
Weights are safetensors alone, nothing downloaded is ever run as code, and every key of the part
we take must be there: a half-loaded model answers nonsense without a word.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from lion_min import BadInput, check_file, checkpoints
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.parts import STAGE0, Parts, tiny_vision
from lion_min.pretrained.hf_tokenizer import PretrainedTokenizer
from lion_min.pretrained.presets import PRESETS
from lion_min.pretrained.sliding import SlidingLanguageModel, slides
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

# model_type in config.json -> (our family, transformers' class). A whole CLIP or InstructBLIP
# holds its ViT under "vision_model."; EVA's ViT-g is the one of InstructBLIP and BLIP-2.
VISION = {"clip": ("clip", "CLIPVisionModel"), "clip_vision_model": ("clip", "CLIPVisionModel"),
          "siglip": ("siglip", "SiglipVisionModel"),
          "siglip_vision_model": ("siglip", "SiglipVisionModel"),
          "instructblip": ("eva", "InstructBlipVisionModel"),
          "instructblip_vision_model": ("eva", "InstructBlipVisionModel"),
          "blip-2": ("eva", "Blip2VisionModel"), "blip_2_vision_model": ("eva", "Blip2VisionModel"),
          "dinov2": ("dinov2", "Dinov2Model"),
          "dinov2_with_registers": ("dinov2", "Dinov2WithRegistersModel")}
LANGUAGE = {"llama": ("llama", "LlamaForCausalLM"), "qwen2": ("llama", "Qwen2ForCausalLM"),
            "qwen3": ("llama", "Qwen3ForCausalLM"), "gemma3_text": ("llama", "Gemma3ForCausalLM"),
            "t5": ("t5", "T5ForConditionalGeneration")}
# Models of transformers that are taken whole, by their flag: class, model_type, processor.
WHOLE = {"detector": ("GroundingDinoForObjectDetection", "grounding-dino", "GroundingDinoProcessor"),
         "segmenter": ("SamModel", "sam", "SamImageProcessor"), "tower": ("CLIPModel", "clip", "")}
# Flag -> the model types that are known, and what such a part is called.
KINDS = {"vision": (VISION, "vision tower"), "llm": (LANGUAGE, "LLM")} | {
    flag: ((model_type,), kind) for flag, (kind, model_type, _) in WHOLE.items()}
TOWER = {r"^vision_model\.": ""}           # a tower alone, out of a whole CLIP or BLIP
# Keys that may be left over: the other parts of a whole CLIP or BLIP, computed tables, and
# the decoder's table in old T5 files, which nothing reads.
OTHERS = re.compile(r"(text_model|text_projection|visual_projection|logit_scale|logit_bias|"
                    r"qformer|query_tokens|language_model|language_projection)\b.*|"
                    r".*\.(position_ids|rotary_emb\.inv_freq|"
                    r"EncDecAttention\.relative_attention_bias\.weight)")


def load_vision(source: str | Path, dtype: torch.dtype | None = None,
                shapes: bool = False) -> VisionEncoder:
    """The ViT of a CLIP, SigLIP, InstructBLIP or BLIP-2, or a DINOv2; float32 unless dtype says
    otherwise. shapes: without its weights, on the meta device.

    BadInput, one line: not here and no network, of another kind, damaged, keys missing.
    """
    with _reading(source, "--vision") as options:
        config = _config(source, "vision", options)
        family, kind = VISION[config.model_type]
        config = getattr(config, "vision_config", config)
        image, mlp = config.image_size, getattr(config, "intermediate_size", 0)
        if family == "dinov2":
            image = _input_side(source, image, config.patch_size, options)
            mlp = int(config.hidden_size * config.mlp_ratio)
        model = _shapes(kind, config) if shapes else _weights(kind, source, config, dtype, options)
    return VisionEncoder(VisionSettings(
        family=family, image=image, patch=config.patch_size, width=config.hidden_size,
        blocks=config.num_hidden_layers, heads=config.num_attention_heads,
        mlp=mlp, stem=(), ln_eps=config.layer_norm_eps), model)


def load_whole(part: str, source: str | Path, flag: str = "") -> tuple[nn.Module, object]:
    """(a model of WHOLE as it is, float32; its processor, where one is named).

    flag: what gives its folder, if not --part. BadInput as load_vision.
    """
    import transformers
    kind, _, processor = WHOLE[part]
    with _reading(source, flag or f"--{part}") as options:
        config = _config(source, part, options)
        read = getattr(transformers, processor).from_pretrained(source, **options) \
            if processor else None
        return _weights(kind, source, config, None, options, {}), read


def load_language(source: str | Path, dtype: torch.dtype | None = None
                  ) -> tuple[LanguageModel, PretrainedTokenizer]:
    """A T5, Llama, Qwen2, Qwen3 or Gemma 3 (text) with its tokenizer; float32 unless dtype says
    otherwise.

    BadInput as load_vision, and where the tokenizer does not belong to the weights.
    """
    with _reading(source, "--llm") as options:
        family, kind, config = _language(source, options)
        tokenizer = _tokenizer(source, options)
        model = _weights(kind, source, config, dtype, options)
    tokenizer = PretrainedTokenizer(tokenizer, model.get_input_embeddings().num_embeddings)
    form = SlidingLanguageModel if slides(model) else LanguageModel
    return form(_sizes(family, model, tokenizer), model), tokenizer


def language_shapes(source: str | Path) -> LanguageModel:
    """The LLM of a folder or name on the meta device, off its config.json alone. BadInput as
    load_language."""
    with _reading(source, "--llm") as options:
        family, kind, config = _language(source, options)
        model = _shapes(kind, config)
        said = json.loads(Path(_file(source, "config.json", options)).read_bytes())
    if family == "t5" and not said.get("tie_word_embeddings", True):
        # transformers 5 ties every T5 built from a config; FlanT5's file has a head of its own
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.lm_head.weight))
    return LanguageModel(_sizes(family, model), model)


def _language(source: str | Path, options: dict) -> tuple[str, str, object]:
    """(our family, transformers' class, its config) of an LLM."""
    config = _config(source, "llm", options)
    family, kind = LANGUAGE[config.model_type]
    if family == "t5" and config.feed_forward_proj == "gated-gelu":
        # BLIP-2 and LION run FlanT5 with the exact GELU, transformers with the tanh form.
        config.dense_act_fn = "gelu"
    return family, kind, config


def config_of(source: str | Path, part: str, flag: str = ""):
    """The transformers config of a part, a key of KINDS. BadInput as load_whole."""
    with _reading(source, f"--{flag or part}") as options:
        return _config(source, part, options)


def load_tokenizer(source: str | Path, vocab: int, part: str = "",
                   template: str | None = None) -> PretrainedTokenizer:
    """A tokenizer alone, for `vocab` rows of embeddings that are at hand already.

    part: a folder inside, such as InstructBLIP's qformer_tokenizer; template: a chat template in
    the place of its own. BadInput as load_language.
    """
    with _reading(source, "--vision" if part else "--llm") as options:
        options |= ({"subfolder": part} if part else {})
        tokenizer = _tokenizer(source, options)
        tokenizer.chat_template = template or tokenizer.chat_template
        return PretrainedTokenizer(tokenizer, vocab)


def _sizes(family: str, model: nn.Module,
           tokenizer: PretrainedTokenizer | None = None) -> LanguageSettings:
    """Off the transformers config; ids off the tokenizer, where it is at hand. (Shared key heads
    have no setting: `model` alone has them.)"""
    c, t5 = model.config, family == "t5"
    return LanguageSettings(
        family=family, vocab=model.get_input_embeddings().num_embeddings, width=c.hidden_size,
        layers=c.num_hidden_layers,
        decoder_layers=c.num_decoder_layers if t5 else None, heads=c.num_attention_heads,
        head_width=c.d_kv if t5 else getattr(c, "head_dim", None),
        ffn=c.d_ff if t5 else c.intermediate_size,
        positions=LanguageSettings.positions if t5 else c.max_position_embeddings,
        buckets=c.relative_attention_num_buckets if t5 else LanguageSettings.buckets,
        distance=c.relative_attention_max_distance if t5 else LanguageSettings.distance,
        tied=model.lm_head.weight is model.get_input_embeddings().weight,
        **{"pad_id": tokenizer.pad_id, "eos_id": tokenizer.eos_id} if tokenizer else {})


# ---- from disk or from the Hub -----------------------------------------------------------------

def check_part(source: str | Path, flag: str, part: str = "") -> None:
    """BadInput as load_vision for what a config.json tells: read before any weights, so that a
    mistake in one part is told before another one is loaded.

    part: what it must be, a key of KINDS; "": anything that can be read, such as a tokenizer.
    """
    if part == "vision" and our_vision(source):
        return
    with _reading(source, f"--{flag}") as options:
        if part:
            _config(source, part, options)


def _config(source: str | Path, part: str, options: dict):
    """The transformers config; BadInput for a model_type that is not known for this part."""
    from transformers import AutoConfig, PreTrainedConfig
    known, name = KINDS[part]
    # Read first: AutoConfig has no words for a model_type that is new to transformers.
    kind = PreTrainedConfig.get_config_dict(source, **options)[0].get("model_type")
    if kind not in known:
        raise BadInput(f"{source}: a {kind!r} is no {name} known here; give one whose "
                       f"model_type is {', '.join(known)}")
    return AutoConfig.from_pretrained(source, **options)


def _input_side(source: str | Path, trained: int, patch: int, options: dict) -> int:
    """Pixels of the square input of a ViT that interpolates its positions to any size: what
    preprocessor_config.json says, else the size that it was trained on. BadInput for one that
    is not made of whole patches."""
    file = _file(source, "preprocessor_config.json", options)
    said = json.loads(Path(file).read_bytes()) if file else {}
    size = said.get("crop_size") or trained
    sides = [size] * 2 if isinstance(size, int) else [size.get("height"), size.get("width")]
    if sides[0] != sides[1] or not isinstance(sides[0], int) or sides[0] < 1 or sides[0] % patch:
        raise BadInput(f"{source}: preprocessor_config.json: crop_size {size!r:.60} is no square of "
                       f"whole patches of {patch} pixels; write a multiple such as {16 * patch}")
    return sides[0]


def _shapes(kind: str, config) -> nn.Module:
    """A transformers model on the meta device, where a tensor has a shape, but no memory."""
    import transformers
    with torch.device("meta"):
        return getattr(transformers, kind)(config)


def _weights(kind: str, source: str | Path, config, dtype: torch.dtype | None, options: dict,
             renamed: dict[str, str] = TOWER) -> nn.Module:
    """A transformers model with every weight in place; renamed: pattern of a key -> its name."""
    import transformers
    model, info = getattr(transformers, kind).from_pretrained(
        source, config=config, dtype=dtype or torch.float32, use_safetensors=True,
        output_loading_info=True, ignore_mismatched_sizes=True,      # named below
        key_mapping=renamed or None, **options)
    faults = [f"key '{key}' is {list(shape)} instead of {list(expected)}"
              for key, shape, expected in sorted(info["mismatched_keys"])]
    faults += [f"key '{key}' is missing" for key in sorted(info["missing_keys"])]
    faults += [f"unknown key '{key}'" for key in sorted(info["unexpected_keys"])
               if not OTHERS.fullmatch(key)]
    faults += [f"key '{key}' holds NaN or infinity"
               for key in checkpoints.not_finite(dict(model.named_parameters()))]
    if faults:
        more = f" and {len(faults) - 3} more" if faults[3:] else ""
        raise BadInput(f"{source}: not all of a {kind}: {', '.join(faults[:3])}{more}; "
                       "download its files again, all of one model")
    if hasattr(model, "generation_config"):    # how to decode is ours to say, not the file's
        model.generation_config = transformers.GenerationConfig(
            decoder_start_token_id=getattr(config, "decoder_start_token_id", None))
    return model


def _file(source: str | Path, name: str, options: dict) -> str | None:
    """Where this file of a folder, or of a name on the Hub, lies; None where there is none."""
    from transformers.utils import cached_file
    return cached_file(source, name, _raise_exceptions_for_missing_entries=False,
                       _raise_exceptions_for_connection_errors=False, **options)


def _tokenizer(source: str | Path, options: dict):
    import transformers
    files = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model")
    # Without any of them transformers makes an empty vocabulary up.
    found = [name for name in files if _file(source, name, options)]
    if not found:
        raise BadInput(f"{source}: holds no tokenizer; copy tokenizer.json beside the weights")
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:                 # transformers raises nearly anything here
        if found[0].endswith(".model"):        # needs packages beyond transformers' own
            raise BadInput(
                f"{source}: holds its tokenizer as {found[0]} alone; where `pip install transformers "
                f"sentencepiece protobuf` has been run, make tokenizer.json of it: python -c \"from "
                "transformers import AutoTokenizer as T; "
                f"T.from_pretrained('{source}').save_pretrained('{source}')\"") from error
        raise BadInput(f"{source}: its tokenizer cannot be read ({_first_line(error)}); copy a "
                       "whole tokenizer.json beside the weights") from error


@contextlib.contextmanager
def _reading(source: str | Path, flag: str) -> Iterator[dict]:
    """Options for from_pretrained, which is kept silent; what it raises becomes one BadInput."""
    from transformers.utils import logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    try:
        options = _hub_options(source, flag)
        if not options:                          # a folder is read in a moment, without a bar
            logging.disable_progress_bar()
        yield options
    except BadInput:
        raise
    except Exception as error:  # transformers and safetensors raise nearly anything on bad files
        raise BadInput(_message(error, source, flag)) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _hub_options(source: str | Path, flag: str) -> dict:
    """{} for a folder; for a name, whether the Hub can be asked or the cache must do."""
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise BadInput(f"{source}: holds no config.json; pass a folder in Hugging Face's "
                           f"layout with {flag} FOLDER")
        for file in sorted(Path(source).glob("*.*")):
            if file.suffix in (".json", ".safetensors", ".model"):
                check_file(file)
        return {}
    if Path(source).is_file():
        raise BadInput(f"{source}: is a file; pass the folder it lies in, in Hugging Face's layout, "
                       f"with {flag} FOLDER")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)):
        raise BadInput(f"{source}: no such folder, and no name on the Hub (OWNER/NAME); pass what "
                       f"there is with {flag} FOLDER")
    return {"local_files_only": not _on_hub(str(source))}


@functools.cache                               # asked once a process, for checking and for reading
def _on_hub(source: str) -> bool:
    """Whether the Hub can be asked for a name; BadInput where it answers that there is none."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError
    try:                                       # from_pretrained would try for 30 seconds
        HfApi().model_info(source, timeout=10)
    except RepositoryNotFoundError:
        raise BadInput(f"{source}: no such folder, and no model of this name on the Hub; check it, "
                       "or log in with `hf auth login` if it is not public") from None
    except Exception:                          # no network, a proxy, HF_HUB_OFFLINE
        return False
    return True


def _message(error: Exception, source: str | Path, flag: str) -> str:
    """One line for what transformers raised, by the first cause that says enough."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return f"{source}: its owner wants to be asked first; accept the terms on its page, then " \
               "log in with `hf auth login`"
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
        return f"{source} is not on this machine and there is no network: download it elsewhere " \
               f"and pass its folder with {flag} FOLDER"
    if "safetensors`" in str(error) or "model.safetensors" in str(error):
        return f"{source}: holds no model.safetensors, and pickled weights are not read; save it " \
               f"again with save_pretrained and pass that folder with {flag} FOLDER"
    return f"{source}: cannot be read ({_first_line(error)}); download its files again"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


# ---- the frozen parts of a preset ----------------------------------------------------------------

def pretrained_parts(out: Path, preset: str, vision: str | None = None, llm: str | None = None) -> Parts:
    """The backbones of a preset; the tag head is OUT's own, trained on the data's names, if any.

    vision, llm: a folder or name in the place of the preset's own; vision may also be a stage 0
    of ours, which has seen drawings.
    """
    names = PRESETS[preset]
    encoder = tiny_vision(Path(vision))[0] if vision and our_vision(vision) else load_vision(
        vision or names.vision)
    language, tokenizer = load_language(llm or names.language)
    return Parts(encoder, photo_tagger(out, encoder.settings.width), language, tokenizer,
                 Path(out), preset, {"preset": preset, "vision": vision, "language": llm})


def our_vision(source: str | Path) -> bool:
    """Whether a folder is the ViT of a stage 0 of ours."""
    config = Path(source, checkpoints.CONFIG)
    return config.is_file() and checkpoints.load_json(config).get("part") == "vision"


def photo_tagger(out: Path, width: int) -> TagHead:
    """OUT/lion/stage0/tags, or a head that knows no tag."""
    folder = Path(out) / STAGE0 / "tags"
    if not (folder / checkpoints.CONFIG).exists():
        return TagHead(width, ())
    tensors, config = checkpoints.load_run(folder)
    tagger = TagHead(width, tuple(config["tags"]))
    checkpoints.load_into(tagger, tensors, folder)
    return tagger
