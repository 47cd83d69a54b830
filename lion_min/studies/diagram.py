"""systems.png: the four systems side by side, a column each (trace.py)."""

from __future__ import annotations

from PIL import Image, ImageDraw

from lion_min.boxes import Box
from lion_min.cli import TITLES
from lion_min.drawing import COLOURS, INK, PAPER, font_of, frames, legend_height, write_legend
from lion_min.explanation import KINDS
from lion_min.panel import GAP, SIZE, scaled
from lion_min.studies.trace import IDEAS, Column, Part, counted

WIDTH, SMALL, ROW = 384, 23, 16            # pixels of a column, of details' letters; tokens a row
MARGIN, APART = 34, 26                     # from a column's edge to its boxes; between boxes
FILLS, RIMS = {True: "#fbdccb", False: "#e6ebf1"}, {True: COLOURS[5], False: "#8a94a0"}   # trained?
ASKED = "#009e73"                          # the line of what the LLM asks for
KIND_FILLS = dict(zip(KINDS, ("#a9d6f2", "#f3c96b", "#e3b3cf", "#8fd6bd", "#eeeeee")))   # the page's


def draw(image: Image.Image, box: Box, prompt: str, columns: list[Column]) -> Image.Image:
    """The diagram; box: the one that the prompt asks about."""
    rows = max(-(-len(column.tokens) // ROW) for column in columns)
    top = 240
    middle = top + 90 + height(columns[0].vision) + 44
    below = middle + max(stack(column.parts) for column in columns) + 30
    inside = below + 10 + 22 * rows + 110
    end = inside + max(stack(column.llm) for column in columns) + 40
    sheet = Image.new("RGB", (GAP + len(columns) * (WIDTH + GAP), end + 60), PAPER)
    pen = ImageDraw.Draw(sheet)
    sheet.paste(scaled(frames(scaled(image, 2 * WIDTH), [box], COLOURS), 208), (GAP, 8))
    write_legend(pen, 250, 6, WIDTH * 2, [
        (None, f"the question: {prompt}"), (FILLS[True], "trained in a stage of the system"),
        (FILLS[False], "frozen"), (ASKED, "line: what the LLM asks for"), (None, "[1, 64, 128]: a shape; it begins with the batch"),
        (None, "files lie below lion_min/")], SIZE)
    write_legend(pen, 250 + 2 * WIDTH, 6, 2 * WIDTH, [
        (None, "what the LLM reads, a square a token:"),
        *((KIND_FILLS[kind], kind) for kind in KINDS)], SIZE)
    for i, column in enumerate(columns):
        draw_column(pen, GAP + i * (WIDTH + GAP), (top, middle, below, inside, end), column)
    return sheet


def draw_column(pen: ImageDraw.ImageDraw, left: int, tops: tuple[int, ...], column: Column) -> None:
    """tops: of the title, the parts, the tokens, the LLM and the answer."""
    (top, middle, below, inside, end), centre = tops, left + WIDTH // 2
    first, last = left + MARGIN - 18, left + WIDTH - MARGIN + 18          # the lines at both sides
    pen.text((left, top), TITLES[column.name], font=font_of(34), fill=INK)
    pen.text((left, top + 44), IDEAS[column.name], font=font_of(SIZE), fill=INK)
    under, y, places = draw_part(pen, left, top + 90, column.vision), middle, []
    for part in column.parts:
        lower = draw_part(pen, left, y, part)
        places.append((y + lower) // 2)
        if part.leads:
            arrow(pen, (centre, lower), (centre, lower + APART))
        y = lower + APART
    seen = [at for part, at in zip(column.parts, places) if part.sees]
    fed = [at for part, at in zip(column.parts, places) if part.feeds]
    bend = under + 20
    pen.line((centre, under, centre, bend, first, bend, first, seen[-1]), fill=INK, width=3)
    for at in seen:
        arrow(pen, (first, at), (left + MARGIN, at))
    for at in fed:
        pen.line((left + WIDTH - MARGIN, at, last, at), fill=INK, width=3)
    pen.line((last, fed[0], last, below - 22, centre, below - 22), fill=INK, width=3)
    arrow(pen, (centre, below - 22), (centre, below + 4))
    for k, token in enumerate(column.tokens):
        x, y = left + MARGIN + k % ROW * 20, below + 8 + k // ROW * 22
        pen.rectangle((x, y, x + 16, y + 18), fill=KIND_FILLS[token.kind], outline=INK)
    y, count = below + 12 + 22 * -(-len(column.tokens) // ROW), [(None, counted(column.tokens))]
    write_legend(pen, left + MARGIN, y, WIDTH - 2 * MARGIN, count, SMALL)
    arrow(pen, (centre, y + legend_height(count, SMALL, WIDTH - 2 * MARGIN)), (centre, inside))
    for part, at in zip(column.parts, places):                            # asked by the LLM
        if not part.sees and part.leads:
            back, y = left + 4, inside + height(column.llm[0]) // 2
            pen.line((left + MARGIN, y, back, y, back, at), fill=ASKED, width=4)
            arrow(pen, (back, at), (left + MARGIN, at), ASKED)
    y = inside
    for part in column.llm:
        y = draw_part(pen, left, y, part) + APART
    arrow(pen, (centre, y - APART), (centre, end))
    write_legend(pen, left, end + 8, WIDTH, [(None, f"answer: {column.answer}")], SIZE)


def details(part: Part) -> list[tuple[None, str]]:
    return [(None, line) for line in part.lines()[1:]]


def height(part: Part) -> int:
    return 44 + legend_height(details(part), SMALL, WIDTH - 2 * MARGIN - 16) + 4


def stack(parts: list[Part]) -> int:
    return sum(height(part) + APART for part in parts)


def draw_part(pen: ImageDraw.ImageDraw, left: int, top: int, part: Part) -> int:
    """Draw a box with its words; returns its lower edge."""
    bottom = top + height(part)
    pen.rounded_rectangle((left + MARGIN, top, left + WIDTH - MARGIN, bottom), 10, width=3,
                          fill=FILLS[part.trained], outline=RIMS[part.trained])
    pen.text((left + MARGIN + 10, top + 8), part.title, font=font_of(SIZE + 2), fill=INK)
    write_legend(pen, left + MARGIN + 10, top + 42, WIDTH - 2 * MARGIN - 16, details(part), SMALL)
    return bottom


def arrow(pen: ImageDraw.ImageDraw, start: tuple[int, int], end: tuple[int, int],
          colour: str = INK) -> None:
    """A line to the right or down, with a head."""
    (x, y), down = end, start[0] == end[0]
    pen.line((*start, x - 8 * (not down), y - 8 * down), fill=colour, width=3)
    pen.polygon([(x, y), (x - 7, y - 12), (x + 7, y - 12)] if down else
                [(x, y), (x - 12, y - 7), (x - 12, y + 7)], fill=colour)
