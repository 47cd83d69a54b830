"""What systems.png shows of a system: its modules, and the shapes of one question's tensors.

Nothing in it is drawn from memory: forward hooks read the shapes while the bundled models answer,
files are those of the modules' classes, and what trains is what the stage scripts declare.

Symbols in the shapes: the first number is the batch, the last one the width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

from lion_min import launch
from lion_min.cli import LION, LMEYE, LYRICS, PVIT, TITLES
from lion_min.explanation import KINDS, Token
from lion_min.system import System
from lion_min.trainable import matches

IDEAS = {LION: "two views, adapters by task", PVIT: "a box becomes a token",
         LMEYE: "the LLM requests details", LYRICS: "objects are found first"}


@dataclass
class Part:
    """A box of the diagram. modules: their names in the model; the first one's input and the last
    one's output are shown."""

    title: str
    modules: tuple[str, ...]
    reads: str
    sees: bool = True                      # a line from the ViT leads to it
    feeds: bool = True                     # one from it leads to the LLM's row
    leads: bool = False                    # an arrow leads to the part below
    file: str = ""
    shapes: str = ""
    trained: bool = False

    def lines(self) -> list[str]:
        return [self.title, self.file, self.reads, self.shapes]


@dataclass
class Column:
    """One system: what it is made of, and how it read and answered the question."""

    name: str
    vision: Part
    parts: list[Part]
    tokens: list[Token]
    llm: list[Part]                        # the LLM, and what is added to it
    answer: str

    def labels(self) -> list[str]:
        """Every line of the column."""
        boxes = [line for part in (self.vision, *self.parts, *self.llm) for line in part.lines()]
        return [TITLES[self.name], IDEAS[self.name], *boxes, counted(self.tokens), self.answer]


def parts_of(name: str, s) -> list[Part]:
    """What a system of these settings makes of the ViT's states, from top to bottom."""
    def listed(depths: tuple[int, ...]) -> str:
        return ", ".join(map(str, depths))

    def aligned(bins: int, depths: tuple[int, ...]) -> str:
        return f"RoIAlign: {bins} x {bins} bins of states {listed(depths)}"

    if name == LION:
        return [Part("vision aggregator, MLP", ("aggregator", "ln_adapter", "mlp"),
                     f"states {listed(s.depths)}"),
                Part("Q-Former, projection", ("qformer", "query_proj"),
                     f"state {s.depths[0]} and the question"),
                Part("region token", ("region_proj",), aligned(s.region_bins, s.region_depths)),
                Part("tagger", ("tagger",), "last state; names tags", leads=True),
                Part("soft prompt", ("soft_prompt",),
                     "one learned vector in the text, before the tags", sees=False)]
    if name == PVIT:
        return [Part("image projection", ("mm_projector",), f"states {listed(s.depths)}"),
                Part("regions, projection", ("regions", "prompt_projector"),
                     aligned(s.regions.bins, s.regions.depths)),
                Part("box projection", ("bbox_fc",), "the box itself, added to the region",
                     sees=False)]
    if name == LMEYE:
        return [Part("Q-Former, no question", ("qformer", "query_proj"),
                     f"states {listed(s.depths)}"),
                Part("request", ("interaction.request",), "the LLM's state after the question",
                     sees=False, feeds=False, leads=True),
                Part("interaction", ("interaction.decompose", "interaction.encoder",
                                     "interaction.transmit"), f"states {listed(s.depths)}, the requests")]
    return [Part("tagger", ("refiner.tagger",), "last state; names tags", feeds=False, leads=True),
            Part("detector", ("refiner.detector", "refiner"),
                 "tags; gives boxes, words and features", leads=True),
            Part("MQ-Former, projection", ("mqformer", "language_projection"),
                 f"states {listed(s.depths)}, objects, the question"),
            Part("segmenter", ("refiner.segmenter",), "masks, only to be shown", feeds=False)]


def trace(system: System, image: Image.Image, prompt: str) -> Column:
    """The column of a system, from its answer to the prompt."""
    modules = dict(system.model.named_modules()) | {"tagger": system.tagger}
    name, s = system.name, system.model.settings
    vision = Part("ViT", ("vision",), "the picture; gives {} states")
    parts, seen = parts_of(name, s), {}

    def keep(path: str, _, given: tuple, out) -> None:
        seen.setdefault(path, (shapes(given), shapes(out)))            # of its first call

    hooks = [modules[path].register_forward_hook(partial(keep, path))
             for part in (vision, *parts) for path in part.modules]
    try:
        reply = system.ask(image, prompt)
        tokens = system.explain(reply).tokens
    finally:
        for hook in hooks:
            hook.remove()
    for part in parts:
        read = [seen[path] for path in part.modules if path in seen]
        part.shapes = f"{read[0][0][0]} -> {read[-1][1][-1]}"
    (pixels, *_), states = seen["vision"]
    vision.reads, vision.shapes = vision.reads.format(len(states)), f"{pixels} -> {states[-1]}"
    inside = llm_parts(system.model, len(tokens))
    prefixes = trained_prefixes(name)
    for part in (vision, *parts, *inside):
        part.file = file_of(part, modules, system.model)
        part.trained = any(matches(path[start:], prefix) for path in part.modules
                           for start in (0, path.find(".") + 1)      # the refiner alone is a stage's
                           for prefix in prefixes)
    return Column(name, vision, parts, tokens, inside, reply.answer)


def llm_parts(model: nn.Module, tokens: int) -> list[Part]:
    """The LLM, and the adapters or LoRA in it."""
    layers, width = model.llm.settings.layers, model.llm.width
    reads = "the row, twice" if hasattr(model, "interaction") else "the row"
    parts = [Part(f"Llama, {layers} layers", ("llm",), reads, shapes=str([1, tokens, width]))]
    for title, path, reads in (
            ("two adapters, router", "adapters", "beside each feed-forward net"),
            ("LoRA", "loras", "on " + ", ".join(getattr(model.settings, "lora_targets", ())))):
        if added := getattr(model, path, None):
            one = next(module for module in added.modules() if hasattr(module, "down")).down
            parts.append(Part(title, (path, f"{path}.0"), reads, shapes=(
                f"{len(added)} x ({one.in_features} -> {one.out_features} -> {one.in_features})")))
    return parts


def shapes(value) -> list[list[int]]:
    """The shapes of all tensors in a module's input or output, in order."""
    if isinstance(value, Tensor):
        return [list(value.shape)]
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = [*value.values()]
    return [shape for v in value for shape in shapes(v)] if isinstance(value, (list, tuple)) else []


def trained_prefixes(name: str) -> set[str]:
    """What any of a system's stages trains."""
    package = Path(launch.module_of(name, "model").__file__).parent
    numbers = sorted(int(path.stem[-1]) for path in package.glob("stage[0-9].py"))
    return {prefix for number in numbers for prefix in launch.stage_of(name, number).trains}


def file_of(part: Part, modules: dict[str, nn.Module], model: nn.Module) -> str:
    """The file of the first module whose class is of this package, else of the model's class."""
    ours = [type(modules[path]) for path in part.modules if path in modules] + [type(model)]
    kind = next(kind for kind in ours if kind.__module__.startswith("lion_min."))
    return kind.__module__.removeprefix("lion_min.").replace(".", "/") + ".py"


def counted(tokens: list[Token]) -> str:
    """'69 image, 1 soft prompt, 32 text'."""
    counts = Counter(token.kind for token in tokens)
    return ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
