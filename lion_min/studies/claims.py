"""Do the papers' ideas make a difference here? Each claim is a pair of runs that differ in one thing.

    python -m lion_min.studies.claims --list               # the claims and their verdicts so far
    python -m lion_min.studies.claims --seeds 0 1 2 3 4    # run what is missing, then the table
    python -m lion_min.studies.claims --quick --seeds 77   # one more seed of each claim that holds

A condition (conditions.py) is a system trained by some stages, from the bundled frozen parts. Every
run appends one JSON line to --log: its scores scene by scene, command, commit and machine; a run
that stands in the log is not taken again. A claim compares two conditions, or two probes of one (a
probe changes what the trained model reads when it is tested). Its interval is a paired bootstrap
over seeds and scenes (trials.py); it holds where the whole interval lies above zero. The table in
RESULTS.md is made from the log.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import Parser, command, progress, whole
from lion_min.studies.tables import RESULTS, between, read_lines, stamp

LOG = Path(__file__).with_name("claims.jsonl")
SECONDS = 90                               # of a run that nobody has timed yet
Run = tuple[str, int]                      # (condition, seed)


def run(args) -> None:
    """Take the runs that are missing and write the table."""
    from lion_min.studies.conditions import CLAIMS
    log, names = read_log(args.log), [claim.name for claim in CLAIMS]
    if unknown := set(args.only or names) - set(names):
        raise BadInput(f"--only {' '.join(unknown)}: there is {', '.join(names)}")
    claims = [claim for claim in CLAIMS if claim.name in (args.only or names)]
    if args.list:
        return print("\n".join(f"{c.name:<22}{c.says}: {verdict(c, log)}" for c in claims))
    if args.quick:
        claims, taken = [claim for claim in claims if verdict(claim, log) == "holds"], {}
    else:
        taken = log
    todo = missing(claims, args.seeds, taken)
    seconds = {name: record["cpu_seconds"] for (name, _), record in log.items()}
    guess = sum(seconds.get(name, SECONDS) for name, _ in todo) / args.jobs / 60
    print(f"{len(todo)} runs, about {guess:.0f} minutes on {args.jobs} processes", flush=True)
    for record in take_all(todo, args.jobs):
        taken[record["condition"], record["seed"]] = record
        if not args.quick:
            with open(args.log, "a", encoding="utf-8") as file:
                made = stamp("studies.claims", "--seeds", *args.seeds)
                file.write(json.dumps(record | made) + "\n")
    print(table(claims, taken))
    if args.log == LOG and not args.quick:
        between(RESULTS, "claims", table(CLAIMS, taken))


def take_all(todo: list[Run], jobs: int):
    """The records of runs as they end, `jobs` of them side by side on one thread each."""
    import torch
    from lion_min.studies.trials import take
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from progress(pool.map(take, *zip(*todo)) if todo else (), "runs", len(todo))


def missing(claims: list, seeds: list[int], log: dict[Run, dict]) -> list[Run]:
    """The runs that some claims still need, each once, seed by seed."""
    names = dict.fromkeys(side.partition("/")[0] for c in claims for side in (c.better, c.worse))
    return [(name, seed) for seed, name in product(seeds, names) if (name, seed) not in log]


# ---- the log and the table ------------------------------------------------------------------------

def read_log(path: Path) -> dict[Run, dict]:
    """The runs of a log; BadInput where a line is none."""
    def check(run: dict) -> None:
        [len(v) for tasks in run["values"].values() for v in tasks.values()]
        run["condition"], run["seed"]

    return {(r["condition"], r["seed"]): r for r in read_lines(path, "run of a condition", check)}


def verdict(claim, log: dict[Run, dict]) -> str:
    from lion_min.studies.trials import compare
    found = compare(claim, log)
    return found["verdict"] if found else "not run"


def table(claims: list, log: dict[Run, dict]) -> str:
    """Every claim with its two means, difference, interval and verdict, as Markdown."""
    from lion_min.studies.trials import compare
    lines = ["| claim | measured | with | without | difference | 95 % interval | seeds | verdict | "
             "the paper |", "|" + "---|" * 9]
    for claim in claims:
        if found := compare(claim, log):
            lines.append(
                f"| {claim.says} | {claim.measured} | {found['better']:.3f} | {found['worse']:.3f} "
                f"| {found['difference']:+.3f} | {found['low']:+.3f} to {found['high']:+.3f} "
                f"| {found['seeds']} | {found['verdict']} | {claim.paper} |")
    return "\n".join(lines)


def parser() -> Parser:
    p = Parser(prog="python -m lion_min.studies.claims", description=__doc__.splitlines()[0])
    p.add_argument("--only", nargs="+", metavar="CLAIM", help="some of those that --list names")
    p.add_argument("--seeds", type=whole(0), nargs="+", default=[0, 1, 2, 3, 4])
    p.add_argument("--jobs", type=whole(1), default=2, help="processes side by side; default: 2")
    p.add_argument("--log", type=Path, default=LOG, help="JSON lines of all runs")
    p.add_argument("--quick", action="store_true",
                   help="repeat the claims that hold on other seeds; nothing is written")
    p.add_argument("--list", action="store_true", help="list the claims and their verdicts")
    return p


def main(argv: list[str] | None = None) -> int:
    return command(parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
