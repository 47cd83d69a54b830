"""Estimates parameters, memory and FLOPs of a preset's stages before anything is allocated.

Parameters are those of the model on the meta device, where a tensor has a shape, but no values and
no memory. The rest is arithmetic on its modules, from the T tokens that pass each of them; a sample
is one image with one question and one region:

    matrix of W weights       2 W T forward; backward 2 W T for its input, 2 W T for its weights
    attention, K keys, D wide 4 T K D forward, twice as much backward

So a trained module costs 6 W T, a frozen one that a gradient passes 4 W T, one before all that
trains (the ViT) 2 W T; checkpointing adds the layers' forward. Autograd saves what a matrix gives
and what a trained one is given, a norm's input in fp32, scores that are not fused, the logits;
with checkpointing each layer's input and the inside of one layer. Frozen weights are bf16 under
bf16, trained ones fp32, of which autocast makes a copy. Not counted: what lives inside one
operation, the allocator's gaps, CUDA (about half a GiB), a published Lyrics' refiner.

Processes that share a model (parallel.shard) each hold their part of the LLM's layers and of what
trains outside them, with gradients and moments; all that is frozen outside; and whole, for a
while: what trains outside, with its gradients, and two layers, one that runs and the next one.

Symbols: V patches and CLS, Q queries, M objects, T tokens, K keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lion_min import BadInput
from lion_min.cli import LION, LMEYE, LYRICS, PVIT
from lion_min.launch import module_of, published
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.parts import tiny_vision
from lion_min.pretrained import around
from lion_min.pretrained.backbones import config_of, language_shapes, load_vision, our_vision
from lion_min.pretrained.crops import CropRegions, CropSettings
from lion_min.pretrained.presets import PRESETS
from lion_min.published.lyrics_refiner import PublishedSettings
from lion_min.published.regionclip import RegionCLIP
from lion_min.pvit.region_encoder import TinyRegions, TinyRegionSettings
from lion_min.scenes import WORLDS
from lion_min.tokenizer import TinyTokenizer
from lion_min.trainable import layers_of, matches, only_trainable
from lion_min.training import NO_LLM
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

GIB = 2 ** 30
PROMPT, ANSWER, DETECTIONS = 64, 32, 900   # tokens of a sample's text; Grounding-DINO's objects
STAGES = {LION: (1, 2, 3, 4), PVIT: (1, 2), LMEYE: (1, 2), LYRICS: (1, 2)}
CLIP_B = VisionSettings(image=224, patch=16, width=768, blocks=12, heads=12, mlp=3072, stem=())
SMOLLM2 = LanguageSettings(vocab=49152, width=576, layers=30, heads=9, ffn=1536, positions=8192)
ADDED = ("out", "o", "o_proj", "out_proj", "wo", "down_proj", "fc2")   # to a residual, which a norm saves
GATES = ("gate_proj", "wi_0")              # saved before and behind the activation function
# Read the input of another matrix; under autocast each has a copy of its own.
BESIDE = ("key", "value", "k", "v", "k_proj", "v_proj", "up_proj", "wi_1")


@dataclass(frozen=True)
class StageCost:
    """One stage of a preset. Memory in GiB of one process, FLOPs of one sample."""

    stage: int
    parts: dict[str, tuple[int, int]]      # part -> its parameters, those that train
    weights: float
    gradients: float
    moments: float
    activations: float
    forward: dict[str, float]              # FLOPs by part
    backward: float                        # FLOPs, with what checkpointing computes again
    tokens: int                            # of a sample, that the LLM reads; 0: no LLM
    samples: int                           # of one optimiser step
    total = property(lambda self: sum(count for count, _ in self.parts.values()))
    trained = property(lambda self: sum(trained for _, trained in self.parts.values()))
    flops = property(lambda self: sum(self.forward.values()) + self.backward)
    memory = property(lambda self: self.weights + self.gradients + self.moments + self.activations)


def plan(system: str, preset: str, stages: Iterable[int], batch: int, precision: str,
         accumulate: int = 1, checkpointing: bool = False, processes: int | None = None,
         sources: dict[str, str] | None = None) -> list[StageCost]:
    """The cost of each stage. batch: samples of one pass; precision: 'fp32' or 'bf16'; processes:
    how many share the model; sources: folders in the place of the preset's own parts, by their
    flags. BadInput for an unknown preset or stage, a number below 1, a folder that is none."""
    counts = {"batch": batch, "accumulate": accumulate, "processes": processes or 1}
    for name, value in counts.items():
        if value < 1:
            raise BadInput(f"{name} {value!r}: must be at least 1")
    if precision not in ("fp32", "bf16"):
        raise BadInput(f"precision {precision!r}: must be fp32 or bf16")
    costs, size = [], 2 if precision == "bf16" else 4
    for number in stages:
        model = build(system, preset, number, sources)
        parts, rules = by_part(model), tokens(system, model.settings, number)
        weights, gradients, moments, copies = held(model, size, processes, checkpointing)
        forward, backward, saved = work(model, rules, size, preset != "tiny", checkpointing)
        costs.append(StageCost(
            number, parts, weights / GIB, gradients / GIB, moments / GIB, forward=forward,
            backward=backward, tokens=rules["LLM"], activations=(saved * batch + copies) / GIB,
            samples=batch * accumulate * (processes or 1)))
    return costs


def held(model: nn.Module, size: int, processes: int | None, checkpointing: bool
         ) -> tuple[float, float, float, float]:
    """Bytes of one process: weights, gradients, AdamW's moments, autocast's copies of weights.
    size: bytes of a frozen number; processes: how many share the model, None: it has its own."""
    if processes and not hasattr(model, "llm"):
        raise BadInput(NO_LLM)
    layers = layers_of(model.llm, "--shard") if processes else []
    layers = [_counts(layer) for layer in layers] or [(0, 0)]
    (frozen, trained), (frozen_in, trained_in) = _counts(model), map(sum, zip(*layers))
    frozen_layer, trained_layer = max(layers, key=sum)
    N, outside = processes or 1, (trained - trained_in) * bool(processes)
    whole = 2 * trained_layer + outside            # for a while, beside this process's part
    copies = outside + trained_layer if processes and checkpointing else trained
    frozen += 2 * frozen_layer - frozen_in * (1 - 1 / N)
    return (size * frozen + 4 * (trained / N + whole), 4 * (trained / N + whole), 8 * trained / N,
            2 * copies * (size == 2))


def _counts(module: nn.Module) -> tuple[int, int]:
    """Frozen and trained numbers; a shared parameter counts once."""
    counts = Counter()
    for p in module.parameters():
        counts[p.requires_grad] += p.numel()
    return counts[False], counts[True]


def by_part(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameters of each child of the model, all and trained; a shared one counts once."""
    all_, trained = Counter(), Counter()
    for name, parameter in model.named_parameters():
        all_[name.split(".")[0]] += parameter.numel()
        trained[name.split(".")[0]] += parameter.numel() * parameter.requires_grad
    return {part: (count, trained[part]) for part, count in all_.items()}


# ---- models on the meta device -------------------------------------------------------------------

def build(system: str, preset: str, number: int,
          sources: dict[str, str] | None = None) -> nn.Module:
    """A stage's model on the meta device, its trained parameters marked; BadInput as `plan`."""
    if number not in STAGES[system]:
        raise BadInput(f"stage {number!r}: the stages of {system} whose cost is known are "
                       + ", ".join(map(str, STAGES[system])))
    stage = module_of(system, f"stage{number}").STAGE
    s, vision, llm = settings_of(system, preset, stage), None, None
    if sources:
        if "vision" in sources:
            vision = vision_shapes(sources["vision"])
        if "llm" in sources:
            llm = language_shapes(sources["llm"])
        s = settings_around(system, preset, stage, vision.settings if vision else s.vision,
                            llm.settings if llm else s.language, sources)
    with torch.device("meta"):
        model = _model(system, s, number, vision or VisionEncoder(s.vision),
                       llm or _llm(s.language))
    names = [name for name, _ in model.named_parameters()]
    if system == LMEYE:
        stage = published(system).fitted(stage, s)
    only_trainable(model, [prefix for prefix in stage.trains
                           if any(matches(name, prefix) for name in names)])
    return model


def settings_of(system: str, preset: str, stage):
    """The settings of a preset's model in this stage; BadInput for another system's preset."""
    presets = [name for name, p in PRESETS.items() if system in p.systems]
    if preset not in presets:
        raise BadInput(f"preset {preset!r}: no preset of {system}; there are {', '.join(presets)}")
    if preset == "tiny":
        vision = VisionSettings.of(WORLDS["medium"].image)
        settings = module_of(system, "model").tiny(vision, len(TinyTokenizer()))
    elif preset == "clip-smollm2":
        refiner = (PublishedSettings(), 260) if system == LYRICS else ()
        settings = getattr(around, system)(CLIP_B, SMOLLM2, SMOLLM2.vocab, *refiner)
    else:
        settings = published(system).settings_by_name(preset)
    return replace(settings, mode=stage.mode) if system == LION else settings


def vision_shapes(source: str) -> VisionEncoder:
    """A given ViT on the meta device; it may be a stage 0 of ours."""
    if not our_vision(source):
        return load_vision(source, shapes=True)
    return tiny_vision(Path(source))[0].to("meta")


def settings_around(system: str, preset: str, stage, v: VisionSettings, l: LanguageSettings,
                    sources: dict[str, str]):
    """The settings that training would give to a system around a ViT and an LLM of these sizes;
    sources: the parts that are given, by their flags."""
    module = published(system)
    if system == LION:
        return replace(module.settings_around(preset, v, l, l.vocab), mode=stage.mode)
    if system == LYRICS:
        dino = config_of(sources["detector"], "detector").d_model if "detector" in sources else 256
        return module.settings_around(preset, v, l, l.vocab, dino + 4)
    if system == LMEYE and preset in module.FORMS:
        flag = "vision" if preset in module.SIZES else "tower"
        text = config_of(sources[flag], "tower", flag).text_config if flag in sources else None
        return module.settings_around(preset, v, l, l.vocab, text)
    s = getattr(around, system)(v, l, l.vocab)
    return replace(s, regions=module.load_regions(sources["regions"]).settings) \
        if "regions" in sources else s


def _model(system: str, s, number: int, vision: VisionEncoder, llm: LanguageModel) -> nn.Module:
    m, world = module_of(system, "model"), WORLDS["medium"]
    if system == LION:
        return m.Lion(s, vision, llm)
    if system == PVIT:
        regions = (CropRegions(s.regions, vision) if isinstance(s.regions, CropSettings) else
                   TinyRegions(s.regions) if isinstance(s.regions, TinyRegionSettings) else
                   RegionCLIP(s.regions))
        return m.Pvit(s, vision, llm, regions)
    if system == LMEYE:                  # the paper's era reads CLIP's pooled feature from a file
        return m.Lmeye(s, nn.Identity() if s.reads == "pooled" else vision, llm)
    tags = TagHead(s.vision.width, (*world.colours, *world.kinds))
    tiny = m.TinyRefiner(s.refiner, tags) if isinstance(s.refiner, m.RefinerSettings) else None
    return m.Alignment(s, vision, tiny) if number == 1 else m.Lyrics(s, vision, tiny, llm)


def _llm(s: LanguageSettings) -> LanguageModel:
    """SmolLM2 shares its key heads, for which LanguageSettings have no field."""
    if s != SMOLLM2:
        return LanguageModel(s)
    import transformers
    return LanguageModel(s, transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=s.vocab, hidden_size=s.width, intermediate_size=s.ffn, tie_word_embeddings=True,
        num_hidden_layers=s.layers, num_attention_heads=s.heads, num_key_value_heads=3)))


# ---- tokens of a sample --------------------------------------------------------------------------

def tokens(system: str, s, number: int) -> dict[str, int]:
    """Pattern of a module's name -> tokens that pass it; the first match counts. Besides: 'LLM',
    the tokens it reads, 'passes' that share a module's tokens, 'logits'."""
    V = 1 + s.vision.side ** 2
    rules = {"vision": V, "passes": 1, "LLM": 0, "logits": ANSWER * s.language.vocab}
    if system == LION:
        Q, Z = s.qformer.queries * (s.mode != "aggregator"), V * (s.mode != "qformer")
        return rules | {"aggregator|ln_adapter|mlp": V, "region_proj": 1} | _qformer(
            s.qformer, V, PROMPT) | _language(s, Q + Z, Z)
    if system == PVIT:                   # RegionCLIP's convolutions on a 4:3 picture and a crop
        side, crop = getattr(s.regions, "shortest", 0), getattr(s.regions, "roi", 0)
        pixels = {f"regions.layer{i}": side ** 2 * 4 // 3 // 4 ** (i + 1) for i in (1, 2, 3)}
        pixels |= {"regions.stem": side ** 2 // 3, "regions": crop ** 2 // 4}
        seen = 0 if number == 1 and isinstance(s.regions, CropSettings) else V - 1
        return rules | pixels | _language(s, seen, seen) | {
            "prompt_projector|bbox_fc": 1, "mm_projector": V - 1}
    if system == LMEYE:
        Q, i, requests = s.qformer.queries if s.qformer else 0, s.interaction, number == 2
        features = V - 1 if s.reads == "patches" else Q or 1
        patterns = {
            "interaction.request": 1, "interaction.decompose": features, ".*transmit": i.requests,
            r".*look\.(key|value)|.*norm_image": features * i.soft,
            "interaction.encoder.blocks": i.requests, "interaction": 2 + features * i.soft + i.requests}
        return rules | (_qformer(s.qformer, V - 1, 0) if s.qformer else {}) | {
            pattern: requests * count for pattern, count in patterns.items()} | {
                "img_proj": 1} | _language(s, Q, Q, i.returned * requests)
    q, M = s.mqformer, getattr(s.refiner, "queries", DETECTIONS)
    if number == 2:
        return rules | _qformer(q, V - 1, PROMPT, objects=M) | _language(
            s, M * s.object_lines + q.queries, M * s.object_lines)
    return rules | _qformer(q, V - 1, PROMPT + ANSWER, 4, 6, M) | {
        "heads": q.queries, "passes": 5, "logits": ANSWER * q.vocab}


def _qformer(s, N: int, L: int, image_passes: int = 1, text_passes: int = 1, objects: int = 0
             ) -> dict[str, int]:
    """Lyrics' four objectives pass queries and text several times."""
    Q, Qo = s.queries * image_passes, getattr(s, "object_queries", 0) * image_passes
    return {"ln_vision": N, "query_proj|language_projection": s.queries,
            r".*object_cross\.(key|value)": image_passes * objects, ".*object_cross": Qo,
            r".*\.cross\.(key|value)": image_passes * N, r".*\.cross": Q - Qo,
            ".*query_ffn": Q, ".*text_ffn": text_passes * L, "m?qformer": Q + text_passes * L}


def _language(s, before: int, shared: int, slots: int = 0) -> dict[str, int]:
    """The LLM behind `before` visual tokens, of which `shared` ones are read once, apart from the
    others; slots: LMEye's encoder-decoder encodes twice."""
    inside, twice = before + PROMPT, slots > 0
    rules = {"llm.*lm_head": ANSWER, "LLM": inside + ANSWER, "shared": shared * (s.language.family != "t5")}
    if s.language.family != "t5":
        return rules | {"llm|adapters|loras": inside + ANSWER}
    decoder = "|".join(rf"adapters\.{i}\b" for i in range(s.language.layers, 99))
    return rules | {r"llm.*EncDecAttention\.[kv]": inside, f"llm.model.decoder|{decoder}": ANSWER,
                    "llm|adapters": inside + (inside - slots) * twice, "passes": 1 + twice}


def _tokens(rules: dict[str, int], name: str) -> int:
    return next((count for pattern, count in rules.items() if re.match(pattern, name)), 0)


# ---- what they cost ------------------------------------------------------------------------------

def work(model: nn.Module, rules: dict[str, int], size: int, fused: bool, checkpointing: bool
         ) -> tuple[dict[str, float], float, float]:
    """Of a sample: FLOPs forward by part, FLOPs backward, bytes saved. size: bytes of a number;
    fused: the LLM's attention saves no scores."""
    from transformers.modeling_layers import GradientCheckpointingLayer
    passed = {"llm"} | {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    forward, inside, layer, inputs, backward = Counter(), Counter(), "-", 0, 0
    for name, module in model.named_modules():
        part = name.split(".")[0]
        flops, saved = _module(name, module, rules, size, fused and part == "llm")
        forward[part] += flops
        if part not in passed:
            continue
        if isinstance(module, GradientCheckpointingLayer):
            layer = name + "."
            norm = next(m for m in module.modules() if "Norm" in type(m).__name__)
            inputs += _tokens(rules, name) * norm.weight.numel() * size
        group = layer if name.startswith(layer) else part * (part in ("adapters", "loras"))
        inside[group] += saved
        frozen = isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.requires_grad
        backward += flops * (2 - frozen + checkpointing * bool(group))
    outside = inside.pop("", 0) + 4 * rules["logits"]
    beside = inside.pop("adapters", 0) + inside.pop("loras", 0)
    if checkpointing and inside:
        return dict(forward), backward, outside + inputs + (max(inside.values()) + beside / len(inside))
    return dict(forward), backward, outside + beside + sum(inside.values())


def _module(name: str, module: nn.Module, rules: dict[str, int], size: int, fused: bool
            ) -> tuple[float, float]:
    """(FLOPs forward, bytes saved for backward) of a module's own work, without its children."""
    T, leaf = _tokens(rules, name), name.rsplit(".", 1)[-1]
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        saved = len(module.weight) * (0 if leaf in ADDED else 1 + (leaf in GATES))
        if module.weight.requires_grad and (size == 2 or leaf not in BESIDE):
            saved += module.weight[0].numel()
        return 2 * module.weight.numel() * T, T * size * saved
    if "Norm" in type(module).__name__:
        twice = "RMS" in type(module).__name__ and module.weight.requires_grad
        return 0, T * module.weight.numel() * (4 + size * twice)
    names = (("query", "key"), ("q_proj", "k_proj"), ("q", "k"), ("qkv", "qkv"))
    query, key = next(((q, k) for q, k in names if hasattr(module, k)), ("", ""))
    if not key:
        return 0, 0
    T, K = _tokens(rules, f"{name}.{query}"), _tokens(rules, f"{name}.{key}") / rules["passes"]
    width = getattr(module, query).out_features // (3 if key == "qkv" else 1)
    heads = next((getattr(module, n) for n in ("heads", "num_heads", "n_heads")
                  if hasattr(module, n)), 0) or module.config.num_attention_heads
    # Behind a KV cache, the shared tokens attend to each other, the others to all.
    P = rules.get("shared", 0) if name.startswith("llm") else 0
    pairs = P * P + (T - P) * K
    scores = pairs * heads * (4 if size == 4 else 6)        # the softmax is fp32, its copy bf16
    return 4 * pairs * width, T * size * width if fused else scores


# ---- the table -----------------------------------------------------------------------------------

def table(system: str, preset: str, stages: Iterable[int], batch: int, precision: str,
          accumulate: int = 1, checkpointing: bool = False, processes: int | None = None,
          sources: dict[str, str] | None = None) -> str:
    """`plan` as text."""
    costs = plan(system, preset, stages, batch, precision, accumulate, checkpointing, processes,
                 sources)
    among = f", each of {processes} processes that share it" * bool(processes)
    columns = "".join(f"{n:>9}" for n in ("weights", "grads", "AdamW", "activ.", "GiB"))
    lines = [f"{system} {preset}: batch {batch}, {precision}{', checkpointing' * checkpointing}{among}; "
             f"{PROMPT} prompt and {ANSWER} answer tokens a sample",
             f"{'stage':<6}{'all M':>10}{'trained M':>11}{columns}{'tokens':>8}{'TFLOP/sample':>14}"
             f"{'samples/step':>14}"]
    for c in costs:
        values = (c.weights, c.gradients, c.moments, c.activations, c.memory)
        memory = "".join(f"{value:>9.2f}" for value in values)
        lines.append(f"{c.stage:<6}{c.total / 1e6:>10,.1f}{c.trained / 1e6:>11,.2f}{memory}"
                     f"{c.tokens:>8}{c.flops / 1e12:>14.4f}{c.samples:>14}")
    for c in costs:
        trains = (f"{name} {_short(trained, 1e6)}" + f" of {_short(count, 1e6)}" * (trained < count)
                  for name, (count, trained) in c.parts.items() if trained)
        frozen = (f"{n} {_short(count, 1e6)}" for n, (count, trained) in c.parts.items() if not trained)
        forward = (f"{name} {_short(flops, 1e9)}" for name, flops in c.forward.items() if flops)
        lines += [f"stage {c.stage}, M: trains {', '.join(trains)}; frozen {', '.join(frozen)}",
                  f"stage {c.stage}, GFLOP a sample: forward {', '.join(forward)}; "
                  f"backward {_short(c.backward, 1e9)}"]
    return "\n".join(lines)


def _short(count: float, unit: float) -> str:
    return f"{count / unit:,.{1 if count >= unit else 3}f}"
