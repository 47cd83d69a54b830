"""Train a system, stage by stage: `python train.py --stage N`, see --help."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import FORMATS, ROOMS, Parser, guarded, prepare, room, whole
from lion_min.pretrained.presets import PRESETS
from lion_min.scenes import WORLDS

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
A stage whose earlier stages are not in --out starts from the bundled ones and says so.""")
    p.add_argument("--stage", choices=STAGES["lion"], required=True,
                   help="all: one after another; joint: everything trained together, nothing "
                        "frozen (the bound). " + "; ".join(
                            f"{name}: {' '.join(has)}" for name, has in STAGES.items()))
    p.add_argument("--part", choices=("vision", "llama", "t5"),
                   help="lion's stage 0: one part alone; default: all three in turn")
    p.add_argument("--labels", choices=("dense", "coarse"),
                   help="lion's stage 0, vision: labels of every cell (default), or captions "
                        "and tags")
    p.add_argument("--system", choices=ROOMS, default="lion")
    p.add_argument("--world", choices=WORLDS, default="medium", help="default: medium")
    p.add_argument("--preset", choices=PRESETS, default="tiny",
                   help="tiny is bundled; the others train around pretrained backbones")
    p.add_argument("--vision", metavar="DIR", help="the preset's ViT: a folder instead of its name")
    p.add_argument("--llm", metavar="DIR", help="the preset's LLM: a folder instead of its name")
    p.add_argument("--data", type=Path, metavar="PATH",
                   help="stages after 0: scenes of a folder, as python -m lion_min.scenes writes "
                        "them; a COCO folder; or an annotation file with its --format")
    p.add_argument("--format", choices=FORMATS, help="of an annotation file")
    p.add_argument("--steps", type=whole(1), metavar="K", help="default: the stage's own")
    p.add_argument("--batch-size", type=whole(1, 1024), metavar="B", help="scenes a step")
    p.add_argument("--accumulate", type=whole(1), metavar="K",
                   help="batches a step, one after another; default: 1")
    p.add_argument("--checkpointing", action="store_true",
                   help="recompute the LLM's layers in backward: less memory, more time")
    p.add_argument("--plan", action="store_true",
                   help="train nothing; print what it would take: parameters, memory, FLOPs")
    p.add_argument("--lr", type=float, metavar="X", help="highest learning rate")
    p.add_argument("--seed", type=whole(0), default=0, metavar="N")
    p.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    p.add_argument("--init", type=Path, metavar="DIR",
                   help="go on from a finished run of the same stage, with new steps, instead of "
                        "from the stage before it")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--precision", choices=("fp32", "bf16"), help="default: the stage's own")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    prepare()
    return guarded(lambda: train(args))


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
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and args.preset == "tiny" and (
            args.stage == "all" or (args.stage == "0" and args.system == "lion" and not args.part)):
        raise BadInput(f"--stage {args.stage}: starts processes of its own, so not under torchrun; "
                       "name one stage, and a --part of stage 0")
    if args.init and (args.stage == "all" or args.system == "lyrics" or (
            args.stage == "0" and not args.part)):
        raise BadInput(f"--init: goes on from one stage, not from {args.system}'s {args.stage}; "
                       "leave it out, or name one --part of lion's stage 0")
    if args.format and not args.data:
        raise BadInput(f"--format {args.format}: of which data? add --data FILE")
    if args.preset == "tiny":
        if args.vision or args.llm:
            raise BadInput("--vision, --llm: the tiny preset has its own; choose another --preset")
        if args.data and args.stage == "0":
            raise BadInput("--data: stage 0 learns from scenes it makes; give it to the later "
                           "stages")
    elif args.system not in PRESETS[args.preset].systems:
        raise BadInput(f"--preset {args.preset}: belongs to "
                       f"{', '.join(PRESETS[args.preset].systems)}, not to {args.system}")
    elif args.system not in ("lion", "pvit") and not args.plan:
        raise BadInput(f"--preset {args.preset}: train.py trains LION and PVIT around pretrained "
                       f"backbones; for {args.system} add --plan, or import its published weights")
    elif args.part or args.labels or args.stage == "joint":
        raise BadInput(f"--preset {args.preset}: its backbones are pretrained; leave --part, "
                       "--labels and --stage joint to the tiny preset")


def train(args: argparse.Namespace) -> None:
    """Run what the command line says. Only rooms with a stage 0 of their own have a pipeline."""
    check_stage(args)
    from lion_min import parallel
    parallel.start()                               # under torchrun the first process speaks for all
    from lion_min.parts import Source
    from lion_min.options import Options, one_after_another, train_stage
    o = Options(args.out, args.world, args.seed, args.resume, args.device, args.labels,
                args.steps, args.lr, args.precision, args.batch_size, args.data, args.format,
                Source(args.preset, args.vision, args.llm), args.accumulate, args.checkpointing,
                args.init)
    if args.plan:
        print(costs(args))
    elif args.preset != "tiny":
        train_photos(args, o)
    elif args.stage == "all" and "0" in STAGES[args.system]:
        room(args.system, "pipeline").train_all(o, Path(__file__).resolve())
    elif args.stage == "all":
        one_after_another(args.system, (1, 2), o, {})
    elif args.stage == "0" and args.system == "lion":
        pipeline = room("lion", "pipeline")
        pipeline.train_part(args.part, o) if args.part else pipeline.train_parts(o)
    else:
        train_stage(args.system, args.stage if args.stage == "joint" else int(args.stage), o)


def train_photos(args: argparse.Namespace, o) -> None:
    """Stages around pretrained backbones; LION's stage 0 is its tag head."""
    from lion_min.options import one_after_another, train_stage
    numbers = numbers_of(args)
    if 0 in numbers:
        room("lion", "tagging").train(o)
    if args.stage == "all":
        one_after_another(args.system, tuple(filter(None, numbers)), o, {})
    elif numbers != (0,):
        train_stage(args.system, *numbers, o)


def numbers_of(args: argparse.Namespace) -> tuple[int, ...]:
    """The stages that --stage names."""
    if args.stage != "all":
        return (int(args.stage),)
    return tuple(int(n) for n in STAGES[args.system] if n.isdigit())


def costs(args: argparse.Namespace) -> str:
    """The table of --plan."""
    from lion_min.pretrained import plan
    numbers = [n for n in numbers_of(args) if n or args.stage == "0"]
    return plan.table(args.system, args.preset, numbers, args.batch_size or 16,
                      args.precision or "bf16", args.accumulate or 1, args.checkpointing)


if __name__ == "__main__":
    raise SystemExit(main())
