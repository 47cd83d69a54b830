"""What stands for a box? The ablation of PVIT's table 2, same data, same steps, several seeds.

    python -m lion_min.pvit.ablation --seeds 0 1 2 --steps 200

Every row runs the paper's two stages, half of the steps each, on the same questions in the same
order. Coordinates say nothing unless the picture's tokens do, and no LLaVA has taught those here:
the rows without a feature train mm_projector in stage 1, too.

    feature    a pooled feature between <Region> and </Region>       (the paper: 64.5 on COCO)
    text       the coordinates as words, no region encoder           (the paper: 52.6)
    location   four learnt location tokens
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lion_min.cli import Parser, guarded, prepare, whole

REPRESENTATIONS = ("feature", "text", "location")
SCORES = ("reg_exact", "reg_kind", "reg_colour", "reg_exact_heldout_pairs")


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.pvit.ablation", description=__doc__.splitlines()[0])
    p.add_argument("--seeds", type=whole(0), nargs="+", default=[0, 1, 2])
    p.add_argument("--steps", type=whole(2), default=200)
    p.add_argument("--count", type=whole(2), default=200, help="held-out scenes a row")
    p.add_argument("--out", type=Path, default=Path("runs"), help="whose lion/stage0 to start from")
    args = p.parse_args(argv)
    prepare()
    return guarded(lambda: run(args.seeds, args.steps, args.count, args.out))


def run(seeds: list[int], steps: int, count: int, out: Path) -> None:
    """Train and score every row, then print mean and spread (standard deviation) over seeds."""
    from lion_min.evaluation import spread
    rows = {name: [row(name, seed, steps, count, out) for seed in seeds]
            for name in REPRESENTATIONS}
    print(f"\n{len(seeds)} seeds, {steps} steps, {count} scenes each: mean +- standard deviation")
    for name, results in rows.items():
        print(f"{name:<10}" + "".join(f"  {score} {spread([r[score] for r in results])}"
                                      for score in SCORES))
    apart = [a["reg_exact"] - b["reg_exact"] for a, b in zip(rows["feature"], rows["text"])]
    print(f"feature - text, reg_exact: {spread(apart)}")


def row(representation: str, seed: int, steps: int, count: int, out: Path) -> dict:
    """The scores of one run, which is thrown away."""
    from lion_min import evaluation
    from lion_min.pvit import loading, stages
    from lion_min.scenes import WORLDS
    one, two = (stages.of_representation(loading.stage_of(n), representation) for n in (1, 2))
    one = replace(one, trains={
        "feature": one.trains, "location": ("markers", "locations", "mm_projector"),
        "text": ("llm.model.model.embed_tokens", "mm_projector")}[representation])
    two = replace(two, rounds=("reg", "instructions"))
    with TemporaryDirectory() as folder:
        if (out / "lion" / "stage0").exists():
            (Path(folder) / "lion").symlink_to((out / "lion").resolve())
        for stage in (one, two):
            stage = replace(stage, plan=replace(stage.plan, steps=steps // 2, seed=seed))
            done = stages.train(stage, Path(folder), seed=seed, checks=2)
    scored = evaluation.evaluate(done["system"], WORLDS["medium"], count, 2**21 + seed,
                                 shuffled=False)
    print(f"{representation} seed {seed}: " + ", ".join(f"{s} {scored[s]:.3f}" for s in SCORES))
    return scored


if __name__ == "__main__":
    raise SystemExit(main())
