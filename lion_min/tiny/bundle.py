"""Copy the runs of a whole training into the package as its bundled weights, at half precision.

    python -m lion_min.tiny.bundle runs              # after: python train.py --stage all --out runs
"""

from __future__ import annotations

from pathlib import Path

from lion_min import BadInput, checkpoints
from lion_min.cli import Parser, command

WEIGHTS = Path(__file__).parents[1] / "weights"


def bundle(runs: Path, weights: Path = WEIGHTS) -> int:
    """Every finished run below `runs` -> `weights`, same names; returns the bytes written.

    The heads that only taught stage 0 stay behind. BadInput when `runs` holds no run.
    """
    from lion_min.tiny.stage0 import TEACHERS
    configs = sorted(runs.glob("*/**/config.json"))
    if not configs:
        raise BadInput(f"{runs}: no finished run in it; train first, or name another folder")
    size = 0
    for path in configs:
        tensors, config = checkpoints.load_run(path.parent)
        if config.get("stage") == 0:
            tensors = {k: v for k, v in tensors.items() if not k.startswith(TEACHERS)}
        folder = weights / path.parent.relative_to(runs)
        checkpoints.save_run(folder, {k: v.half() for k, v in tensors.items()}, config)
        size += (folder / checkpoints.MODEL).stat().st_size
        print(f"{folder.relative_to(weights)}: {len(tensors)} tensors")
    print(f"{size / 1e6:.1f} MB in {weights}")
    return size


def main(argv: list[str] | None = None) -> int:
    """Bundle the runs below RUNS into the package."""
    parser = Parser(prog="python -m lion_min.tiny.bundle", description=main.__doc__)
    parser.add_argument("runs", type=Path, metavar="RUNS")
    return command(parser, lambda args: bundle(args.runs), argv)


if __name__ == "__main__":
    raise SystemExit(main())
