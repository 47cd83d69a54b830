"""Rows of a comparison: same data, same steps, one thing changed, over several seeds.

A room states in a `Comparison` what its rows are and how their stages differ. Every row starts
from the same earlier stages, is trained and scored on held-out scenes, and is thrown away: what
remains is its line, mean and spread, and a line of --log, which is never taken twice.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

from lion_min import BadInput
from lion_min.cli import Parser, command, whole
from lion_min.scenes import WORLDS

Scores = dict[str, float]
KEY = ("row", "seed", "steps", "count")    # what makes a line of the log the same one
POOL = 4096                                # training scenes: enough for so few steps
Key = tuple[str, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What one room compares.

    stages(row) gives the stages that it trains in turn, an equal part of the steps each; heavy
    imports belong inside it.
    """

    command: str                           # the module, as after `python -m`
    doc: str
    rows: tuple[str, ...]
    stages: Callable[[str], list]
    starts: tuple[str, ...]                # folders of --out with what every row starts from
    steps: int                             # default of --steps
    scores: tuple[str, ...]                # of scores.py, in the order of the columns
    pairs: tuple[tuple[str, str, str], ...]   # (a, b, score): a - b, seed by seed
    label: str = ""                        # printed before a row's name

    @property
    def system(self) -> str:
        """The system compared: the last word of the command."""
        return self.command.rsplit(".", 1)[-1]


def main(c: Comparison, argv: list[str] | None = None) -> int:
    p = Parser(prog=f"python -m {c.command}", description=c.doc.splitlines()[0])
    p.add_argument("--rows", choices=c.rows, nargs="+", default=c.rows, metavar="NAME",
                   help=f"some of {', '.join(c.rows)}; default: all")
    p.add_argument("--seeds", type=whole(0), nargs="+", default=[0, 1, 2])
    p.add_argument("--steps", type=whole(1), default=c.steps, help=f"default: {c.steps}")
    p.add_argument("--count", type=whole(2), default=200, help="held-out scenes a row")
    p.add_argument("--out", type=Path, default=Path("runs"),
                   help=f"whose {', '.join(c.starts)} to start from, else the bundled ones")
    p.add_argument("--log", type=Path, metavar="FILE",
                   help="one JSON line a row and seed; what stands in it is not run again: "
                        "keep one log for each --out")
    return command(p, lambda args: run(c, args), argv)


def run(c: Comparison, args: Namespace) -> None:
    """Every row with every seed; in the end, or when it is interrupted, the table of all done."""
    logged = read_log(args.log, c.scores) if args.log else {}
    rows, seeds = [r for r in c.rows if r in args.rows], list(dict.fromkeys(args.seeds))
    done: dict[tuple[str, int], Scores] = {}
    try:
        for row, seed in product(rows, seeds):
            key = (row, seed, args.steps, args.count)
            done[row, seed] = scored = logged.get(key) or score(c, *key, args.out)
            if args.log and key not in logged:
                append(args.log, key, scored)
            print(f"{c.label}{row} seed {seed}: "
                  + ", ".join(f"{s} {scored[s]:.3f}" for s in c.scores)
                  + (f" (from {args.log})" if key in logged else ""), flush=True)
    finally:
        if done:
            print(f"\n{len(seeds)} seeds, {args.steps} steps, {args.count} scenes each: "
                  "mean +- standard deviation")
            print(table(c, done, seeds))


def score(c: Comparison, row: str, seed: int, steps: int, count: int, out: Path) -> dict:
    """The scores of one run, which is thrown away."""
    from lion_min import scores
    from lion_min.launch import Options, train_stage
    stages = c.stages(row)
    if steps < len(stages):
        raise BadInput(f"--steps {steps}: {c.label}{row} has {len(stages)} stages; give each one "
                       "step or more")
    with TemporaryDirectory() as folder:
        for part in c.starts:
            here = Path(folder) / part
            here.parent.mkdir(exist_ok=True)
            if (out / part).exists():
                here.symlink_to((out / part).resolve())
        for stage in stages:
            o = Options(Path(folder), seed=seed, steps=steps // len(stages))
            last = train_stage(c.system, stage.number, o, stage, checks=2, pool=POOL)
    return scores.evaluate(last["system"], WORLDS["medium"], count, 2**21 + seed,
                               shuffled=False)


# ---- the table ----------------------------------------------------------------------------------

def table(c: Comparison, done: dict[tuple[str, int], Scores], seeds: list[int]) -> str:
    """Mean and spread of every row, then of the differences of the pairs that were run."""
    width, lines = max(10, *(len(c.label + row) + 1 for row in c.rows)), []
    for row in c.rows:
        if found := [done[row, s] for s in seeds if (row, s) in done]:
            lines.append(f"{c.label + row:<{width}}" + "".join(
                f"  {name} {spread([scored[name] for scored in found])}" for name in c.scores)
                + part_of(found, seeds))
    for a, b, name in c.pairs:
        if apart := [done[a, s][name] - done[b, s][name] for s in seeds
                     if (a, s) in done and (b, s) in done]:
            lines.append(f"{a} - {b}, {name}: {spread(apart)}{part_of(apart, seeds)}")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.3f} +- {stdev(values) if values[1:] else 0:.3f}"


def part_of(found: list, seeds: list[int]) -> str:
    """What an interrupted row says of itself."""
    return f"  ({len(found)} of {len(seeds)} seeds)" if len(found) < len(seeds) else ""


# ---- the log ------------------------------------------------------------------------------------

def append(log: Path, key: Key, scored: dict) -> None:
    """One line with every score, those of no column, too: it was dear."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(dict(zip(KEY, key)) | {"scores": scored}) + "\n")


def read_log(log: Path, scores: tuple[str, ...]) -> dict[Key, Scores]:
    """What was taken before; BadInput where the file holds anything else."""
    taken = {}
    with open(log, "a+", encoding="utf-8", errors="replace") as file:   # unwritable? say it now,
        file.seek(0)                                                    # not after the first row
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                key = tuple(record[k] for k in KEY)
                taken[key] = {s: float(record["scores"][s]) for s in scores}
            except (ValueError, KeyError, TypeError):
                raise BadInput(f"--log {log}, line {number}: is no scored row ({', '.join(KEY)}, "
                               "scores); remove the line or name another file") from None
    return taken
