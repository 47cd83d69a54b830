"""The field's metrics, from texts alone: no model, no picture. benchmarks.py asks, these judge.

    task                      metric                         source
    REC (RefCOCO/+/g)         Acc@.5, mean IoU               LION Table 3; Yu et al. 2016
    REG (COCO, given boxes)   accuracy of the nearest class  PVIT Table 1
    VQA                       soft accuracy                  Antol et al. 2015, vqaEval.py
    existence                 POPE: P, R, F1, share of yes   Li et al. 2023, its evaluate.py
    relation                  VSR accuracy                   Liu et al. 2023
    caption                   CIDEr-D                        Vedantam et al. 2015, cider_scorer.py
    chat                      F1 of the words                Rajpurkar et al. 2016 (SQuAD)

Each is a share from 0 to 1; only CIDEr-D goes to 10 (papers print it times 100). Scores of
nothing, and of lists of unlike lengths, raise ValueError. Symbols: D width.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from torch import Tensor

from lion_min.boxes import Box
from lion_min.scores import box_overlap

HUMANS = 10                          # answers to each question of VQAv2
DIGITS = {word: str(i) for i, word in enumerate(
    "zero one two three four five six seven eight nine ten".split())} | {"none": "0"}
ARTICLES = {"a", "an", "the"}
# The usual ones of vqaEval.py's 120; "its", "were", "well" are words of their own.
CONTRACTIONS = {word.replace("'", ""): word for word in (
    "ain't aren't can't couldn't could've didn't doesn't don't hadn't hasn't haven't he's how's "
    "i'm i've isn't it'll mightn't mustn't she's shouldn't should've that's there's they'd "
    "they'll they're they've wasn't weren't what's where's who's won't wouldn't would've y'all "
    "you'd you'll you're you've").split()}
MARKS = ";/[]\"{}()=+\\_-><@`,?!"
DIGITS_COMMA = re.compile(r"\d,\d")
FULL_STOP = re.compile(r"\.(?!\d)")  # a decimal point stays
TRUE_FALSE = re.compile(r"\b(true|false)\b", re.IGNORECASE)
WORD = re.compile(r"\w+(?:[-']\w+)*")


# ---- REC -----------------------------------------------------------------------------------------

def rec_acc(answers: Sequence[str], boxes: Sequence[Box]) -> dict[str, float]:
    """{"acc50", "miou"} of each answer's first box with the true one; no box counts as IoU 0.

    boxes: xyxy fractions, unrounded. Fractions give the same IoU as pixels: both sides of a
    picture are scaled, and so every area alike.
    """
    overlaps = [box_overlap(a, box) for a, box in zip(answers, boxes, strict=True)]
    return {"acc50": mean(v >= 0.5 for v in overlaps), "miou": mean(overlaps)}


# ---- words ---------------------------------------------------------------------------------------

@lru_cache(maxsize=20_000)
def normal(text: str) -> str:
    """An answer as vqaEval.py compares it: "The two  Dogs." -> "2 dogs".

    A mark beside a space vanishes, one between letters becomes a space; where digits hold a
    comma ("1,000") every mark vanishes. Then lower case, number words, articles, contractions.
    """
    joined = DIGITS_COMMA.search(text)
    out = " ".join(text.split())
    for mark in MARKS:
        beside_space = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if joined or beside_space else " ")
    words = (DIGITS.get(word, word) for word in FULL_STOP.sub("", out).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def same(answer: str, truth: str) -> bool:
    return normal(answer) == normal(truth)


def token_f1(answer: str, truth: str) -> float:
    """Harmonic mean of precision and recall of the normalised words, as SQuAD's F1."""
    said, there = (Counter(normal(text).split()) for text in (answer, truth))
    both = sum((said & there).values())
    return 2 * both / (said.total() + there.total()) if both else float(said == there)


def vqa_accuracy(answer: str, humans: Sequence[str]) -> float:
    """VQAv2: min(agreeing/3, 1) over nine of ten humans, averaged over who is left out.

    With fewer than ten (GQA, own data: one) it is 1 for an answer that any of them gave. Both
    sides are always normalised; vqaEval.py leaves that out where all ten agree to the letter.
    """
    agree = [same(answer, human) for human in humans]
    if len(humans) < HUMANS:
        return float(any(agree))
    return mean(min((sum(agree) - own) / 3, 1.0) for own in agree)


# ---- yes and no ----------------------------------------------------------------------------------

def said_yes(answer: str) -> bool:
    """POPE's rule: no, where "No", "no" or "not" is a word of the first sentence; else yes.

    The rule is the official one, and so silence and babble are a yes: read the share of yes.
    """
    words = answer.split(".")[0].replace(",", "").split()
    return not {"No", "no", "not"} & set(words)


def pope(answers: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
    """{"accuracy", "precision", "recall", "f1", "yes_rate"}; truths: "yes" or "no".

    Precision and recall of the yes; each is 0 where nothing was there to find.
    """
    pairs = [(said_yes(a), normal(t) == "yes") for a, t in zip(answers, truths, strict=True)]
    hits, said, there = (sum(v) for v in zip(*((a and t, a, t) for a, t in pairs)))
    return {"accuracy": mean(a == t for a, t in pairs), "precision": hits / max(1, said),
            "recall": hits / max(1, there), "f1": 2 * hits / max(1, said + there),
            "yes_rate": mean(a for a, _ in pairs)}


def true_false(answers: Sequence[str], truths: Sequence[str]) -> float:
    """VSR: the share of answers that say the right one of "true" and "false", and not both."""
    return mean({word.lower() for word in TRUE_FALSE.findall(answer)} == {normal(truth)}
                for answer, truth in zip(answers, truths, strict=True))


# ---- region recognition --------------------------------------------------------------------------

def nearest_name(answer: str, names: Sequence[str],
                 embed: Callable[[str], Tensor] | None = None) -> str | None:
    """The class name most like a free answer, None where it is like none of them.

    embed: text -> a vector [D] of length 1 (or 0: no word known); likeness is the cosine.
    Without it, and among equals, the F1 of the words decides. The paper compares the answer
    with "an image of a [CLASS]" by Sentence-BERT (PVIT Table 1), a third model that this
    repository does not ask for: numbers are close to the paper's, not the same.
    """
    if not names:
        raise ValueError("no class names to choose from")

    def likeness(name: str) -> tuple[float, float]:
        words = token_f1(answer, name)
        return (float(embed(normal(answer)) @ embed(normal(name))) if embed else words), words
    best = max(names, key=likeness)
    return best if likeness(best)[0] > 0 else None


def recognition(answers: Sequence[str], truths: Sequence[str],
                embed: Callable[[str], Tensor] | None = None) -> float:
    """The share of answers whose nearest name is the true one; the classes: all truths."""
    names = sorted({normal(truth) for truth in truths})
    nearest = {answer: nearest_name(answer, names, embed) for answer in set(answers)}
    return mean(nearest[a] == normal(t) for a, t in zip(answers, truths, strict=True))


# ---- captions ------------------------------------------------------------------------------------

Vector = list[dict[tuple[str, ...], float]]  # for n = 1..4: n-gram -> its weight


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]],
          sigma: float = 6.0) -> float:
    """CIDEr-D of one candidate a picture against all of its references, the mean over pictures.

    n-grams of 1 to 4 words, weighed by count and rarity: log(pictures / pictures whose
    references have it), so one picture alone scores 0. As in cider_scorer.py, counts are not
    divided by the length: the cosine does that, but the clipping sees them.
    Words: lower case, no punctuation. The official scores take PTB's tokenizer (Java) and
    differ slightly, in clitics ("man's") and the like.
    """
    there = [[_grams(text) for text in texts] for texts in references]
    seen = Counter(gram for texts in there for gram in set().union(*texts))

    def weigh(counts: Counter) -> Vector:
        rare = {g: c * math.log(len(there) / max(1, seen[g])) for g, c in counts.items()}
        return [{g: w for g, w in rare.items() if len(g) == n} for n in (1, 2, 3, 4)]

    def score(said: Counter, texts: list[Counter]) -> float:
        return mean(_likeness(weigh(said), weigh(text)) * math.exp(
            -(_length(said) - _length(text)) ** 2 / (2 * sigma ** 2)) for text in texts)
    return mean(10 * score(_grams(said), texts)
                for said, texts in zip(candidates, there, strict=True))


def _grams(text: str) -> Counter:
    words = WORD.findall(text.lower())
    return Counter(tuple(words[i:i + n]) for n in (1, 2, 3, 4) for i in range(len(words) - n + 1))


def _length(counts: Counter) -> int:
    return sum(count for gram, count in counts.items() if len(gram) == 1)


def _likeness(said: Vector, text: Vector) -> float:
    """The mean over n of the clipped cosine: what is said more often than there adds nothing."""
    def one(a: dict, b: dict) -> float:
        dot = sum(min(weight, b[gram]) * b[gram] for gram, weight in a.items() if gram in b)
        norms = math.hypot(*a.values()) * math.hypot(*b.values())
        return dot / norms if norms else 0.0
    return mean(map(one, said, text))


def mean(values: Iterable[float]) -> float:
    """Of numbers or truths; ValueError for none."""
    if not (values := [float(v) for v in values]):
        raise ValueError("nothing to score")
    return sum(values) / len(values)
