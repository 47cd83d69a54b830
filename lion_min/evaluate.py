"""Score a trained system on pictures it never saw: `python -m lion_min.evaluate`, see --help."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import (FORMATS, SYSTEMS, Parser, command, data_flags, part_flags, sources,
                          whole)
from lion_min.scenes import WORLDS


def parser() -> Parser:
    p = Parser(prog="python -m lion_min.evaluate",
               description="Score a trained system on pictures it never saw.")
    p.add_argument("--system", choices=SYSTEMS, default=SYSTEMS[0])
    p.add_argument("--weights", type=Path, metavar="DIR",
                   help="a run's folder, such as runs/lion/stage3; default: the bundled weights "
                        "of the system's last stage")
    part_flags(p.add_argument_group(
        "parts", "of a pretrained preset, where they are not what training took, or of an import"))
    p.add_argument("--count", type=whole(2), default=500, metavar="N",
                   help="scenes, or questions of an annotation file, at most; default: 500")
    p.add_argument("--seed", type=whole(0), default=0, metavar="S")
    p.add_argument("--world", choices=WORLDS, help="default: the one the weights were trained in")
    p.add_argument("--data", type=Path, metavar="PATH",
                   help="score on the scenes of a folder, as python -m lion_min.scenes writes "
                        "them; on the folder of a data set, its val part first; or on an "
                        "annotation file, see lion_min/datasets/__init__.py")
    data_flags(p, ("scenes", *FORMATS))
    p.add_argument("--split", metavar="NAME", help="only the file's samples of this split")
    p.add_argument("--held-out", action="store_true",
                   help="of --data, only the photographs that train.py --data holds back, asked "
                        "what training asks")
    p.add_argument("--skip-bad", action="store_true",
                   help="leave any number of bad records and pictures out: --max-bad 1")
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
    from lion_min import launch, scores
    from lion_min.datasets import photos
    form = None if args.format == "scenes" else args.format
    photographs = args.data and args.format != "scenes" and photos.is_photos(args.data, form)
    if not photographs and (args.images or args.split or args.skip_bad or args.held_out):
        raise BadInput("--images, --split, --skip-bad and --held-out go with the annotation file of "
                       "photographs: --data PATH")
    if args.tags and not args.data:
        raise BadInput(f"--tags {args.tags}: of which pictures? add --data PATH")
    if args.held_out and args.split:
        raise BadInput("--held-out: goes without --split, as train.py reads --data")
    result, below = (score_photographs if photographs else score_scenes)(args)
    weights = args.weights or launch.bundled(args.system)
    result |= {"system": args.system, "weights": str(weights)}
    table = scores.columns({"right image": result} | scores.floor(result))
    print(json.dumps(result) if args.json else "\n".join([table, *below, f"weights {weights}"]))


def opened(args: argparse.Namespace, tags=None):
    """The system that the command line names, with the TagFile of --tags."""
    from lion_min import launch
    system = launch.load(args.system, args.weights, args.device, **sources(args))
    if tags:
        tags.give(system)
    return system


def tagged(args: argparse.Namespace, pictures: list, max_bad: float, path: str = "path") -> tuple:
    """(those of the pictures that --tags knows, its TagFile); (all, None) without it."""
    if not args.tags:
        return pictures, None
    from lion_min.datasets.tags import TagFile
    tags = TagFile(args.tags, max_bad)
    return tags.known(pictures, max_bad, path), tags


# ---- drawn scenes --------------------------------------------------------------------------------

def score_scenes(args: argparse.Namespace) -> tuple[dict, list[str]]:
    """(scores, lines below their table) on made scenes, or on those of a folder."""
    from lion_min import datasets, launch, scores
    imported = "medium" if launch.is_imported(args.weights) else None
    world = WORLDS[args.world or imported or launch.read_config(args.system, args.weights)["world"]]
    scenes = args.data and datasets.read_scenes(args.data, world)[:args.count]
    scenes, tags = tagged(args, scenes, args.max_bad)
    system = opened(args, tags)
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

def score_photographs(args: argparse.Namespace) -> tuple[dict, list[str]]:
    """(scores, a line below their table) on the samples of an annotation file."""
    from lion_min.datasets import benchmarks, load, photos
    max_bad = 1.0 if args.skip_bad else args.max_bad
    annotations = load(args.data, args.format, args.images, max_bad,
                       "train" if args.held_out else "val")
    if args.held_out:              # what training holds back, asked what training asks
        samples = photos.questions(photos.split(photos.photos_of(annotations))[1], args.seed)
    else:
        samples = of_split(annotations, args.split)
    samples, tags = tagged(args, benchmarks.some(samples, args.count, args.seed), max_bad, "image")
    result = benchmarks.score_samples(opened(args, tags), samples, shuffled=args.shuffled,
                                      max_bad=max_bad)
    result |= {"data": str(annotations.file), "format": annotations.form, "split": args.split,
               "count": args.count, "seed": args.seed, "left_out": annotations.left_out.count}
    return result, [
        f"{sum(result['n'].values())} questions on {result['pictures']} pictures of "
        f"{annotations.file} ({annotations.form}), seed {args.seed}, {result['seconds']} s"]


def of_split(annotations, split: str | None) -> list:
    """The samples of the split; all where it is None."""
    chosen = [s for s in annotations.samples if split in (None, s.split)]
    if not chosen:
        raise BadInput(f"{annotations.file}: no sample of the split {split!r}; it has "
                       + ", ".join(sorted({repr(s.split) for s in annotations.samples})))
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
