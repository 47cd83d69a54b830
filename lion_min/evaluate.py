"""Score a trained system on pictures it never saw: `python -m lion_min.evaluate`, see --help."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import FORMATS, SYSTEMS, Parser, command, note, whole
from lion_min.scenes import WORLDS

BAD_SHOWN = 5  # bad records, one line each; then their number


def parser() -> Parser:
    p = Parser(prog="python -m lion_min.evaluate",
               description="Score a trained system on pictures it never saw.")
    p.add_argument("--system", choices=SYSTEMS, default=SYSTEMS[0])
    p.add_argument("--weights", type=Path, metavar="DIR",
                   help="a run's folder, such as runs/lion/stage3; default: the bundled weights "
                        "of the system's last stage")
    p.add_argument("--vision", metavar="DIR",
                   help="the ViT of a pretrained preset, where it is not what training took")
    p.add_argument("--llm", metavar="DIR", help="its LLM, likewise")
    p.add_argument("--count", type=whole(2), default=500, metavar="N",
                   help="scenes, or questions of an annotation file, at most; default: 500")
    p.add_argument("--seed", type=whole(0), default=0, metavar="S")
    p.add_argument("--world", choices=WORLDS, help="default: the one the weights were trained in")
    p.add_argument("--data", type=Path, metavar="PATH",
                   help="score on the pictures of a folder of scenes, or on an annotation file")
    p.add_argument("--format", choices=("scenes", *FORMATS),
                   help="of --data; scenes (default): a folder that python -m lion_min.scenes "
                        "wrote; the others: a file, see lion_min/datasets/__init__.py")
    p.add_argument("--images", type=Path, metavar="DIR", help="the file's pictures; default: its own folder")
    p.add_argument("--split", metavar="NAME", help="only the file's samples of this split")
    p.add_argument("--held-out", action="store_true",
                   help="of --data, only the photographs that train.py --data holds back, asked "
                        "what training asks")
    p.add_argument("--skip-bad", action="store_true",
                   help="leave bad records of the file out and say so; default: stop at the first")
    p.add_argument("--shuffled", action=argparse.BooleanOptionalAction, default=True,
                   help="also score with each picture replaced by another one's: the floor that "
                        "language alone reaches")
    p.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return p


def main(argv: list[str] | None = None) -> int:
    return command(parser(), run, argv)


def run(args: argparse.Namespace) -> None:
    if args.format and not args.data:
        raise BadInput(f"--format {args.format}: of which data? add --data PATH")
    if args.data and not args.format and args.data.is_file():
        raise BadInput(f"{args.data}: is a file; say which format it has: --format {'|'.join(FORMATS)}")
    from_file = args.format in FORMATS
    if not from_file and (args.images or args.split or args.skip_bad):
        raise BadInput("--images, --split and --skip-bad go with an annotation file: "
                       "--data FILE --format NAME")
    if args.held_out and (not from_file or args.images or args.split or args.skip_bad):
        raise BadInput("--held-out: goes with --data PATH --format NAME alone, as train.py reads them")
    from lion_min import launch, scores
    result, below = (score_file if from_file else score_scenes)(args)
    weights = args.weights or launch.bundled(args.system)
    result |= {"system": args.system, "weights": str(weights)}
    table = scores.columns({"right image": result} | scores.floor(result))
    print(json.dumps(result) if args.json else "\n".join([table, *below, f"weights {weights}"]))


def opened(args: argparse.Namespace):
    """The system that the command line names."""
    from lion_min import launch
    return launch.load(args.system, args.weights, args.device, None, args.vision, args.llm)


# ---- drawn scenes --------------------------------------------------------------------------------

def score_scenes(args: argparse.Namespace) -> tuple[dict, list[str]]:
    """(scores, lines below their table) on made scenes, or on those of a folder."""
    from lion_min import datasets, launch, scores
    world = WORLDS[args.world or launch.read_config(args.system, args.weights)["world"]]
    scenes = args.data and datasets.read_scenes(args.data, world)[:args.count]
    system = opened(args)
    result = scores.evaluate(system, world, args.count, args.seed, shuffled=args.shuffled, scenes=scenes)
    report = system.report(world, args.count, args.seed) if scenes is None else {}
    return result | report, [
        *outline(report),
        f"{result['count']} scenes of the world {result['world']}, seed {result['seed']}, "
        f"{sum(result['n'].values())} questions, {result['seconds']} s"]


def outline(report: dict, indent: str = "") -> list[str]:
    """A line for each number, below the names of the parts it belongs to."""
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            lines += [indent + name, *outline(value, indent + "  ")]
        else:
            number = f"{value}" if isinstance(value, int) else f"{value:.3f}"
            lines.append(f"{indent + name:<26}{number:>10}")
    return lines


# ---- the field's data ----------------------------------------------------------------------------

def score_file(args: argparse.Namespace) -> tuple[dict, list[str]]:
    """(scores, a line below their table) on the samples of an annotation file."""
    from lion_min.datasets import benchmarks
    samples = held_out(args) if args.held_out else read_file(args)
    samples = benchmarks.some(samples, args.count, args.seed)
    result = benchmarks.score_samples(opened(args), samples, shuffled=args.shuffled)
    result |= {"data": str(args.data), "format": args.format, "split": args.split,
               "count": args.count, "seed": args.seed}
    return result, [
        f"{sum(result['n'].values())} questions on {result['pictures']} pictures of {args.data} "
        f"({args.format}), seed {args.seed}, {result['seconds']} s"]


def held_out(args: argparse.Namespace) -> list:
    """What training holds back: questions about photographs it never saw."""
    from lion_min.datasets import photos
    return photos.questions(photos.split(photos.read_photos(args.data, args.format))[1], args.seed)


def read_file(args: argparse.Namespace) -> list:
    """The file's samples of the split; bad records stop it, or are listed on stderr and left out."""
    from lion_min.datasets import read_samples
    if args.data.is_dir():
        raise BadInput(f"{args.data}: is a folder; --data names the annotation file of the format "
                       f"{args.format}, --images the folder of its photographs")
    bad: list[BadInput] = []
    try:
        samples = list(read_samples(args.data, args.format, args.images,
                                    bad.append if args.skip_bad else None))
    finally:                               # also where no good record is left
        for error in bad[:BAD_SHOWN]:
            note(f"left out: {error}")
    if bad:
        note(f"note: {len(bad)} bad records left out; python -m lion_min.datasets check lists all")
    chosen = [s for s in samples if args.split in (None, s.split)]
    if not chosen:
        raise BadInput(f"{args.data}: no sample of the split {args.split!r}; it has "
                       + ", ".join(sorted({repr(s.split) for s in samples})))
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
