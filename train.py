"""Train a system, stage by stage: `python train.py --stage N`, see --help."""

from __future__ import annotations

import argparse
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import (SYSTEMS, Parser, command, part_flags, several, sources, training_flags,
                          whole)
from lion_min.pretrained.presets import PRESETS

STAGES = {"lion": ("0", "1", "2", "3", "4", "all", "joint"), "pvit": ("1", "2", "all"),
          "lyrics": ("0", "1", "2", "all"), "lmeye": ("1", "2", "all")}


def parser() -> Parser:
    p = Parser(prog="train.py", description="Train one stage of a system, or all in turn.",
               formatter_class=argparse.RawDescriptionHelpFormatter, epilog="""examples:
  python train.py --stage 2                  from the bundled weights, to runs/lion/stage2
  python train.py --stage all                every weight from nothing, stage 0 in two processes
  python train.py --stage 3 --resume         go on where a run was stopped
  python train.py --system pvit --stage all  PVIT's stages, from lion's stage 0
  python train.py --stage 3 --preset lion-flant5-xl --plan    what it would cost
  torchrun --nproc-per-node 2 train.py --system pvit --stage 1 --preset clip-smollm2 --data COCO
  torchrun --nproc-per-node 4 train.py --system pvit --stage 2 --preset pvit-7b --data COCO --shard
A stage whose earlier stages are not in --out starts from the bundled ones and says so.""")
    p.add_argument("--stage", choices=STAGES["lion"], required=True,
                   help="all: one after another; joint: everything trained together, nothing "
                        "frozen (the bound). " + "; ".join(
                            f"{name}: {' '.join(has)}" for name, has in STAGES.items()))
    p.add_argument("--part", choices=("vision", "llama", "t5", "qformer"),
                   help="lion's stage 0: one part alone; default: all four in turn")
    p.add_argument("--labels", choices=("dense", "coarse"),
                   help="lion's stage 0, vision: labels of every cell (default), or captions "
                        "and tags")
    p.add_argument("--system", choices=SYSTEMS, default="lion")
    p.add_argument("--preset", choices=PRESETS, default="tiny",
                   help="tiny is bundled; the others train around pretrained backbones")
    part_flags(p)
    p.add_argument("--plan", action="store_true",
                   help="train nothing; print what it would take: parameters, memory, FLOPs")
    p.add_argument("--processes", type=whole(1, 4096), metavar="N",
                   help="with --plan --shard: how many processes share the model")
    training_flags(p)
    return p


def main(argv: list[str] | None = None) -> int:
    return command(parser(), train, argv)


def check_stage(args: argparse.Namespace) -> None:
    """BadInput for a stage that a system does not have, or an option that means nothing to it."""
    if args.stage not in STAGES[args.system]:
        hint = "; stage 0 is shared: --system lion --stage 0" if args.stage == "0" else ""
        raise BadInput(f"--stage {args.stage}: {args.system} has the stages "
                       f"{', '.join(STAGES[args.system])}{hint}")
    if args.part and (args.system, args.stage) != ("lion", "0"):
        raise BadInput(f"--part {args.part}: only stage 0 of lion has parts; leave it out")
    if args.labels and (args.system != "lion" or args.stage not in ("0", "all")
                        or args.part in ("llama", "t5")):
        raise BadInput(f"--labels {args.labels}: only the vision part of lion's stage 0 learns "
                       "from labels; leave it out")
    if several() and args.preset == "tiny" and (
            args.stage == "all" or (args.stage == "0" and args.system == "lion" and not args.part)):
        raise BadInput(f"--stage {args.stage}: starts processes of its own, so not under torchrun; "
                       "name one stage, and a --part of stage 0")
    if args.init and (args.stage == "all" or (
            args.stage == "0" and args.system == "lion" and not args.part)):
        raise BadInput(f"--init: goes on from one stage, not from {args.system}'s {args.stage}; "
                       "leave it out, or name one --part of lion's stage 0")
    if (args.processes is not None) != (args.plan and args.shard):
        raise BadInput("--plan --shard: add --processes N, how many share the model" if args.shard
                       else "--processes: goes with --plan --shard; leave it out")
    if (args.format or args.images) and not args.data:
        raise BadInput(f"--format {args.format}: of which data? add --data PATH" if args.format else
                       f"--images {args.images}: of which data? add --data PATH")
    tagged = {"lion": ("4", "all"), "lyrics": ("1", "2", "all") if args.preset != "tiny" else ()}
    if args.tags and (args.stage not in tagged.get(args.system, ()) or not args.data):
        raise BadInput(f"--tags {args.tags}: is for LION's stage 4, for Lyrics around a pretrained "
                       "preset (or all their stages), and the pictures of --data")
    if args.preset == "tiny":
        if given := sources(args):
            raise BadInput(f"--{', --'.join(given)}: the tiny preset has its own; choose another "
                           "--preset")
        if args.data and args.stage == "0":
            raise BadInput("--data: stage 0 learns from scenes it makes; give it to the later "
                           "stages")
    elif args.system not in PRESETS[args.preset].systems:
        raise BadInput(f"--preset {args.preset}: belongs to "
                       f"{', '.join(PRESETS[args.preset].systems)}, not to {args.system}")
    elif args.tower and not PRESETS[args.preset].tower:
        raise BadInput(f"--tower: the preset {args.preset} reads no second CLIP; leave it out")
    elif args.part or args.labels or args.stage == "joint":
        raise BadInput(f"--preset {args.preset}: its backbones are pretrained; leave --part, "
                       "--labels and --stage joint to the tiny preset")


def train(args: argparse.Namespace) -> None:
    """Run what the command line says."""
    check_stage(args)
    from lion_min import launch, parallel
    parallel.start()                               # under torchrun the first process speaks for all
    o = launch.Options(
        out=args.out, world=args.world, seed=args.seed, resume=args.resume, device=args.device,
        labels=args.labels, steps=args.steps, lr=args.lr, precision=args.precision,
        batch=args.batch_size, data=args.data, form=args.format, images=args.images,
        max_bad=args.max_bad, tags=args.tags, preset=args.preset,
        sources=sources(args), accumulate=args.accumulate,
        checkpointing=args.checkpointing, shard=args.shard, init=args.init)
    numbers = numbers_of(args)
    if args.preset != "tiny":                      # before a data set is read, or a stage trained
        launch.check_parts(args.system, o.sources if args.plan else
                           PRESETS[args.preset].sources(o.sources), args.preset)
    if args.plan:
        print(costs(args))
    elif 0 in numbers and (args.system == "lion" or args.preset != "tiny"):
        stage_0(args, o, numbers)
    elif args.stage == "all":
        launch.in_turn(args.system, numbers, o)
    else:
        launch.train_stage(args.system, *numbers, o)


def stage_0(args: argparse.Namespace, o, numbers: tuple) -> None:
    """The frozen parts, which all systems share: tiny ones, or a tag head for photographs (the
    rest of Lyrics' refiner comes pretrained)."""
    from lion_min import launch
    from lion_min.parts import STAGE0
    from lion_min.tiny import pipeline
    if args.preset != "tiny":
        from lion_min.pretrained import tagging
        if args.stage != "all":
            tagging.train(o)
            return
        tagging.train(launch.lenient(o, o.out / STAGE0 / "tags"))
        launch.in_turn(args.system, numbers[1:], o)
    elif args.stage == "all":
        pipeline.train_all(o, Path(__file__).resolve())
    elif args.part:
        pipeline.train_part(args.part, o)
    else:
        pipeline.train_parts(o)


def numbers_of(args: argparse.Namespace) -> tuple[int | str, ...]:
    """The stages that --stage names."""
    if args.stage != "all":
        return (int(args.stage) if args.stage.isdigit() else args.stage,)
    return tuple(int(n) for n in STAGES[args.system] if n.isdigit())


def costs(args: argparse.Namespace) -> str:
    """The table of --plan."""
    from lion_min.pretrained import plan
    numbers = [n for n in numbers_of(args) if n or args.stage == "0"]
    return plan.table(args.system, args.preset, numbers, args.batch_size or 16,
                      args.precision or "bf16", args.accumulate or 1, args.checkpointing,
                      args.processes, sources(args))


if __name__ == "__main__":
    raise SystemExit(main())
