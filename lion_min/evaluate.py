"""Score a trained system on scenes it never saw: `python -m lion_min.evaluate`, see --help."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import ROOMS, Parser, guarded, prepare, room, whole
from lion_min.scenes import WORLDS


def parser() -> Parser:
    p = Parser(prog="python -m lion_min.evaluate",
               description="Score a trained system on scenes it never saw.")
    p.add_argument("--system", choices=ROOMS, default="lion")
    p.add_argument("--weights", type=Path, metavar="DIR",
                   help="a run's folder, such as runs/lion/stage3; default: the bundled weights "
                        "of the system's last stage")
    p.add_argument("--count", type=whole(2), default=500, metavar="N", help="scenes; default: 500")
    p.add_argument("--seed", type=whole(0), default=0, metavar="S")
    p.add_argument("--world", choices=WORLDS, help="default: the one the weights were trained in")
    p.add_argument("--data", type=Path, metavar="DIR", help="score on the pictures of a folder")
    p.add_argument("--format", choices=("scenes", "coco"), default="scenes",
                   help="of --data; scenes: what python -m lion_min.scenes writes")
    p.add_argument("--shuffled", action=argparse.BooleanOptionalAction, default=True,
                   help="also score with each picture replaced by another one's: the floor that "
                        "language alone reaches")
    p.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    prepare()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    loading = room(args.system, "loading")
    if args.format == "coco":
        raise BadInput("--format coco: arrives with the photographs release; "
                       "so far there is --format scenes")
    from lion_min import datasets, evaluation, training
    world = WORLDS[args.world or loading.read_config(args.weights)["world"]]
    scenes = args.data and datasets.read_scenes(args.data, world)[:args.count]
    system = loading.load_system(args.weights, training.device_of(args.device))
    result = evaluation.evaluate(system, world, args.count, args.seed, shuffled=args.shuffled,
                                 scenes=scenes)
    own = hasattr(system, "report") and scenes is None
    report = system.report(world, args.count, args.seed) if own else {}
    result |= report | {"system": args.system, "weights": str(args.weights or loading.BUNDLED)}
    print(json.dumps(result) if args.json else readable(result, report))


def readable(result: dict, report: dict[str, dict]) -> str:
    """The scores beside their floors, the system's own report, then what they were taken on."""
    from lion_min.evaluation import columns
    scored = {"right image": result} | (
        {"shuffled": result["shuffled"]} if "shuffled" in result else {})
    return "\n".join([
        columns(scored),
        *(line for part, numbers in report.items() for line in [part] + [
            f"  {name:<24}{number:>10{'' if isinstance(number, int) else '.3f'}}"
            for name, number in numbers.items()]),
        f"{result['count']} scenes of the world {result['world']}, seed {result['seed']}, "
        f"{sum(result['n'].values())} questions, {result['seconds']} s",
        f"weights {result['weights']}"])


if __name__ == "__main__":
    raise SystemExit(main())
