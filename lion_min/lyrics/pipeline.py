"""From the command line's words to Lyrics' runs; the ViT and the LLM are LION's stage 0."""

from __future__ import annotations

from pathlib import Path

from lion_min import BadInput, evaluation
from lion_min.lyrics import stages
from lion_min.lyrics.loading import stage_of
from lion_min.options import Options, lenient, timed


def train_stage(number: int, o: Options) -> dict:
    """Stage 0, 1 or 2; its scores before and after."""
    stage = stage_of(number)
    return stages.train(stage, plan=o.plan(stage.plan), **o.shared(),
                        **(o.scenes() if number else {}))


def train_parts(o: Options) -> None:
    """Stage 0, which is the refiner alone."""
    if o.labels:
        raise BadInput(f"--labels {o.labels}: Lyrics' stage 0 learns from boxes; leave it out")
    train_stage(0, o)


def train_part(part: str, o: Options) -> None:
    raise BadInput(f"--part {part}: Lyrics' stage 0 has no parts; --system lion has")


def train_all(o: Options, script: Path) -> None:
    """All three stages, from LION's stage 0 in --out or the bundled one."""
    o.scenes()                                     # a mistake in --data shows before stage 0
    minutes, done = {}, {}
    for number in (0, 1, 2):
        print(f"---- stage {number}")
        with timed(str(number), minutes):
            done[number] = train_stage(number, lenient(o, o.out / "lyrics" / f"stage{number}"))
    print("minutes: " + ", ".join(f"stage {k} {v:.1f}" for k, v in minutes.items()))
    for number in (0, 1):
        print(stages.told(done[number]["before"], done[number]["after"]))
    print(evaluation.columns({"stage 2": done[2]["after"]}))
