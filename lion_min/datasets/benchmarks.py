"""Scores of any system on annotated photographs: the samples of datasets.read_samples.

Systems are asked as in scores.py, with the same floor: "shuffled" asks each question beside the
next picture. A data set may be large, so pictures pass in chunks, each encoded once and let go.
Symbols: D width of the LLM.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lion_min import BadInput
from lion_min.boxes import Box, BoxText
from lion_min.cli import MAX_BAD, progress
from lion_min.datasets import metrics
from lion_min.datasets.records import Sample
from lion_min.features import readable
from lion_min.images import load_image
from lion_min.left_out import LeftOut
from lion_min.scores import answer_all

SCORES = ("rec_acc50", "rec_miou", "reg_exact", "reg_nearest", "vqa_acc", "relation_acc",
          "exist_acc", "exist_precision", "exist_recall", "exist_f1", "exist_yes_rate",
          "caption_cider", "chat_f1")  # of a table, in this order
SCORED_AS = {"rec_relational": "rec", "colour": "vqa", "kind": "vqa", "count": "vqa"}
MAX_CLASSES = 1500  # LVIS has 1,203; what differs more often is a phrase, not a class

Question = list[Sample]  # asked once, in the first one's words; each brings a right answer


def score_samples(system, samples: Iterable[Sample], batch: int = 32, shuffled: bool = True,
                  max_bad: float = MAX_BAD) -> dict:
    """Every name of SCORES, None where nothing asks for it; n per task; the same "shuffled".

    batch: pictures encoded, and questions asked, at a time; it bounds the memory. Pictures that
    cannot be read are left out with their questions, and told. Raises BadInput for more than the
    share max_bad of them, for a REC answer without a box, and for fewer than two pictures where
    shuffled asks for one more.
    """
    start, asked = time.time(), questions(samples)
    pictures = len({first.image for first, *_ in asked})
    if shuffled and pictures < 2:
        raise BadInput(f"data: {pictures} picture, and the shuffled floor shows another one; "
                       "take more, or leave the floor out (--no-shuffled)")
    for first, *_ in asked:
        if _scored_as(first) == "rec":
            true_box(first)  # a fault in the data is told before hours of asking
    left_out = LeftOut("data", "pictures", pictures)
    answers = ask_all(system, asked, batch, (0, 1) if shuffled else (0,), left_out, max_bad)
    left_out.tell()
    rows, embed = [i for i, said in enumerate(answers[0]) if said is not None], word_vectors(system)
    asked = [asked[i] for i in rows]
    result, *floor = (scores(asked, [said[i] for i in rows], embed) for said in answers)
    return result | ({"shuffled": floor[0]} if floor else {}) | {
        "n": dict(Counter(first.task for first, *_ in asked)),
        "pictures": pictures - left_out.count, "seconds": round(time.time() - start, 1)}


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

def ask_all(system, asked: list[Question], batch: int, shifts: tuple[int, ...],
            left_out: LeftOut | None = None, max_bad: float = MAX_BAD) -> list[list[str | None]]:
    """For each shift, one answer a question, given beside the picture `shift` rows on.

    A picture is encoded once for all that is asked beside it; no chunk outlives its questions.
    The answer is None beside a picture that cannot be read; left_out counts those pictures.
    """
    paths = list(dict.fromkeys(first.image for first, *_ in asked))
    rows = {path: row for row, path in enumerate(paths)}
    left_out = LeftOut("data", "pictures", len(paths)) if left_out is None else left_out
    beside = defaultdict(list)                          # chunk of pictures -> what is asked there
    for i, (first, *_) in enumerate(asked):
        for column, shift in enumerate(shifts):
            row = (rows[first.image] + shift) % len(paths)
            beside[row // batch].append((row % batch, column, i))
    answers = [[None] * len(asked) for _ in shifts]
    for chunk in progress(range(len(beside)), "pictures asked about, in chunks"):
        shown = paths[chunk * batch:(chunk + 1) * batch]
        images = readable([partial(load_image, path) for path in shown], left_out)
        left_out.check(max_bad)
        jobs = sorted(job for job in beside[chunk] if job[0] in images)
        if not jobs:
            continue
        order = {row: i for i, row in enumerate(images)}
        features = system.encode([*images.values()])
        texts = answer_all(system, [features],
                           [(order[row], asked[i][0]) for row, _, i in jobs], batch)
        for (_, column, i), text in zip(jobs, texts):
            answers[column][i] = text
    return answers


# ---- scoring -------------------------------------------------------------------------------------

def scores(asked: list[Question], answers: list[str | None],
           embed: Callable[[str], Tensor] | None = None) -> dict:
    """SCORES from questions and answers; no system is asked. What has no answer (None) does not
    count. embed: see metrics.nearest_name."""
    result: dict[str, float | None] = dict.fromkeys(SCORES)
    by_task = defaultdict(list)
    for question, answer in zip(asked, answers, strict=True):
        if answer is not None:
            by_task[_scored_as(question[0])].append((answer, question))
    for task, rows in by_task.items():
        result |= _scores_of(task, *zip(*rows), embed)
    return {name: None if v is None else round(v, 4) for name, v in result.items()}


def _scores_of(task: str, said: tuple[str, ...], posed: tuple[Question, ...], embed) -> dict:
    """The scores of the questions that are scored alike."""
    truths = [first.answer for first, *_ in posed]
    several = [[sample.answer for sample in question] for question in posed]
    if task == "rec":
        rec = metrics.rec_acc(said, [true_box(first) for first, *_ in posed])
        return {f"rec_{name}": value for name, value in rec.items()}
    if task == "reg":            # exact but for case, marks and articles; and the nearest class
        few = len(set(truths)) <= MAX_CLASSES
        return {"reg_exact": metrics.mean(map(metrics.same, said, truths)),
                "reg_nearest": metrics.recognition(said, truths, embed) if few else None}
    if task == "existence":
        pope = metrics.pope(said, truths)
        return {"exist_acc": pope.pop("accuracy")} | {f"exist_{k}": v for k, v in pope.items()}
    if task == "relation":
        return {"relation_acc": metrics.true_false(said, truths)}
    if task == "caption":
        return {"caption_cider": metrics.cider(said, several)}
    if task == "vqa":
        return {"vqa_acc": metrics.mean(map(metrics.vqa_accuracy, said, several))}
    return {"chat_f1": metrics.mean(map(metrics.token_f1, said, truths))}


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
