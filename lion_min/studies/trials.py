"""One run of a condition, and what two of them say about a claim.

Symbols: S seeds, N scenes.
"""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from lion_min import launch, scores
from lion_min.features import FeatureCache
from lion_min.scenes import WORLDS, Scene, make_scene
from lion_min.stage import RunOptions, run_stage
from lion_min.studies.conditions import CONDITIONS, PROBES, Claim
from lion_min.tasks import MAKERS

POOL, SCENES = 2048, 150                   # scenes to train on, held-out scenes to score
REPLICATES = 2000                          # of the bootstrap


_features: dict[tuple, FeatureCache] = {}  # of the training scenes, shared by a process's runs
_scenes: list[Scene] = []


def take(name: str, seed: int) -> dict:
    """Train a condition with a seed and score it: {probe: {task: one value a scene, or None}}.

    Two conditions of the same seed draw the same scenes and questions in the same order. The run's
    folder is thrown away.
    """
    condition, start = CONDITIONS[name], time.process_time()
    _scenes[:] = _scenes or [make_scene(WORLDS["medium"], "train", 0, i) for i in range(POOL)]
    with TemporaryDirectory() as folder:
        for stage in condition.stages():
            torch.manual_seed(seed)
            system = condition.system(launch.parts_for(Path(folder)), stage)
            plan = launch.Options(seed=seed).plan(stage.plan)
            with probing(system, condition.always):
                run_stage(system, RunOptions(
                    seed=seed, plan=plan, scenes=_scenes, features=_cached(system), quiet=True,
                    score=lambda _: {}))
    held = [make_scene(WORLDS["medium"], "heldout", 2**21 + seed, i) for i in range(SCENES)]
    with torch.no_grad():
        chunks = scores.encode_all(system, held, SCENES)
        values = {}
        for probe in ("", *condition.probes):
            with probing(system, condition.always, probe):
                values[probe] = graded(system, held, chunks, condition.tasks, seed)
    return {"condition": name, "seed": seed, "values": values,
            "cpu_seconds": round(time.process_time() - start, 1)}


def _cached(system) -> FeatureCache | None:
    """The frozen features of the training scenes, which all runs of a process share."""
    if any(name.startswith("vision.") for name in system.stage.trains):
        return None
    has_objects = getattr(system.model, "refiner", None) is not None
    key = system.name, has_objects, tuple(sorted(system.depths))
    if key not in _features:
        _features[key] = FeatureCache(system, _scenes)
    return _features[key]


@contextmanager
def probing(system, *names: str):
    """The system with these probes; '' is none."""
    with ExitStack() as stack:
        for name in filter(None, names):
            stack.enter_context(PROBES[name](system))
        yield


def graded(system, scenes: list[Scene], chunks: list, tasks: tuple[str, ...],
           seed: int) -> dict[str, list[float | None]]:
    """One value in 0..1 for each scene and task: right or wrong, a caption's F1; None: not posed."""
    asked = []
    for row, scene in enumerate(scenes):
        rng = random.Random(f"claims/{seed}/{row}")
        asked += [(row, e) for task in tasks if (e := MAKERS[task](scene, rng)) is not None]
    answers = scores.answer_all(system, chunks, asked, SCENES)
    values = {task: [None] * len(scenes) for task in tasks}
    for (row, example), answer in zip(asked, answers):
        values[example.task][row] = round(grade(example, answer), 3)
    return values


def grade(example, answer: str) -> float:
    """IoU >= .5 of a box, F1 of a caption's objects, else an exact match."""
    if example.task in ("rec", "rec_relational"):
        return float(scores.box_overlap(answer, example.boxes[-1]) >= 0.5)
    if example.task == "caption":
        return scores.caption_object_f1([(answer, example.answer)])
    return float(answer == example.answer)


# ---- what two of them say -------------------------------------------------------------------------

def compare(claim: Claim, log: dict[tuple[str, int], dict]) -> dict | None:
    """Means of both sides, their difference and its 95 % interval; None without a seed of both."""
    (a, a_probe), (b, b_probe) = (side.partition("/")[::2] for side in (claim.better, claim.worse))
    seeds = sorted(seed for name, seed in log if name == a and (b, seed) in log)
    if not seeds:
        return None
    sides = []
    for name, probe in ((a, a_probe), (b, b_probe)):
        sides.append([_by_scene(log[name, seed]["values"][probe], claim.tasks) for seed in seeds])
    (right, n), (left, _) = (map(torch.stack, zip(*side)) for side in sides)    # [seeds, scenes]
    apart, generator = right - left, torch.Generator().manual_seed(0)
    draws = []
    for _ in range(REPLICATES):
        chosen = torch.randint(len(seeds), (len(seeds),), generator=generator)
        scene = torch.randint(n.shape[1], (len(seeds), n.shape[1]), generator=generator)
        draws.append(apart[chosen].gather(1, scene).sum() / n[chosen].gather(1, scene).sum())
    low, high = torch.stack(draws).quantile(torch.tensor([0.025, 0.975])).tolist()
    verdict = "too few seeds" if len(seeds) < 2 else "holds" if low > 0 else \
        "opposite" if high < 0 else "does not hold here"
    return {"seeds": len(seeds), "better": float(right.sum() / n.sum()),
            "worse": float(left.sum() / n.sum()), "difference": float(apart.sum() / n.sum()),
            "low": low, "high": high, "verdict": verdict}


def _by_scene(values: dict[str, list], tasks: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """(sum of the values, number of questions) of each scene, both [scenes]."""
    table = torch.tensor([[float("nan") if v is None else v for v in values[t]] for t in tasks])
    return table.nansum(0), (~table.isnan()).sum(0)
