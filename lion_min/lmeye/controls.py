"""Does the asking help? LMEye's control rows: same data, same parameters, same visual tokens.

    python -m lion_min.lmeye.controls --seeds 0 1 2 --steps 400

    interactive   the LLM's request meets the image, the answer fills the slots
    zeroed        the same with a request that is the same for every question
    foreign       the request of another question
    static        nothing is asked; the slots hold <img-d> alone

Every row trains stage 2 from the same stage 1, on boxes and VQA in turn (the paper has no such table; its reviewers asked
for one, spec section 8).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lion_min.cli import Parser, guarded, prepare, whole

SCORES = ("rec_acc50", "reg_exact", "relation_acc", "vqa_acc")


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.lmeye.controls", description=__doc__.splitlines()[0])
    p.add_argument("--seeds", type=whole(0), nargs="+", default=[0, 1, 2])
    p.add_argument("--steps", type=whole(1), default=400)
    p.add_argument("--count", type=whole(2), default=200, help="held-out scenes a row")
    p.add_argument("--out", type=Path, default=Path("runs"),
                   help="whose lion/stage0 and lmeye/stage1 to start from")
    args = p.parse_args(argv)
    prepare()
    return guarded(lambda: run(args.seeds, args.steps, args.count, args.out))


def run(seeds: list[int], steps: int, count: int, out: Path) -> None:
    """Train and score every row, then print mean and spread (standard deviation) over seeds."""
    from lion_min.evaluation import spread
    from lion_min.lmeye.model import CONTROLS
    rows = {control: [row(control, seed, steps, count, out) for seed in seeds]
            for control in CONTROLS}
    print(f"\n{len(seeds)} seeds, {steps} steps, {count} scenes each: mean +- standard deviation")
    for control, results in rows.items():
        print(f"{control:<12}" + "".join(f"  {score} {spread([r[score] for r in results])}"
                                         for score in SCORES))


def row(control: str, seed: int, steps: int, count: int, out: Path) -> dict:
    """The scores of one run, which is thrown away."""
    from lion_min import evaluation
    from lion_min.lmeye import loading, stages
    from lion_min.scenes import WORLDS
    stage = loading.stage_of(2)
    stage = replace(stage, control=control, rounds=("region", "vqa"),
                    plan=replace(stage.plan, steps=steps, seed=seed))
    with TemporaryDirectory() as folder:
        for part in ("lion", "lmeye"):
            (Path(folder) / part).mkdir()
        for part in ("lion/stage0", "lmeye/stage1"):
            if (out / part).exists():
                (Path(folder) / part).symlink_to((out / part).resolve())
        done = stages.train(stage, Path(folder), seed=seed, checks=2)
    scored = evaluation.evaluate(done["system"], WORLDS["medium"], count, 2**21 + seed,
                                 shuffled=False)
    print(f"{control} seed {seed}: " + ", ".join(f"{s} {scored[s]:.3f}" for s in SCORES))
    return scored


if __name__ == "__main__":
    raise SystemExit(main())
