"""The tables of scores in README.md and RESULTS.md, made from logged evaluations.

    python -m lion_min.studies.tables              # write the tables from the log
    python -m lion_min.studies.tables --measure    # first score the bundled weights anew

An evaluation is one JSON line of scores.jsonl: what `lion_min.evaluate --json` prints, with its
command, commit and machine. A table stands between two marks of its document; a test holds it to
the log.
"""

from __future__ import annotations

import json
import platform
import subprocess
from itertools import product
from pathlib import Path
from statistics import mean

from lion_min import BadInput, checkpoints
from lion_min.cli import LION, LYRICS, PVIT, SYSTEMS, TITLES, Parser, command, progress

HERE = Path(__file__).parent
LOG = HERE / "scores.jsonl"
RESULTS, README = HERE / "RESULTS.md", HERE.parents[1] / "README.md"
COUNT, SEEDS = 200, (7, 8, 9)
COLUMNS = {"existence": "existence", "colour": "colour", "kind": "kind", "count": "count",
           "relation_acc": "relation", "caption_object_f1": "captions", "reg_exact": "REG",
           "reg_exact_heldout_pairs": "REG, unseen pairs", "rec_acc50": "REC",
           "rec_acc50_relational": "REC, relation needed", "wordings": "wordings",
           "absent": "absent"}
AIM = {"existence": 0.98, "colour": 0.98, "kind": 0.98, "count": 0.95, "relation_acc": 0.97,
       "caption_object_f1": 0.95, "reg_exact": 0.95, "reg_exact_heldout_pairs": 0.88,
       "rec_acc50": 0.90, "rec_acc50_relational": 0.90, "wordings": 0.90, "absent": 0.95}
Log = dict[tuple[str, str, int], dict]         # (system, stage, seed) -> an evaluation


# ---- the log -------------------------------------------------------------------------------------

def measure(path: Path = LOG) -> None:
    """Score the bundled weights: each system on every seed, with its floor on the first; and LION's
    earlier stages."""
    from lion_min import evaluate, launch
    last = [launch.bundled(system) for system in SYSTEMS]
    todo = [(folder, seed, seed == SEEDS[0]) for folder in last for seed in SEEDS]
    todo += [(last[0].with_name(f"stage{n}"), SEEDS[0], False) for n in (1, 2, 3)]
    lines = []
    for folder, seed, floor in progress(todo, "evaluations"):
        words = ["--system", folder.parent.name, "--count", COUNT, "--seed", seed,
                 "--weights", folder.relative_to(HERE.parents[1])] + ["--no-shuffled"] * (not floor)
        args = evaluate.parser().parse_args([*map(str, words)])
        args.weights = folder                          # wherever the command was started
        lines.append({"system": folder.parent.name, "stage": folder.name,
                      "scores": evaluate.score_scenes(args)[0]} | stamp("evaluate", *words))
    checkpoints.write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def stamp(module: str, *words) -> dict[str, str]:
    """What made a line of a log: command, commit, machine."""
    import torch
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, text=True,
                         capture_output=True)
    return {"command": " ".join(["python -m lion_min." + module, *map(str, words)]),
            "commit": git.stdout.strip() or "unknown",
            "machine": f"{platform.machine()}, torch {torch.__version__}"}


def read_lines(path: Path, what: str, check) -> list[dict]:
    """The JSON lines of a log, each of which `check` has looked at; BadInput where one is none."""
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            lines.append(json.loads(line))
            check(lines[-1])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(f"--log {path}, line {number}: is no {what}; remove the line or name "
                           "another file") from None
    return lines


def read_log(path: Path = LOG) -> Log:
    def key(e: dict) -> tuple[str, str, int]:
        return e["system"], e["stage"], e["scores"]["seed"]

    found = read_lines(path, "evaluation", lambda e: (key(e), e["scores"]["vqa_by_type"]["count"]))
    return {key(e): e for e in found}


# ---- tables --------------------------------------------------------------------------------------

def row(name: str, scores: dict | None) -> list[str]:
    """A name and its scores in the order of COLUMNS, '-' for one that was not taken."""
    flat = {} if scores is None else scores | scores.get("vqa_by_type", {})
    return [name] + [digits(flat[key]) if key in flat else "-" for key in COLUMNS]


def digits(value: float) -> str:
    """.950, or 1.0."""
    return "1.0" if value == 1 else f"{value:.3f}".lstrip("0")


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def tables(log: Log) -> dict[str, str]:
    """Every table by the name of its marks; BadInput where an evaluation is missing."""
    last = {system: max((stage for name, stage, _ in log if name == system), default="")
            for system in SYSTEMS}
    for system, seed in product(SYSTEMS, SEEDS):
        if (system, last[system], seed) not in log:
            raise BadInput(f"--log: holds no evaluation of {system} with the seed {seed}; take all "
                           "with --measure")
    scored = {key: e["scores"] for key, e in log.items()}
    systems = {s: [scored[s, last[s], seed] for seed in SEEDS] for s in TITLES}
    seeds, heads = [], [*COLUMNS.values()]
    for system, results in systems.items():
        seeds += [row(f"{TITLES[system]}, {seed}", r) for seed, r in zip(SEEDS, results)]
        flat = [r | r["vqa_by_type"] for r in results]
        seeds.append(row(f"{TITLES[system]}, mean", {k: mean(r[k] for r in flat) for k in COLUMNS}))
    lion = [row(stage.replace("stage", "stage "), scored[LION, stage, SEEDS[0]])
            for name, stage, seed in sorted(log) if name == LION and seed == SEEDS[0]]
    floors = [row(TITLES[s], results[0]["shuffled"]) for s, results in systems.items()]
    fine = systems[PVIT][0]["fine_eval"]
    lyrics = systems[LYRICS][0]
    return {
        "scores": markdown(["system", *heads], [row(TITLES[s], r[0]) for s, r in systems.items()]),
        "seeds": markdown(["system, `--seed`", *heads], [*seeds, row("aim", AIM)]),
        "lion stages": markdown(["LION", *heads], lion),
        "floors": markdown(["another picture", *heads], floors),
        "fine eval": markdown([*fine], [[f"{digits(v['accuracy'])} of {v['n']}"
                                         for v in fine.values()]]),
    } | {name: markdown([*lyrics[name]], [[digits(v) if isinstance(v, float) else str(v)
                                           for v in lyrics[name].values()]])
         for name in ("refiner", "retrieval")}


def between(path: Path, name: str, text: str | None = None) -> str | None:
    """What stands between the marks of `name` in a document, or None; `text` replaces it."""
    marks = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    whole = path.read_text(encoding="utf-8")
    if marks[0] not in whole:
        return None
    before, rest = whole.split(marks[0])
    shown, after = rest.split(marks[1])
    if text is not None:
        checkpoints.write_atomic(path, (before + marks[0] + text + marks[1] + after).encode())
    return shown


def run(args) -> None:
    if args.measure:
        measure(args.log)
    for name, text in tables(read_log(args.log)).items():
        for path in (README, RESULTS):
            if between(path, name, text) is not None:
                print(f"wrote {name} in {path.name}")


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.studies.tables", description=__doc__.splitlines()[0])
    p.add_argument("--measure", action="store_true",
                   help=f"first score the bundled weights on {COUNT} scenes of the seeds "
                        f"{', '.join(map(str, SEEDS))}, and write the log anew")
    p.add_argument("--log", type=Path, default=LOG, help="JSON lines of all evaluations")
    return command(p, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
