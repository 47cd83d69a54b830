"""Scores of any system on annotated photographs: the samples of datasets.read_samples.

The same three methods of a system as in evaluation.py, encode, index and answer, and the same
floor: "shuffled" asks each question beside the next picture. Drawn scenes are many and small;
here a data set may be large, so pictures pass in chunks, each seen once and then let go.
Symbols: D width of the LLM.
"""

from __future__ import annotations

import inspect
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lion_min import BadInput

from lion_min.datasets import metrics
from lion_min.boxes import Box, BoxText
from lion_min.images import load_image
from lion_min.datasets.records import Sample

SCORES = ("rec_acc50", "rec_miou", "reg_exact", "reg_nearest", "vqa_acc", "relation_acc",
          "exist_acc", "exist_precision", "exist_recall", "exist_f1", "exist_yes_rate",
          "caption_cider", "chat_f1")  # of a table, in this order
SCORED_AS = {"rec_relational": "rec", "colour": "vqa", "kind": "vqa", "count": "vqa"}
MAX_CLASSES = 1500  # LVIS has 1,203; what differs more often is a phrase, not a class

Question = list[Sample]  # asked once, in the first one's words; each brings a right answer


def score_samples(system, samples: Iterable[Sample], batch: int = 32,
                  shuffled: bool = True) -> dict:
    """Every name of SCORES, None where nothing asks for it; n per task; the same "shuffled".

    batch: pictures seen, and questions asked, at a time; it bounds the memory. Raises BadInput
    for a REC answer without a box, and for fewer than two pictures where shuffled asks for one
    more.
    """
    start, asked = time.time(), questions(samples)
    pictures = len({first.image for first, *_ in asked})
    if shuffled and pictures < 2:
        raise BadInput(f"data: {pictures} picture, and the shuffled floor shows another one; "
                       "take more, or leave the floor out (--no-shuffled)")
    for first, *_ in asked:
        if _scored_as(first) == "rec":
            true_box(first)  # a fault in the data is told before hours of asking
    embed = word_vectors(system)
    right, *floor = ask_all(system, asked, batch, (0, 1) if shuffled else (0,))
    result = scores(asked, right, embed)
    if floor:
        result["shuffled"] = scores(asked, floor[0], embed)
    return result | {"n": dict(Counter(first.task for first, *_ in asked)),
                     "pictures": pictures, "seconds": round(time.time() - start, 1)}


# ---- what is asked -------------------------------------------------------------------------------

def questions(samples: Iterable[Sample]) -> list[Question]:
    """Samples that ask the same become one question with several right answers.

    All captions of a picture are the references of one caption; what several people answered to
    the same words about the same picture belongs to one VQA question.
    """
    found: dict[tuple, Question] = {}
    for i, s in enumerate(samples):
        task = _scored_as(s)
        key = ((s.image, task) if task == "caption" else
               (s.image, task, s.prompt, s.turns) if task == "vqa" else (i,))
        found.setdefault(key, []).append(s)
    return list(found.values())


def some(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """At most `count` questions with all their samples, each as likely, in the file's order."""
    asked = questions(samples)
    if len(asked) > count:
        rows = random.Random(f"field/{seed}").sample(range(len(asked)), count)
        asked = [asked[row] for row in sorted(rows)]
    return [sample for question in asked for sample in question]


def true_box(sample: Sample) -> Box:
    """The first box of a REC sample's answer, unrounded."""
    if not (named := len(BoxText().parse(sample.answer))):
        raise BadInput(f"{sample.image}: {sample.prompt[:60]!r} is a {sample.task} sample, but "
                       f"its answer {sample.answer[:40]!r} holds no box; mend it or leave it out")
    return sample.boxes[-named]  # the answer's stand last


def _scored_as(sample: Sample) -> str:
    return SCORED_AS.get(sample.task, sample.task)


# ---- asking --------------------------------------------------------------------------------------

def ask_all(system, asked: list[Question], batch: int, shifts: tuple[int, ...]
            ) -> list[list[str]]:
    """For each shift, one answer a question, given beside the picture `shift` places on.

    A picture is seen once for all that is asked beside it, and no chunk outlives its questions.
    """
    places = {path: i for i, path in enumerate(dict.fromkeys(q[0].image for q in asked))}
    paths, beside = list(places), defaultdict(list)     # picture shown -> what is asked there
    for column, shift in enumerate(shifts):
        for i, (first, *_) in enumerate(asked):
            beside[(places[first.image] + shift) % len(paths)].append((column, i))
    answers = [[""] * len(asked) for _ in shifts]
    for start in range(0, len(paths), batch):
        features = system.encode([load_image(path) for path in paths[start:start + batch]])
        jobs = [(row, column, i) for row in range(len(paths[start:start + batch]))
                for column, i in beside[start + row]]
        jobs.sort(key=lambda job: (asked[job[2]][0].task, len(asked[job[2]][0].prompt)))
        for at in range(0, len(jobs), batch):           # of like lengths, thanks to the order
            chunk = jobs[at:at + batch]
            picked = system.index([features], [row for row, *_ in chunk])
            told = _answer(system, picked, [asked[i][0] for *_, i in chunk])
            for (_, column, i), text in zip(chunk, told, strict=True):
                answers[column][i] = text
    return answers


def _answer(system, features, samples: list[Sample]) -> list[str]:
    """Earlier turns go to a system that takes them; to others the prompt stands alone."""
    prompts = [sample.prompt for sample in samples]
    if "turns" in inspect.signature(system.answer).parameters:
        return system.answer(features, prompts, turns=[list(s.turns) for s in samples])
    return system.answer(features, prompts)


# ---- scoring -------------------------------------------------------------------------------------

def scores(asked: list[Question], answers: list[str],
           embed: Callable[[str], Tensor] | None = None) -> dict:
    """SCORES from questions and answers; no system is asked. embed: see metrics.nearest_name."""
    found: dict[str, float | None] = dict.fromkeys(SCORES)
    parts = defaultdict(list)
    for question, answer in zip(asked, answers, strict=True):
        parts[_scored_as(question[0])].append((answer, question))
    for task, rows in parts.items():
        said, posed = zip(*rows)
        truths = [first.answer for first, *_ in posed]
        if task == "rec":
            rec = metrics.rec_acc(said, [true_box(first) for first, *_ in posed])
            found |= {"rec_acc50": rec["acc50"], "rec_miou": rec["miou"]}
        elif task == "reg":
            found |= _recognition(said, truths, embed)
        elif task == "existence":
            pope = metrics.pope(said, truths)
            found |= {"exist_acc": pope.pop("accuracy")} | {
                f"exist_{name}": value for name, value in pope.items()}
        elif task == "relation":
            found["relation_acc"] = metrics.true_false(said, truths)
        elif task == "caption":
            found["caption_cider"] = metrics.cider(said, _answers(posed))
        elif task == "vqa":
            found["vqa_acc"] = metrics.mean(map(metrics.vqa_accuracy, said, _answers(posed)))
        else:
            found["chat_f1"] = metrics.mean(map(metrics.token_f1, said, truths))
    return {name: None if v is None else round(v, 4) for name, v in found.items()}


def _answers(posed: Iterable[Question]) -> list[list[str]]:
    return [[sample.answer for sample in question] for question in posed]


def _recognition(said: tuple[str, ...], truths: list[str], embed) -> dict[str, float | None]:
    """The name itself, but for case, marks and articles; and the nearest class name."""
    exact = metrics.mean(metrics.normal(a) == metrics.normal(t) for a, t in zip(said, truths))
    few = len(set(truths)) <= MAX_CLASSES
    return {"reg_exact": exact,
            "reg_nearest": metrics.recognition(said, truths, embed) if few else None}


def word_vectors(system) -> Callable[[str], Tensor] | None:
    """text -> the mean of the LLM's own input embeddings, length 1: [D]; None without an LLM."""
    llm = getattr(getattr(system, "model", None), "llm", None)
    if llm is None:
        return None

    @lru_cache(maxsize=4 * MAX_CLASSES)
    @torch.no_grad()
    def embed(text: str) -> Tensor:
        if not (ids := system.tokenizer.encode(text)):
            return torch.zeros(llm.width)
        words = llm.embed(torch.tensor(ids, device=llm.device)).float().cpu()  # [T, D]
        return normalize(words.mean(0), dim=0)                                 # [D]
    return embed
