"""Does the refiner help, and against hallucination? Lyrics with and without objects.

    python -m lion_min.lyrics.ablation --seeds 0 1 2 --steps 200

    on     object queries and the objects' lines
    off    image queries alone, from the same stage 1 without its object parts

Existence questions are POPE's: half of them yes, each no an object that is almost there. A model
that hallucinates says yes too often (exist_yes_rate above .5). The paper's own table is unread
(spec section 6).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lion_min.cli import Parser, guarded, prepare, whole

SCORES = ("exist_acc", "exist_yes_rate", "vqa_acc", "caption_object_f1")


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.lyrics.ablation", description=__doc__.splitlines()[0])
    p.add_argument("--seeds", type=whole(0), nargs="+", default=[0, 1, 2])
    p.add_argument("--steps", type=whole(1), default=200)
    p.add_argument("--count", type=whole(2), default=200, help="held-out scenes a row")
    p.add_argument("--out", type=Path, default=Path("runs"),
                   help="whose lion/stage0, lyrics/stage0 and lyrics/stage1 to start from")
    args = p.parse_args(argv)
    prepare()
    return guarded(lambda: run(args.seeds, args.steps, args.count, args.out))


def run(seeds: list[int], steps: int, count: int, out: Path) -> None:
    """Train and score both rows, then print mean and spread (standard deviation) over seeds."""
    from lion_min.evaluation import spread
    rows = {name: [row(name == "on", seed, steps, count, out) for seed in seeds]
            for name in ("on", "off")}
    print(f"\n{len(seeds)} seeds, {steps} steps, {count} scenes each: mean +- standard deviation")
    for name, results in rows.items():
        print(f"refiner {name:<4}" + "".join(f"  {score} {spread([r[score] for r in results])}"
                                             for score in SCORES))


def off(stage):
    """The same stage without objects; of stage 1 it takes the image queries' half."""
    def start(earlier):
        from lion_min.lyrics.stages import without_objects
        return without_objects(stage.start(earlier))

    return replace(stage, refiner=False, start=start)


def row(refiner: bool, seed: int, steps: int, count: int, out: Path) -> dict:
    """The scores of one run, which is thrown away."""
    from lion_min import evaluation
    from lion_min.lyrics import loading, stages
    from lion_min.scenes import WORLDS
    stage = loading.stage_of(2)
    stage = replace(stage if refiner else off(stage), plan=replace(stage.plan, steps=steps,
                                                                   seed=seed))
    with TemporaryDirectory() as folder:
        for part in ("lion/stage0", "lyrics/stage0", "lyrics/stage1"):
            (Path(folder) / part).parent.mkdir(exist_ok=True)
            if (out / part).exists():
                (Path(folder) / part).symlink_to((out / part).resolve())
        done = stages.train(stage, Path(folder), seed=seed, checks=2)
    scored = evaluation.evaluate(done["system"], WORLDS["medium"], count, 2**21 + seed,
                                 shuffled=False)
    print(f"refiner {'on' if refiner else 'off'} seed {seed}: "
          + ", ".join(f"{s} {scored[s]:.3f}" for s in SCORES))
    return scored


if __name__ == "__main__":
    raise SystemExit(main())
