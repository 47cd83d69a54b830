"""Draw the loss and the scores of trained stages as one picture.

    python -m lion_min.studies.curves runs/lion            # writes runs/lion/curves.png

A panel a stage. Left: the loss of every step (pale) and its mean over a twentieth of the steps
(strong). Right: the held-out scores before and after the stage, as the run printed them.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import Parser, command

WIDTH, HEIGHT = 1120, 330                  # pixels of a panel
PLOT = (70, 48, 570, 276)                  # left, top, right, bottom of the loss
BARS = (790, 48, 980, 276)                 # of the scores; names to the left, numbers to the right


@dataclass
class Curve:
    """One stage's log."""

    name: str
    steps: list[int]
    losses: list[float]                    # one a step
    scores: dict[str, tuple[float, float]]  # name -> before, after; empty where there are none


def read_curves(folder: Path) -> list[Curve]:
    """The stages below `folder`, or the one that it is; BadInput where there is none."""
    logs = [path for path in (folder / "log.jsonl", *folder.glob("*/log.jsonl")) if path.is_file()]
    if not logs:
        raise BadInput(f"folder {str(folder)!r}: holds no log.jsonl, nor does a folder in it; give "
                       "that of a system's runs, such as runs/lion")
    number = re.compile(r"\d+")
    logs.sort(key=lambda path: ([*map(int, number.findall(path.parent.name))], path))
    read = [(path.parent.resolve(), *_losses(path)) for path in logs]
    return [Curve(folder.name, steps, losses, _scores(folder, steps[-1] + 1))
            for folder, steps, losses in read]


def _losses(path: Path) -> tuple[list[int], list[float]]:
    """(steps, losses) of a log; half a last line, of a run that was killed, is left out."""
    lines, rows = path.read_text(encoding="utf-8", errors="replace").splitlines(), []
    for i, line in enumerate(lines):
        try:
            record = json.loads(line)
            rows.append((int(record["step"]), float(record["loss"])))
        except (ValueError, KeyError, TypeError) as error:
            if i + 1 < len(lines):
                raise BadInput(f"{path} line {i + 1}: no step and loss ({type(error).__name__}); take "
                               "the line out or train the stage again") from None
    if not rows or not all(math.isfinite(loss) for _, loss in rows):
        raise BadInput(f"{path}: no finite loss of any step yet; train the stage first")
    return [step for step, _ in rows], [loss for _, loss in rows]


def _scores(folder: Path, steps: int) -> dict[str, tuple[float, float]]:
    """The scores that both columns of the run's table have; {} where they are of another run, for
    they are written after the last of its steps."""
    from lion_min import checkpoints
    from lion_min.scores import ROWS
    if not (file := folder / checkpoints.SCORES).is_file():
        return {}
    saved = checkpoints.load_json(file)
    if saved.get("steps") != steps:
        return {}
    before, after = (saved.get(key) if isinstance(saved.get(key), dict) else {}
                     for key in ("before", "after"))
    names = ROWS if "vqa_by_type" in after else [name for name in after if name != "seconds"]
    return {name: (before[name], after[name]) for name in names
            if isinstance(before.get(name), float) and isinstance(after.get(name), float)}


def smoothed(losses: list[float]) -> list[float]:
    """The mean around every step, over a twentieth of all; fewer at both ends."""
    half, sums = len(losses) // 40, [0.0, *accumulate(losses)]
    spans = [(max(0, i - half), min(len(losses), i + half + 1)) for i in range(len(losses))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in spans]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between low and high, at most `most` + 1."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= most)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


# ---- drawing -------------------------------------------------------------------------------------

def draw(curves: list[Curve]):
    """One picture, the panels below each other."""
    from PIL import Image, ImageDraw
    from lion_min.drawing import PAPER
    sheet = Image.new("RGB", (WIDTH, HEIGHT * len(curves)), PAPER)
    for i, curve in enumerate(curves):
        tile = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
        pen = ImageDraw.Draw(tile)
        _draw_loss(pen, curve)
        _draw_scores(pen, curve)
        sheet.paste(tile, (0, i * HEIGHT))
    return sheet


def _write(pen, at: tuple[float, float], text: str, anchor: str = "lm", size: int = 14) -> None:
    from PIL import ImageFont
    from lion_min.drawing import INK
    pen.text(at, text, font=ImageFont.load_default(size), fill=INK, anchor=anchor)


def _draw_loss(pen, curve: Curve) -> None:
    from lion_min.drawing import INK, RULE
    left, top, right, bottom = PLOT
    last, low, high = max(curve.steps[-1], 1), min(0.0, *curve.losses), max(curve.losses)
    high = high if high > low else low + 1

    def at(step: float, loss: float) -> tuple[float, float]:
        return left + step / last * (right - left), bottom - (loss - low) / (high - low) * (bottom - top)

    for loss in ticks(low, high):
        pen.line((left, at(0, loss)[1], right, at(0, loss)[1]), fill=RULE)
        _write(pen, (left - 8, at(0, loss)[1]), f"{loss:g}", "rm")
    for step in (step for step in ticks(0, last) if step == int(step)):
        pen.line((at(step, 0)[0], bottom, at(step, 0)[0], bottom + 5), fill=INK)
        _write(pen, (at(step, 0)[0], bottom + 8), f"{step:.0f}", "mt")
    _write(pen, ((left + right) / 2, bottom + 28), "step", "mt")
    mean = smoothed(curve.losses)
    for name, losses, (colour, thick), x in (("loss of a step", curve.losses, _line(0), 330),
                                             ("smoothed", mean, _line(1), 470)):
        pen.line([*map(at, curve.steps, losses)], fill=colour, width=thick, joint="curve")
        pen.line((x, 24, x + 20, 24), fill=colour, width=max(thick, 2))
        _write(pen, (x + 26, 24), name)
    pen.line((left, top, left, bottom, right, bottom), fill=INK)
    _write(pen, (left, 24), f"{curve.name}: loss {mean[-1]:.3g} at the end", size=18)


def _line(strong: bool) -> tuple[str, int]:
    """(colour, width) of a line or a bar: pale for before and raw, strong for after and smoothed."""
    from lion_min.drawing import COLOURS
    return (COLOURS[4], 3) if strong else ("#b4d5ea", 1)


def _draw_scores(pen, curve: Curve) -> None:
    from lion_min.drawing import INK
    left, top, right, bottom = BARS
    if not curve.scores:
        _write(pen, (620, (top + bottom) / 2), "no scores.json: the stage has not ended")
        return
    row = min(34.0, (bottom - top) / len(curve.scores))
    most = max(1.0, *(value for pair in curve.scores.values() for value in pair))
    for i, (name, pair) in enumerate(curve.scores.items()):
        middle, thick = top + (i + 0.5) * row, row * 0.36
        _write(pen, (left - 8, middle), name.replace("_", " "), "rm")
        for strong, value in enumerate(pair):
            y = middle - thick if not strong else middle
            length = max(0.0, value) / most * (right - left)
            pen.rectangle((left, y, left + length, y + thick - 1), fill=_line(strong)[0])
        _write(pen, (right + 12, middle), f"{pair[0]:.3f} to {pair[1]:.3f}")
    pen.line((left - 1, top, left - 1, top + row * len(curve.scores)), fill=INK)
    for strong, name in enumerate(("before", "after")):
        pen.rectangle((left + 90 * strong, 18, left + 90 * strong + 14, 30), fill=_line(strong)[0])
        _write(pen, (left + 90 * strong + 20, 24), name)
    _write(pen, (left - 8, 24), "held-out scores", "rm", 18)


def run(folder: Path, out: Path | None) -> None:
    """Draw the stages of `folder` and write the picture."""
    from lion_min import drawing
    out = out or folder / "curves.png"
    curves = read_curves(folder)
    drawing.save_image(draw(curves), out)
    print(f"wrote {out}: {', '.join(curve.name for curve in curves)}")


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.studies.curves", description=__doc__.splitlines()[0])
    p.add_argument("folder", type=Path, metavar="FOLDER", help="of a system's runs, or of one stage")
    p.add_argument("--out", type=Path, metavar="OUT.png", help="default: FOLDER/curves.png")
    return command(p, lambda args: run(args.folder, args.out), argv)


if __name__ == "__main__":
    raise SystemExit(main())
