"""Scores of any system on held-out scenes, one table for all systems.

A system is anything with `encode(images) -> features`, `index(chunks, rows) -> features` and
`answer(features, prompts) -> texts` (one prompt an image). Every score is taken twice: with the
right pictures and, under "shuffled", with each picture replaced by the next scene's, which is
the floor that language alone reaches.
"""

from __future__ import annotations

import inspect
import random
import re
import time
from collections import Counter, defaultdict

import torch

from lion_min.boxes import Box, BoxText, box_iou, iou
from lion_min.cli import progress
from lion_min.questions import in_other_words, of_the_absent
from lion_min.scenes import Scene, World, make_scene
from lion_min.tasks import MAKERS, TASKS, Example, reg

VQA = ("existence", "colour", "kind", "count")
ROWS = ("reg_exact", "reg_exact_heldout_pairs", "rec_acc50", "rec_acc50_relational", "rec_miou",
        "relation_acc", "caption_object_f1", "wordings", "absent",
        "vqa_acc")                         # of a table; the VQA types follow
SPOKEN = 3     # questions in wordings kept out of training, and one of the absent, a scene
Samples = list[tuple[int, Example]]  # (row of the picture, question), or a data set's Sample


def questions(scenes: list[Scene], seed: int) -> Samples:
    """One question of every task for every scene that can pose it."""
    samples = []
    for row, scene in enumerate(scenes):
        rng = random.Random(f"questions/{seed}/{row}")
        examples = (MAKERS[task](scene, rng) for task in TASKS)
        samples += [(row, example) for example in examples if example is not None]
    return samples


def spoken_questions(scenes: list[Scene], seed: int) -> dict[str, Samples]:
    """'wordings': SPOKEN questions a scene in wordings kept out of training, the families in turn;
    'absent': one about something that is not there."""
    rngs = [random.Random(f"spoken/{seed}/{row}") for row in range(len(scenes))]
    return {"wordings": [(row, e) for row, (scene, rng) in enumerate(zip(scenes, rngs))
                         for e in in_other_words(scene, rng, SPOKEN, row * SPOKEN)],
            "absent": [(row, of_the_absent(scene, rng, row))
                       for row, (scene, rng) in enumerate(zip(scenes, rngs))]}


def evaluate(system, world: World, count: int, seed: int, batch: int = 128,
             shuffled: bool = True, scenes: list[Scene] | None = None) -> dict:
    """Every score of design section 5 on `count` held-out scenes of `seed`, plus floors.

    Given `scenes` (at least two) take their place; those of held-out pairs alone are then the
    ones that score what is composed.
    """
    start = time.time()
    if scenes is None:
        scenes = [make_scene(world, "heldout", seed, i) for i in progress(range(count), "drawing scenes")]
        strange = [make_scene(world, "heldout", seed, i, "heldout") for i in range(max(1, count // 2))]
    else:
        count, held = len(scenes), world.heldout_pairs()
        strange = [s for s in scenes if all((t.colour, t.kind) in held for t in s.objects)]
    samples, spoken = questions(scenes, seed), spoken_questions(scenes, seed)
    composed = [(row, reg(scene, random.Random(f"pairs/{seed}/{row}")))
                for row, scene in enumerate(strange)]
    chunks, strange_chunks = (encode_all(system, s, batch) for s in (scenes, strange))
    result = scores(samples, answer_all(system, chunks, samples, batch))
    answers = answer_all(system, strange_chunks, composed, batch)
    result["reg_exact_heldout_pairs"] = _mean(
        said == example.answer for (_, example), said in zip(composed, answers))
    result["n"]["reg_heldout_pairs"] = len(composed)
    for name, said in spoken.items():
        result[name], result["n"][name] = share_right(system, chunks, said, batch), len(said)
    if shuffled:
        others = [[((row + 1) % count, e) for row, e in part]
                  for part in (samples, *spoken.values())]
        result["shuffled"] = scores(samples, answer_all(system, chunks, others[0], batch))
        result["shuffled"].pop("n")
        result["shuffled"] |= {name: share_right(system, chunks, said, batch)
                               for name, said in zip(spoken, others[1:])}
    return result | {"world": world.name, "count": count, "seed": seed,
                     "seconds": round(time.time() - start, 1)}


def encode_all(system, scenes: list, batch: int) -> list:
    """The frozen encoder's features of everything that can be drawn, in chunks."""
    return [system.encode([s.draw() for s in scenes[i:i + batch]])
            for i in progress(range(0, len(scenes), batch), "encoding pictures")]


def answer_all(system, chunks: list, samples: Samples, batch: int) -> list[str]:
    """One answer a question. Questions are sorted by task, so that batches have like lengths."""
    order = sorted(range(len(samples)), key=lambda i: (samples[i][1].task, len(samples[i][1].prompt)))
    answers = [""] * len(samples)
    for start in progress(range(0, len(order), batch), "answering"):
        rows = order[start:start + batch]
        for i, text in zip(rows, _answer(system, chunks, [samples[i] for i in rows]), strict=True):
            answers[i] = text
    return answers


def _answer(system, chunks: list, samples: Samples) -> list[str]:
    """Earlier turns go to a system that takes them; to others the prompt stands alone."""
    features = system.index(chunks, [row for row, _ in samples])
    turns = [list(getattr(question, "turns", ())) for _, question in samples]
    return system.answer(features, [question.prompt for _, question in samples],
                         **({"turns": turns} if any(turns) and takes_turns(system) else {}))


def takes_turns(system) -> bool:
    """Whether a system's `answer` takes what was asked and answered before."""
    return hasattr(system, "answer") and "turns" in inspect.signature(system.answer).parameters


def scores(samples: Samples, answers: list[str]) -> dict:
    """Metrics from questions and answers; pure, no model."""
    right, pairs, overlap = defaultdict(list), defaultdict(list), defaultdict(list)
    for (_, example), text in zip(samples, answers):
        right[example.task].append(text == example.answer)
        pairs[example.task].append((text, example.answer))
        if example.task in ("rec", "rec_relational"):
            overlap[example.task].append(box_overlap(text, example.boxes[-1]))
    both = overlap["rec"] + overlap["rec_relational"]
    vqa = {task: _mean(right[task]) for task in VQA}
    return {
        "rec_acc50": _mean(v >= 0.5 for v in both),
        "rec_acc50_relational": _mean(v >= 0.5 for v in overlap["rec_relational"]),
        "rec_miou": _mean(both), "reg_exact": _mean(right["reg"]),
        "reg_kind": _mean(a.split()[-1:] == b.split()[-1:] for a, b in pairs["reg"]),
        "reg_colour": _mean(a.split()[2:3] == b.split()[2:3] for a, b in pairs["reg"]),
        "vqa_acc": _mean(r for task in VQA for r in right[task]), "vqa_by_type": vqa,
        "relation_acc": _mean(right["relation"]), "exist_acc": vqa["existence"],
        "exist_yes_rate": _mean(a == "yes" for a, _ in pairs["existence"]),
        "caption_object_f1": caption_object_f1(pairs["caption"]),
        "n": {task: len(right[task]) for task in TASKS}}


def share_right(system, chunks: list, asked: Samples, batch: int) -> float:
    """The share of questions that a system answers rightly."""
    return _mean(is_right(said, example) for (_, example), said in zip(
        asked, answer_all(system, chunks, asked, batch)))


def is_right(said: str, example: Example) -> bool:
    """The very answer; or, of boxes, as many, each with an IoU of at least .5, in any order."""
    true, given = BoxText().parse(example.answer), BoxText().parse(said)
    if not true or len(given) != len(true):
        return not true and said == example.answer
    near = box_iou(torch.tensor(given), torch.tensor(true)) >= 0.5        # [M, M]
    return bool(near.any(0).all() and near.any(1).all())


def box_overlap(text: str, box: Box) -> float:
    """IoU of the first box in an answer with the true one; 0 where there is none."""
    said = BoxText().parse(text)[:1]
    return float(iou(torch.tensor(said[0]), torch.tensor(box))) if said else 0.0


def caption_object_f1(pairs: list[tuple[str, str]]) -> float:
    """F1 of the objects that captions name; (said, true) each, all of them counted together."""
    right, wanted, named = (sum(v) for v in zip(*map(caption_matches, pairs)))
    return round(2 * right / max(1, wanted + named), 4)


def caption_matches(pair: tuple[str, str]) -> tuple[int, int, int]:
    """(objects named rightly, objects there, objects named), every attribute right."""
    named, true = (Counter(p.strip() for p in re.split(r", | and ", text.rstrip(". "))
                            if p.strip()) for text in pair)
    return sum((named & true).values()), sum(true.values()), sum(named.values())


def columns(scored: dict[str, dict]) -> str:
    """The scores of any number of evaluations side by side, a column each under its name."""
    first = next(iter(scored.values()))
    names = ROWS if "vqa_by_type" in first else [            # photographs: those of benchmarks.py
        name for name, value in first.items() if isinstance(value, float) and name != "seconds"]
    rows = [(name, [s[name] for s in scored.values() if name in s]) for name in names]
    rows += [("  " + task, [s["vqa_by_type"][task] for s in scored.values()]) for task in VQA
             if "vqa_by_type" in first]
    width = max(10, *(len(name) + 2 for name in scored))
    return "\n".join([f"{'score':<26}" + "".join(f"{name:>{width}}" for name in scored)] + [
        f"{name:<26}" + "".join(f"{'-' if v is None else f'{v:.3f}':>{width}}" for v in values)
        for name, values in rows])


def floor(result: dict) -> dict[str, dict]:
    """The column of the shuffled floor, where it was taken."""
    return {"shuffled": result["shuffled"]} if "shuffled" in result else {}


def table(before: dict, after: dict) -> str:
    """The scores of two evaluations side by side, one line each, and the later one's floor."""
    return columns({"before": before, "after": after} | floor(after))


def _mean(values) -> float:
    values = [float(v) for v in values]
    return round(sum(values) / len(values), 4) if values else 0.0

