"""The claims of the four papers, and the small conditions in which each is put to the test.

A condition narrows what a model can know by another road, for the bundled world hides nothing from
65 aggregated tokens: few queries, few steps, no lines of objects. Conditions were chosen on seeds
from 100 on (RESULTS.md tells what was tried) and are confirmed on seeds 0 to 4.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

from lion_min.lion import stage1, stage2, stage3
from lion_min.lion.softprompt import noisy_tags
from lion_min.lion.system import LionSystem
from lion_min.lmeye import stage2 as lmeye2
from lion_min.lmeye.model import tiny as tiny_lmeye
from lion_min.lmeye.system import LmeyeSystem
from lion_min.lyrics import model as lyrics_model
from lion_min.lyrics import objectives as lyrics_objectives
from lion_min.lyrics import stage1 as lyrics1
from lion_min.lyrics import stage2 as lyrics2
from lion_min.lyrics.system import SYSTEM as lyrics_system
from lion_min.pvit import stage1 as pvit1
from lion_min.pvit import stage2 as pvit2
from lion_min.pvit.stages import of_representation
from lion_min.pvit.system import PvitSystem
from lion_min.stage import Stage
from lion_min.tokenizer import TinyTokenizer
from lion_min.union.model import PARTS
from lion_min.union.system import TRAINS, UnionStage, UnionSystem
from lion_min.vision import VisionSettings

VISION, VOCAB = VisionSettings(), len(TinyTokenizer())


@dataclass(frozen=True)
class Condition:
    """A system, how it is trained, and what it is asked. `always`: a probe of training and test;
    `probes`: changes of the trained model's input that are scored beside it."""

    system: Callable                       # (parts, stage) -> System
    stages: Callable[[], list[Stage]]
    tasks: tuple[str, ...]
    probes: tuple[str, ...] = ()
    always: str = ""


@dataclass(frozen=True)
class Claim:
    """`better` should score higher than `worse` on `tasks`; both are 'condition' or
    'condition/probe'."""

    name: str
    says: str
    better: str
    worse: str
    tasks: tuple[str, ...]
    measured: str
    paper: str = "-"


# ---- probes: what a model reads is changed --------------------------------------------------------

@contextmanager
def patched(target, **attributes):
    """Attributes of an object that hold inside the block alone."""
    before = {name: getattr(target, name) for name in attributes}
    for name, value in attributes.items():
        setattr(target, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)


def question(change: Callable) -> Callable:
    """LION: the Q-Former reads other ids and another mask, both [S, Lq]; the LLM reads its own."""
    def probe(system):
        tokens = system.model.query_tokens
        return patched(system.model, query_tokens=lambda x, maps=False: tokens(replace(
            x, question_ids=change(x.question_ids), question_mask=change(x.question_mask)), maps))
    return probe


def tag_errors(share: float) -> Callable:
    """LION: this share of the tagger's words is lost, .3 of it of the absent ones is added."""
    def probe(system):
        inputs, words = system.inputs, system.tagger.tags

        def noisy(features, prompts, task, *rest):
            tags = [noisy_tags(t, words, random.Random(f"{share}/{p}"), share)
                    for t, p in zip(features["tags"], prompts)]
            return inputs(features | {"tags": tags}, prompts, task, *rest)
        return patched(system, inputs=noisy)
    return probe


def foreign_route(system):
    """LION: region-level questions take the image-level route, and the other way round."""
    inputs = system.inputs
    return patched(system, inputs=lambda features, prompts, task, *rest: inputs(
        features, prompts, 1 - task, *rest))


def control(name: str) -> Callable:
    """LMEye: the trained model under another control."""
    return lambda system: patched(system.model.settings, control=name)


def zeroed(method: str) -> Callable:
    """A method of the model returns zeros."""
    def probe(system):
        made = getattr(system.model, method)
        return patched(system.model, **{method: lambda *a, **k: torch.zeros_like(made(*a, **k))})
    return probe


def without(name: str) -> Callable:
    """Lyrics' stage 1 without one of its objectives (ITC's scores still choose ITM's negatives)."""
    def probe(system):
        loss = getattr(lyrics_objectives, name)

        def nothing(*inputs):
            made = loss(*inputs)
            return (made[0] * 0, made[1]) if name == "itc" else made * 0
        return patched(lyrics_objectives, **{name: nothing})
    return probe


PROBES = {
    "foreign-question": question(lambda t: t.roll(1, 0)),
    "no-question": question(lambda t: t[:, :1] * 0 + 1),
    "tag-errors-.15": tag_errors(0.15), "tag-errors-.3": tag_errors(0.3),
    "tag-errors-.5": tag_errors(0.5),
    "foreign-route": foreign_route,
    "zeroed-request": control("zeroed"), "foreign-request": control("foreign"),
    "no-static": zeroed("static_tokens"),
    "zeroed-region": zeroed("region_tokens"), "zeroed-queries": zeroed("query_tokens"),
    "without-itc": without("itc"), "without-itm": without("itm"), "without-icg": without("icg"),
    "without-msp": without("msp"),
}


# ---- LION -----------------------------------------------------------------------------------------

ATTRIBUTES = ("colour", "kind")
REC = ("rec", "rec_relational")


def shorter(stage: Stage, steps: int, **changes) -> Stage:
    """The stage in fewer steps, with fields replaced."""
    warmup = min(stage.plan.warmup, steps // 5)
    return replace(stage, plan=replace(stage.plan, steps=steps, warmup=warmup), **{
        "curriculum_steps": min(stage.curriculum_steps, steps // 4)} | changes)


def led(steps: int = 300, **changes) -> Stage:
    """Stage 1 from stage 0's Q-Former, whose four queries follow the question."""
    return shorter(stage1.STAGE, steps, batch=8, rounds=("vqa",), **changes)


def tagged(steps: int = 400, tags: bool = True, hint: bool = True, noise: float = 0.3) -> Stage:
    """Few steps of four queries that read no question, beside tags, a third wrong in training."""
    stage = led(steps, start=from_nothing, tags=tags, tag_noise=noise)
    return replace(stage, rounds=("vqa", "caption"),
                   trains=stage.trains + ("soft_prompt",) * (tags and hint))


def from_nothing(earlier) -> dict:
    """The tensors of earlier stages that such a stage starts from: none."""
    return {}


def both_levels(steps: int = 400, rounds: tuple[str, ...] = ("vqa", "region"),
                without: tuple[str, ...] = (), **changes) -> Stage:
    """Stage 3 from nothing, in batches of 8 scenes."""
    stage = stage3.STAGE
    trains = tuple(t for t in stage.trains if t not in without)
    scale = {k: v for k, v in stage.plan.lr_scale.items() if k in trains}
    return shorter(replace(stage, plan=replace(stage.plan, lr_scale=scale)), steps, rounds=rounds,
                   start=from_nothing, curriculum_steps=100, batch=8, trains=trains, **changes)


QFORMER = ("ln_vision", "qformer", "query_proj")
AGGREGATOR = ("aggregator", "ln_adapter", "mlp", "region_proj")
LEVELS = ("existence", *ATTRIBUTES, "count", "relation", "reg", *REC)


def lion(*stages, tasks: tuple[str, ...] = LEVELS, **rest) -> Condition:
    return Condition(LionSystem, lambda: [s() for s in stages], tasks, **rest)


CONDITIONS = {
    "lion-led": lion(led, tasks=ATTRIBUTES, probes=("foreign-question", "no-question")),
    "lion-led-blind": lion(led, tasks=ATTRIBUTES, always="no-question"),
    "lion-led-from-nothing": lion(lambda: led(start=from_nothing), tasks=ATTRIBUTES),
    "lion-tags": lion(tagged, tasks=("existence", *ATTRIBUTES, "caption"),
                      probes=("tag-errors-.15", "tag-errors-.3", "tag-errors-.5")),
    "lion-tags-fixed-hint": lion(lambda: tagged(hint=False),
                                 tasks=("existence", *ATTRIBUTES, "caption"),
                                 probes=("tag-errors-.15", "tag-errors-.3", "tag-errors-.5")),
    "lion-tags-trusted": lion(lambda: tagged(noise=0.0), tasks=("existence", *ATTRIBUTES, "caption"),
                              probes=("tag-errors-.15", "tag-errors-.3", "tag-errors-.5")),
    "lion-no-tags": lion(lambda: tagged(tags=False),
                         tasks=("existence", *ATTRIBUTES, "caption")),
    "lion-both": lion(both_levels),
    "lion-image-level": lion(lambda: both_levels(200, ("vqa",))),
    "lion-region-level": lion(lambda: both_levels(200, ("region",))),
    "lion-no-aggregator": lion(lambda: both_levels(without=AGGREGATOR, mode="qformer",
                                                   changes={"adapters": 2})),
    "lion-no-qformer": lion(lambda: both_levels(without=QFORMER, mode="aggregator",
                                                changes={"adapters": 2})),
    "lion-no-adapters": lion(lambda: both_levels(without=("adapters",))),
    "lion-one-depth": lion(lambda: both_levels(changes={"depths": (4, 4, 4)})),
    "lion-small-mixture": lion(lambda: both_levels(changes={"bottleneck": 2})),
    "lion-small-shared": lion(lambda: both_levels(changes={"bottleneck": 4, "adapters": 1})),
    "lion-staged": lion(lambda: shorter(stage1.STAGE, 130, batch=8, rounds=("vqa",)),
                        lambda: shorter(stage2.STAGE, 130, batch=8),
                        lambda: shorter(stage3.STAGE, 140, batch=8, rounds=("vqa", "region")),
                        probes=("foreign-route",)),
}


# ---- PVIT -----------------------------------------------------------------------------------------

def pvit_stages(representation: str = "feature", one: int = 50, two: int = 50) -> list[Stage]:
    """Both stages with something else standing for a box; coordinates say nothing unless the
    picture's tokens do, so the rows without a feature train mm_projector in stage 1, too."""
    first, second = (of_representation(s.STAGE, representation) for s in (pvit1, pvit2))
    trains = {"feature": first.trains, "text": ("llm.model.model.embed_tokens", "mm_projector"),
              "location": ("markers", "locations", "mm_projector")}[representation]
    stages = [shorter(first, one, trains=trains)] if one else []
    return stages + [shorter(second, two, rounds=("reg", "instructions"),
                             **{} if one else {"start": from_nothing})]


def pvit(probes: tuple[str, ...] = (), **kind) -> Condition:
    return Condition(PvitSystem, lambda: pvit_stages(**kind), ("reg", *ATTRIBUTES), probes)


CONDITIONS |= {
    "pvit-feature": pvit(("zeroed-region",)), "pvit-text": pvit(representation="text"),
    "pvit-location": pvit(representation="location"), "pvit-one-stage": pvit(one=0, two=100),
    "pvit-short": pvit(one=20, two=30), "pvit-short-one-stage": pvit(one=0, two=50),
}


# ---- LMEye ----------------------------------------------------------------------------------------

def one_token(steps: int = 600, **changes) -> Stage:
    """Stage 2 from nothing with a single visual token: a returned one (the static one is hidden by
    a probe), or the static one alone."""
    s = tiny_lmeye(VISION, VOCAB)
    return shorter(lmeye2.STAGE, steps, rounds=("pointed", "vqa"), blind=(), start=from_nothing,
                   batch=8, needs_earlier=False,
                   trains=("ln_vision", "qformer", *lmeye2.STAGE.trains),
                   changes={"qformer": replace(s.qformer, queries=1), "anchors": 0.0,
                            "interaction": replace(s.interaction, requests=1, returned=1)},
                   **changes)


POINTED = (*ATTRIBUTES, "reg", "rec")
CONDITIONS |= {
    "lmeye-interactive": Condition(LmeyeSystem, lambda: [one_token()], POINTED,
                                   ("zeroed-request", "foreign-request"), "no-static"),
    "lmeye-static": Condition(LmeyeSystem, lambda: [one_token(control="static")], POINTED),
    "lmeye-zeroed": Condition(LmeyeSystem, lambda: [one_token(control="zeroed")], POINTED,
                              always="no-static"),
}


# ---- Lyrics ---------------------------------------------------------------------------------------

def without_objects(tensors: dict) -> dict:
    """Stage 1's MQ-Former as a plain Q-Former: what a model without refiner starts from."""
    s = lyrics_model.tiny(VISION, VOCAB).mqformer
    tokens = tensors["mqformer.query_tokens"]                             # [1, Q, D]
    return {name: t for name, t in tensors.items() if ".object_cross." not in name} | {
        "mqformer.query_tokens": tokens[:, :s.queries - s.object_queries]}


def lyrics(refiner: bool = True, steps: int = 150, **changes) -> Stage:
    stage = lyrics2.STAGE
    start = stage.start if refiner else lambda earlier: without_objects(stage.start(earlier))
    return shorter(stage, steps, refiner=refiner, start=start, batch=8, **changes)


def aligned(always: str = "") -> Condition:
    """Both stages, short; the LLM reads the MQ-Former's tokens alone, no lines of objects."""
    return Condition(lyrics_system, lambda: [
        shorter(lyrics1.STAGE, 200, batch=16),
        lyrics(steps=200, changes={"object_lines": False})],
        ("existence", *ATTRIBUTES, "caption"), always=always)


OBJECTS = ("existence", *ATTRIBUTES, "count", "caption")
CONDITIONS |= {
    "lyrics-refiner": Condition(lyrics_system, lambda: [lyrics()], OBJECTS, ("zeroed-queries",)),
    "lyrics-no-refiner": Condition(lyrics_system, lambda: [lyrics(refiner=False)], OBJECTS),
    "lyrics-aligned": aligned(), **{f"lyrics-{name}": aligned(name) for name in PROBES
                                    if name.startswith("without-")},
}


# ---- the union ------------------------------------------------------------------------------------

def union(parts: tuple[str, ...] = PARTS, steps: int = 300) -> UnionStage:
    """The union from nothing, on both levels in turn."""
    kept = {"aggregator": ("aggregator", "ln_adapter", "mlp"), "queries": ("mqformer", "query_proj"),
            "region": ("region_proj",), "request": ("interaction", "request")}
    lost = {name for part, names in kept.items() if part not in parts for name in names}
    lost |= {"ln_patches"} if not {"queries", "request"} & {*parts} else set()
    plan = replace(stage3.STAGE.plan, steps=steps, warmup=60,
                   lr_scale={"aggregator": 0.1} if "aggregator" in parts else {})
    return UnionStage(number=1, mode="all", parts=parts, plan=plan, curriculum_steps=75, batch=8,
                      rounds=("vqa", "region"), trains=tuple(t for t in TRAINS if t not in lost))


def _stages_without(part: str) -> list[Stage]:
    return [union(tuple(p for p in PARTS if p != part))]


CONDITIONS |= {"union": Condition(UnionSystem, lambda: [union()], LEVELS)} | {
    f"union-no-{part}": Condition(UnionSystem, partial(_stages_without, part), LEVELS)
    for part in PARTS}


# ---- the claims -----------------------------------------------------------------------------------

CLAIMS = [
    Claim("question", "LION's Q-Former is led by the question", "lion-led",
          "lion-led/foreign-question", ATTRIBUTES, "VQA, own against a foreign question"),
    Claim("instructed", "an instructed Q-Former beats one without instruction", "lion-led",
          "lion-led-blind", ATTRIBUTES, "VQA"),
    Claim("pretrained", "a Q-Former that was taught to read comes further", "lion-led",
          "lion-led-from-nothing", ATTRIBUTES, "VQA"),
    Claim("aggregator", "the vision aggregator helps REC", "lion-both", "lion-no-aggregator", REC,
          "REC Acc@.5"),
    Claim("depths", "three depths beat the last one thrice", "lion-both", "lion-one-depth", LEVELS,
          "all tasks"),
    Claim("qformer", "the Q-Former adds to the aggregator", "lion-both", "lion-no-qformer", LEVELS,
          "all tasks"),
    Claim("region-helps-image", "region-level tasks promote image-level ones", "lion-both",
          "lion-image-level", LEVELS[:5], "VQA"),
    Claim("image-helps-region", "image-level tasks promote region-level ones", "lion-both",
          "lion-region-level", LEVELS[5:], "REG and REC"),
    Claim("stages", "stages beat mixing at equal steps", "lion-staged", "lion-both", LEVELS,
          "all tasks"),
    Claim("adapters", "adapters help the frozen LLM", "lion-both", "lion-no-adapters", LEVELS,
          "all tasks"),
    Claim("route", "after the stages each level needs its own route", "lion-staged",
          "lion-staged/foreign-route", LEVELS, "all tasks; the other level's route at test"),
    Claim("mixture", "a mixture of adapters beats one of the same size", "lion-small-mixture",
          "lion-small-shared", LEVELS, "all tasks, bottleneck 2"),
    Claim("tags", "image tags help", "lion-tags", "lion-no-tags",
          ("existence", *ATTRIBUTES, "caption"), "VQA and captions"),
    *(Claim(f"soft-prompt{errors}", f"the soft prompt guards against {name}",
            "lion-tags" + probe, "lion-tags-fixed-hint" + probe,
            ("existence", *ATTRIBUTES, "caption"), "VQA and captions, against a fixed hint")
      for errors, name, probe in (
          ("", "the tagger's own errors", ""), ("-.3", "30 % wrong tags", "/tag-errors-.3"),
          ("-.5", "50 % wrong tags", "/tag-errors-.5"))),
    Claim("erring-tags", "tags learnt with errors guard against 30 % wrong tags",
          "lion-tags/tag-errors-.3", "lion-tags-trusted/tag-errors-.3",
          ("existence", *ATTRIBUTES, "caption"), "VQA and captions, against tags learnt as right"),
    Claim("feature-text", "a region feature beats coordinates as text", "pvit-feature",
          "pvit-text", ("reg",), "REG", "64.5 against 52.6 (COCO)"),
    Claim("feature-location", "a region feature beats location tokens", "pvit-feature",
          "pvit-location", ("reg",), "REG"),
    Claim("feature", "the region token is read", "pvit-feature", "pvit-feature/zeroed-region",
          ("reg",), "REG, against a zero feature"),
    Claim("two-stages", "two stages beat one at equal steps", "pvit-feature", "pvit-one-stage",
          ("reg", *ATTRIBUTES), "REG and VQA"),
    Claim("two-stages-reg", "two stages beat one at equal steps", "pvit-feature", "pvit-one-stage",
          ("reg",), "REG alone, which both rows train"),
    Claim("two-stages-short", "two stages beat one at equal steps", "pvit-short",
          "pvit-short-one-stage", ("reg",), "REG alone, half the steps"),
    Claim("interactive-static", "requests beat as many static tokens", "lmeye-interactive",
          "lmeye-static", POINTED, "VQA, REG, REC"),
    Claim("interactive-zeroed", "requests beat one request for all", "lmeye-interactive",
          "lmeye-zeroed", POINTED, "VQA, REG, REC"),
    Claim("interactive-foreign", "a request serves its own question", "lmeye-interactive",
          "lmeye-interactive/foreign-request", POINTED, "VQA, REG, REC; foreign at test"),
    Claim("refiner", "the visual refiner helps", "lyrics-refiner", "lyrics-no-refiner", OBJECTS,
          "VQA and captions"),
    Claim("hallucination", "the refiner prevents hallucination", "lyrics-refiner",
          "lyrics-no-refiner", ("existence",), "existence (POPE's form)"),
    *(Claim(f"objective-{name}", f"{name.upper()} helps", "lyrics-aligned",
            f"lyrics-without-{name}", ("existence", *ATTRIBUTES, "caption"),
            "VQA and captions without lines") for name in ("itc", "itm", "icg", "msp")),
    Claim("union", "the union beats LION alone", "union", "lion-both", LEVELS, "all tasks"),
    *(Claim(f"union-{part}", f"the union's {name} adds to the rest", "union", f"union-no-{part}",
            LEVELS, "all tasks") for part, name in (
        ("aggregator", "aggregator (LION)"), ("queries", "queries (Lyrics)"),
        ("objects", "object queries (Lyrics)"), ("region", "region token (PVIT)"),
        ("request", "request (LMEye)"))),
]
