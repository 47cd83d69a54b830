"""Train a system, stage by stage: `python train.py --stage N`, see --help."""

from __future__ import annotations

import argparse
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import ROOMS, Parser, guarded, prepare, room, whole
from lion_min.scenes import WORLDS

STAGES = {"lion": ("0", "1", "2", "3", "4", "all", "joint"), "pvit": ("1", "2", "all"),
          "lyrics": ("0", "1", "2", "all"), "lmeye": ("1", "2", "all")}


def parser() -> Parser:
    p = Parser(prog="train.py", description="Train one stage, or everything from nothing.",
               formatter_class=argparse.RawDescriptionHelpFormatter, epilog="""examples:
  python train.py --stage 2              from the bundled weights, to runs/lion/stage2
  python train.py --stage all            every weight from nothing, stage 0 in two processes
  python train.py --stage 3 --resume     go on where a run was stopped
A stage whose earlier stages are not in --out starts from the bundled ones and says so.""")
    p.add_argument("--stage", choices=STAGES["lion"], required=True,
                   help="joint: everything trained together, nothing frozen (the bound)")
    p.add_argument("--part", choices=("vision", "llama", "t5"),
                   help="stage 0: one part alone; default: all three, one after another")
    p.add_argument("--labels", choices=("dense", "coarse"),
                   help="stage 0's vision: labels of every cell (default), or captions and tags")
    p.add_argument("--system", choices=ROOMS, default="lion")
    p.add_argument("--world", choices=WORLDS, default="medium", help="default: medium")
    p.add_argument("--preset", choices=("tiny",), default="tiny")
    p.add_argument("--data", type=Path, metavar="DIR",
                   help="stages 1-4: scenes of a folder, as python -m lion_min.scenes writes them")
    p.add_argument("--steps", type=whole(1), metavar="K", help="default: the stage's own")
    p.add_argument("--batch-size", type=whole(1, 1024), metavar="B", help="scenes a step")
    p.add_argument("--lr", type=float, metavar="X", help="highest learning rate")
    p.add_argument("--seed", type=whole(0), default=0, metavar="N")
    p.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--precision", choices=("fp32", "bf16"), help="default: the stage's own")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    prepare()
    return guarded(lambda: train(args))


def check_stage(args: argparse.Namespace) -> None:
    """BadInput for a stage that a system does not have."""
    if args.stage not in STAGES[args.system]:
        hint = "; stage 0 is shared: --system lion --stage 0" if args.stage == "0" else ""
        raise BadInput(f"--stage {args.stage}: {args.system} has the stages "
                       f"{', '.join(STAGES[args.system])}{hint}")


def train(args: argparse.Namespace) -> None:
    """Hand the command line to the system's pipeline."""
    if args.part and args.stage != "0":
        raise BadInput(f"--part {args.part}: only stage 0 has parts, not stage {args.stage}")
    if args.labels and (args.stage not in ("0", "all") or args.part in ("llama", "t5")):
        raise BadInput(f"--labels {args.labels}: only stage 0's vision part learns from labels")
    if args.data and args.stage == "0":
        raise BadInput("--data: stage 0 learns from scenes it makes; give it to stages 1 to 4")
    check_stage(args)
    pipeline = room(args.system, "pipeline")
    from lion_min.options import Options
    o = Options(args.out, args.world, args.seed, args.resume, args.device, args.labels,
                         args.steps, args.lr, args.precision, args.batch_size, args.data)
    if args.stage == "all":
        pipeline.train_all(o, Path(__file__).resolve())
    elif args.stage == "0":
        pipeline.train_part(args.part, o) if args.part else pipeline.train_parts(o)
    else:
        pipeline.train_stage(args.stage if args.stage == "joint" else int(args.stage), o)


if __name__ == "__main__":
    raise SystemExit(main())
