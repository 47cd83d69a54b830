"""The command that writes region instructions: python -m lion_min.pvit.instructions OUT.jsonl"""

from __future__ import annotations

import json
import random
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import Parser, command, whole
from lion_min.pvit.instructions import KEPT, NOTHING, STRATEGIES, STRATEGY_OF, generate
from lion_min.pvit.instructions.chat import LocalChat, SceneChat
from lion_min.pvit.instructions.forms import FORMAT, IN_ANSWER, NO_REGION
from lion_min.scenes import WORLDS, make_scene


def parser() -> Parser:
    p = Parser(prog="python -m lion_min.pvit.instructions",
               description="Write region instructions about drawn scenes, one JSON object a line.")
    p.add_argument("out", type=Path, metavar="OUT.jsonl")
    p.add_argument("--count", type=whole(1), default=1000, metavar="N",
                   help="instructions to keep, one a scene; default: 1000")
    p.add_argument("--seed", type=whole(0), default=0, metavar="S")
    p.add_argument("--strategy", choices=STRATEGIES, help="default: all three")
    p.add_argument("--chat", type=Path, metavar="DIR",
                   help="a local chat model; default: the rules that know the drawn scene")
    p.add_argument("--world", choices=WORLDS, default="medium", help="default: medium")
    return p


def write(args) -> None:
    """Scenes in turn until enough are kept or ten times as many were tried."""
    from lion_min.checkpoints import write_atomic
    if args.out.exists():
        raise BadInput(f"{args.out}: exists; name another file, or remove it first")
    local = args.chat and LocalChat(args.chat)
    scenes = (make_scene(WORLDS[args.world], "train", args.seed, i) for i in range(10 * args.count))
    tasks = STRATEGIES[args.strategy] if args.strategy else tuple(STRATEGY_OF)
    instructions, counts = generate(scenes, lambda scene: local or SceneChat(scene), tasks,
                                    random.Random(f"instructions/{args.seed}"), count=args.count)
    if not instructions:
        raise BadInput(f"{args.out}: not written, nothing passed the filters ({dict(counts)}); "
                       "take another chat model or strategy")
    write_atomic(args.out, "".join(json.dumps(vars(i)) + "\n" for i in instructions).encode())
    print("\n".join(f"{counts[name]:7d}  {name}" for name in (
        KEPT, FORMAT, IN_ANSWER, NO_REGION, NOTHING)) + f"\nwrote {args.out}")


def main(argv: list[str] | None = None) -> int:
    return command(parser(), write, argv)


if __name__ == "__main__":
    raise SystemExit(main())
