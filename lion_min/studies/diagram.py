"""The four systems side by side in one diagram, with the shapes of one question's tensors.

Nothing in it is drawn from memory: forward hooks read the shapes while the bundled models answer,
files are those of the modules' classes, and what trains is what the stage scripts declare.

Symbols in the shapes: the first number is the batch, the last one the width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, is_dataclass
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor, nn

from lion_min import launch
from lion_min.cli import LION, LMEYE, LYRICS, PVIT, TITLES
from lion_min.drawing import COLOURS, INK, PAPER, font_of, frames, legend_height, write_legend
from lion_min.explanation import KINDS, Token
from lion_min.panel import GAP, SIZE, scaled
from lion_min.trainable import matches

WIDTH, SMALL = 384, 22                     # pixels of a column; of the letters of details
MARGIN = 34                                # between a column's edge and its boxes, for the lines
FILLS = {True: "#ffe9b8", False: "#e6ebf1"}      # trained, frozen
KIND_FILLS = dict(zip(KINDS, ("#a9d6f2", "#f3c96b", "#e3b3cf", "#8fd6bd", "#eeeeee")))   # as the page
IDEAS = {LION: "two views, adapters by task", PVIT: "a box becomes a token",
         LMEYE: "the LLM requests details", LYRICS: "objects are found first"}


@dataclass
class Part:
    """A box of the diagram. modules: their names in the model; the first one's input and the last
    one's output are shown."""

    title: str
    modules: tuple[str, ...]
    reads: str
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
        """Every word of the column."""
        boxes = [line for part in (self.vision, *self.parts, *self.llm) for line in part.lines()]
        return [TITLES[self.name], IDEAS[self.name], *boxes, counted(self.tokens), self.answer]


def parts_of(name: str, s) -> list[Part]:
    """What a system of these settings makes of the ViT's states."""
    depths = ", ".join(map(str, getattr(s, "depths", ())))
    if name == LION:
        bins, pooled = s.region_bins, " and ".join(map(str, s.region_depths))
        return [Part("vision aggregator, MLP", ("aggregator", "ln_adapter", "mlp"), f"states {depths}"),
                Part("Q-Former, projection", ("qformer", "query_proj"),
                     f"state {s.depths[0]} and the question"),
                Part("region token", ("region_proj",),
                     f"RoIAlign, {bins} x {bins} bins of states {pooled}"),
                Part("tagger", ("tagger",), "the last state; names the tags"),
                Part("soft prompt", ("soft_prompt",), "one learned vector, before the tags")]
    if name == PVIT:
        bins, pooled = s.regions.bins, " and ".join(map(str, s.regions.depths))
        return [Part("image projection", ("mm_projector",), f"states {depths}"),
                Part("region encoder, projection", ("regions", "prompt_projector"),
                     f"RoIAlign, {bins} x {bins} bins of states {pooled}"),
                Part("box projection", ("bbox_fc",), "the box itself, added to the region")]
    if name == LMEYE:
        return [Part("Q-Former without question", ("qformer", "query_proj"), f"states {depths}"),
                Part("request", ("interaction.request",), "the LLM's state at <img-q>, its first pass"),
                Part("interaction", ("interaction.decompose", "interaction.encoder",
                                     "interaction.transmit"), "the requests look at the patches")]
    return [Part("tagger", ("refiner.tagger",), "the last state; names the tags"),
            Part("detector", ("refiner.detector", "refiner"), "the tags; gives boxes and features"),
            Part("segmenter", ("refiner.segmenter",), "masks, to be shown alone"),
            Part("MQ-Former, projection", ("mqformer", "language_projection"),
                 f"states {depths}, objects, the question")]


def trace(system, image: Image.Image, prompt: str) -> Column:
    """The column of a system (system.System), from its answer to the prompt."""
    modules = dict(system.model.named_modules()) | {"tagger": system.tagger}
    name, s = system.name, system.model.settings
    vision = Part("ViT", ("vision",), "the picture")
    parts, seen = parts_of(name, s), {}
    hooks = [modules[path].register_forward_hook(
        lambda _, given, out, path=path: seen.setdefault(path, (shapes(given), shapes(out))))
        for part in (vision, *parts) for path in part.modules]
    try:
        reply = system.ask(image, prompt)
        tokens = system.explain(reply).tokens
    finally:
        for hook in hooks:
            hook.remove()
    for part in (vision, *parts):
        read = [seen[path] for path in part.modules if path in seen]
        first, last = read[0][0], read[-1][1]
        part.shapes = f"{first[0]} -> {last[-1]}"
    vision.shapes = f"{first_of(seen['vision'])} -> {len(seen['vision'][1])} x {seen['vision'][1][-1]}"
    llm = system.model.llm
    row = [1, len(tokens), llm.width]
    inside = [Part(f"Llama, {llm.settings.layers} layers", ("llm",), "the row of tokens", shapes=str(row))]
    if name == LION:
        one = system.model.adapters[0].adapters[0].down
        inside.append(Part("mixture of adapters, router", ("adapters", "adapters.0"), "beside each feed-forward net",
                           shapes=f"{len(system.model.adapters)} x 2, {one.in_features} -> "
                                  f"{one.out_features} -> {one.in_features}"))
    if name == LYRICS:
        one = system.model.loras[0].down
        inside.append(Part("LoRA", ("loras", "loras.0"), "on " + ", ".join(s.lora_targets),
                           shapes=f"{len(system.model.loras)} x {one.in_features} -> "
                                  f"{one.out_features} -> {one.in_features}"))
    prefixes = trained_prefixes(name)
    for part in (vision, *parts, *inside):
        part.file = file_of(part, modules, system.model)
        part.trained = any(matches(path[i:], prefix) for path in part.modules for prefix in prefixes
                           for i in (0, path.find(".") + 1))
    return Column(name, vision, parts, tokens, inside, reply.answer)


def first_of(seen: tuple[list, list]) -> list[int]:
    return seen[0][0]


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


# ---- drawing -------------------------------------------------------------------------------------

def draw(image: Image.Image, box, prompt: str, columns: list[Column]) -> Image.Image:
    """The diagram; box: the one that the prompt asks about."""
    width, top = GAP + len(columns) * (WIDTH + GAP), 330
    middle = top + 100 + height(columns[0].vision) + 40
    below = middle + max(sum(height(p) + 24 for p in c.parts) for c in columns) + 20
    rows = max(-(-len(c.tokens) // 16) for c in columns)
    inside = below + 70 + 22 * rows + 30
    end = inside + max(sum(height(p) + 10 for p in c.llm) for c in columns) + 50
    sheet = Image.new("RGB", (width, end + 90), PAPER)
    pen = ImageDraw.Draw(sheet)
    sheet.paste(scaled(frames(scaled(image, 2 * WIDTH), [box], COLOURS), 296), (GAP, GAP))
    write_legend(pen, GAP + 330, GAP, width - 400, [
        (None, f"One question to all four: {prompt}"),
        (FILLS[True], "trained by a stage of the system"), (FILLS[False], "frozen"),
        (None, "[1, 64, 128]: shapes, batch first; file names: below lion_min/"),
        *((KIND_FILLS[kind], f"token that the LLM reads: {kind}") for kind in KINDS)], SIZE)
    for i, column in enumerate(columns):
        draw_column(pen, GAP + i * (WIDTH + GAP), (top, middle, below, inside, end), column)
    return sheet


def draw_column(pen: ImageDraw.ImageDraw, left: int, tops: tuple, column: Column) -> None:
    top, middle, below, inside, end = tops
    first, last = left + MARGIN // 2 - 5, left + WIDTH - MARGIN // 2 + 5
    pen.text((left, top), TITLES[column.name], font=font_of(34), fill=INK)
    pen.text((left, top + 44), IDEAS[column.name], font=font_of(SIZE), fill=INK)
    under = draw_part(pen, left, top + 90, column.vision)
    y, entries, exits = middle, [], []
    for part in column.parts:
        bottom = draw_part(pen, left, y, part)
        entries.append((y + bottom) // 2)
        exits.append((y + bottom) // 2)
        y = bottom + 24
    pen.line((left + WIDTH // 2, under, left + WIDTH // 2, under + 16, first, under + 16, first, entries[-1]),
             fill=INK, width=3)
    pen.line((last, exits[0], last, below - 18, left + WIDTH // 2, below - 18), fill=INK, width=3)
    for y in entries:
        arrow(pen, (first, y), (left + MARGIN, y))
        pen.line((left + WIDTH - MARGIN, y, last, y), fill=INK, width=3)
    arrow(pen, (left + WIDTH // 2, below - 18), (left + WIDTH // 2, below + 6))
    for k, token in enumerate(column.tokens):
        x, y = left + MARGIN + k % 16 * 20, below + 10 + k // 16 * 22
        pen.rectangle((x, y, x + 16, y + 18), fill=KIND_FILLS[token.kind], outline=INK)
    y = below + 10 + 22 * -(-len(column.tokens) // 16)
    write_legend(pen, left + MARGIN, y + 4, WIDTH - 2 * MARGIN, [(None, counted(column.tokens))], SMALL)
    y += 4 + legend_height([(None, counted(column.tokens))], SMALL, WIDTH - 2 * MARGIN)
    arrow(pen, (left + WIDTH // 2, y), (left + WIDTH // 2, inside))
    y = inside
    for part in column.llm:
        y = draw_part(pen, left, y, part) + 10
    arrow(pen, (left + WIDTH // 2, y - 10), (left + WIDTH // 2, end))
    write_legend(pen, left, end + 8, WIDTH, [(None, column.answer)], SIZE)


def entries_of(part: Part) -> list[tuple[None, str]]:
    return [(None, line) for line in part.lines()[1:]]


def height(part: Part) -> int:
    return 46 + legend_height(entries_of(part), SMALL, WIDTH - 2 * MARGIN - 16) + 6


def draw_part(pen: ImageDraw.ImageDraw, left: int, top: int, part: Part) -> int:
    """Draw a box with its words; returns its lower edge."""
    bottom = top + height(part)
    pen.rounded_rectangle((left + MARGIN, top, left + WIDTH - MARGIN, bottom), 10, width=3,
                          fill=FILLS[part.trained], outline=COLOURS[0] if part.trained else "#8a94a0")
    pen.text((left + MARGIN + 10, top + 8), part.title, font=font_of(SIZE), fill=INK)
    write_legend(pen, left + MARGIN + 10, top + 42, WIDTH - 2 * MARGIN - 16, entries_of(part), SMALL)
    return bottom


def arrow(pen: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int]) -> None:
    """A line to the right or down, with a head."""
    (x, y), down = end, start[0] == end[0]
    pen.line((*start, x - 8 * (not down), y - 8 * down), fill=INK, width=3)
    pen.polygon([(x, y), (x - 7, y - 12), (x + 7, y - 12)] if down else
                [(x, y), (x - 12, y - 7), (x - 12, y + 7)], fill=INK)


def token_row(tokens: list[Token], width: int) -> Image.Image:
    """The LLM's row as words on the colours of their kinds; a run that is only numbered is one."""
    runs: list[list] = []
    for token in tokens:
        base, _, number = token.text.rpartition(" ")
        if runs and number.isdigit() and runs[-1][0] == base and runs[-1][1] == token.kind:
            runs[-1][2] += 1
        else:
            runs.append([base if number.isdigit() and base else token.text, token.kind, 1])
    font, x, y, chips = font_of(SIZE), GAP, 8, []
    for text, kind, many in runs:
        text = f"{text} x {many}" if many > 1 else text
        wide = round(font.getlength(text)) + 20
        if x + wide > width - GAP:
            x, y = GAP, y + 48
        chips.append((x, y, x + wide, text, kind))
        x += wide + 8
    row = Image.new("RGB", (width, y + 104), PAPER)
    pen = ImageDraw.Draw(row)
    for x, top, right, text, kind in chips:
        pen.rounded_rectangle((x, top, right, top + 38), 8, fill=KIND_FILLS[kind], outline="#8a94a0")
        pen.text((x + 10, top + 19), text, font=font, fill=INK, anchor="lm")
    x = GAP
    for kind in (kind for kind in KINDS if any(token.kind == kind for token in tokens)):
        write_legend(pen, x, y + 56, width, [(KIND_FILLS[kind], kind)], SIZE)
        x += round(font.getlength(kind)) + 70
    return row
