"""Matching, losses and scores of the tiny refiner's detector, against values worked out by hand."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lion_min.lyrics.detection_loss import (assign, detection_parts, focal, giou, mask_parts, match,
                                            scene_masks, truth_of)
from lion_min.lyrics.detection_scores import LabelledBoxes, average_precision, mask_iou, segment_iou
from lion_min.lyrics.refiner import Detections, Refined
from lion_min.scenes import WORLDS, Scene, Thing, make_scene

WORLD = WORLDS["small"]
TAGS = (*WORLD.colours, *WORLD.kinds)
SCENES = [make_scene(WORLD, "train", 7, i) for i in range(24)]


def tensor(*rows) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def price(cost, columns) -> float:
    return sum(row[c] for row, c in zip(cost, columns))


def test_assignment_is_the_cheapest():
    """Bug: a greedy or otherwise not optimal assignment; ties and negative costs included. A
    picture without objects crashes; more objects than queries pass in silence."""
    for seed in range(40):
        rng = random.Random(seed)
        n, m = rng.randint(1, 5), rng.randint(5, 7)
        draw = (lambda: rng.randint(-2, 2)) if seed % 2 else (lambda: rng.uniform(-5, 5))
        cost = [[draw() for _ in range(m)] for _ in range(n)]
        columns = assign(cost)
        best = min(price(cost, p) for p in itertools.permutations(range(m), n))
        assert len(set(columns)) == n, seed
        assert math.isclose(price(cost, columns), best, abs_tol=1e-9), seed
    assert assign([]) == []
    assert assign([[1.0, 0.0], [5.0, 0.0]]) == [0, 1]               # greedy would pay 5
    with pytest.raises(ValueError, match="2 objects"):
        assign([[0.0], [0.0]])


def test_giou_and_focal_by_hand():
    """Bug: the enclosing box's term missing or with the wrong sign; the weight of positives given
    to negatives, or easy cases not played down."""
    others = tensor([0, 0, 2, 2], [1, 0, 3, 2], [4, 0, 6, 2], [1, 1, 3, 3])
    want = tensor(1, 2 / 6, 0 - 4 / 12, 1 / 7 - 2 / 9)
    assert torch.allclose(giou(tensor([0, 0, 2, 2]), others), want, rtol=1e-6)
    got = focal(tensor(0.0, 0.0, 4.0), tensor(1.0, 0.0, 1.0))
    easy = 1 - 1 / (1 + math.exp(-4))
    want = [0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2),
            0.25 * easy ** 2 * -math.log(1 - easy)]
    assert torch.allclose(got, tensor(*want), atol=1e-7)


def perfect(scenes: list[Scene], queries: int = 6) -> tuple[Detections, object]:
    """Guesses that say the truth in reverse order behind one query of nothing."""
    truth = truth_of(scenes, TAGS, 32, "cpu")
    logits = torch.full((len(scenes), queries, len(TAGS)), -20.0)
    boxes = torch.full((len(scenes), queries, 4), 0.5)
    for b, count in enumerate(truth.counts):
        for t in range(count):
            logits[b, count - t] = truth.words[b, t] * 40 - 20
            boxes[b, count - t] = truth.boxes[b, t]
    return Detections(logits, boxes, logits), truth


def test_perfect_guesses_match_and_cost_nothing():
    """Bug: matched rows and true rows in different orders; padding objects in the loss; a tag that
    the prompt lacks (-inf) makes the loss infinite or NaN."""
    guess, truth = perfect(SCENES)
    matched = match(guess, truth)
    assert matched == [list(range(n, 0, -1)) for n in truth.counts]
    assert all(abs(float(v)) < 1e-4 for v in detection_parts(guess, truth, matched).values())
    wrong = [own[::-1] for own in matched]
    assert all(float(v) > 0.1 for v in detection_parts(guess, truth, wrong).values())
    guess.logits[..., 0] = -torch.inf
    assert detection_parts(guess, truth, match(guess, truth))["words"].isfinite()


def test_masks_by_hand():
    """Bug: the dice of a batch instead of a mask; an empty batch is NaN. Of the score: two empty
    masks NaN; a mean over pixels."""
    logits, truth = torch.full((2, 2, 2), 100.0), torch.zeros(2, 2, 2)
    truth[0] = 1
    parts = mask_parts(logits, truth)
    assert math.isclose(parts["dice"], (0 + 1 - 1 / 5) / 2, rel_tol=1e-6)
    assert math.isclose(parts["mask"], 50, rel_tol=1e-6)
    assert all(v == 0 for v in mask_parts(logits[:0], truth[:0]).values())
    a, b = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    a[0, :2], b[0, 1:3] = True, True                                  # 4 of 12
    a[1], b[1] = True, True
    assert torch.allclose(mask_iou(a, b), tensor(1 / 3, 1, 0))


def test_truth_marks_size_and_texture():
    """Bug: a refiner that is asked for sizes and textures and never told which are right; a word
    of one object marked at another's."""
    things = (Thing("square", "red", "large", "plain", (0.25, 0.5, 0.5, 0.75)),
              Thing("ring", "blue", "small", "striped", (0.5, 0.0, 0.75, 0.25)))
    words = ("small", "large", "striped", *TAGS)
    truth = truth_of([Scene(WORLD, things, "x"), Scene(WORLD, things[1:], "x")], words, None, "cpu")
    assert truth.words.shape == (2, 2, len(words)) and truth.counts == [2, 1]
    marked = [[{w for w, yes in zip(words, row) if yes} for row in own]
              for own in truth.words.tolist()]
    ring = {"small", "striped", "blue", "ring"}
    assert marked == [[{"large", "red", "square"}, ring], [ring, set()]]


def test_scene_masks_are_the_drawn_pixels():
    """Bug: masks mirrored, moved by a pixel, or of the box instead of the shape."""
    square = Thing("square", "red", "large", "plain", (0.25, 0.5, 0.5, 0.75))
    ring = Thing("ring", "red", "large", "plain", (0.5, 0.0, 0.75, 0.25))
    masks = scene_masks(Scene(WORLD, (square, ring), "x"), 32)
    assert masks.shape == (2, 32, 32)
    want = torch.zeros(32, 32)
    want[16:24, 8:16] = 1
    assert torch.equal(masks[0], want)
    assert masks[1, 4, 20] == 0 and masks[1, 4, 16] > 0.5 and masks[1, 0, 16] < 0.5
    assert scene_masks(Scene(WORLD, (), "x"), 32).shape == (0, 32, 32)


def found(*rows) -> LabelledBoxes:
    return LabelledBoxes(tensor(*(r[0] for r in rows)).view(-1, 4), [r[1] for r in rows],
                 [r[2] for r in rows])


def test_average_precision_by_hand():
    """Bug: recall over found objects, precision not made non-increasing, objects found twice."""
    a, b, c = [0, 0, 0.2, 0.2], [0.5, 0.5, 0.7, 0.7], [0.8, 0, 1, 0.2]
    true = [LabelledBoxes(tensor(a, b), ["x", "y"]), LabelledBoxes(tensor(a), ["x"])]
    # By score: right, wrong (a again), right, wrong, right: precisions 1, 2/3, 3/5 at recalls.
    got = [found((a, "x", 0.9), (a, "x", 0.8), (c, "x", 0.6), (b, "x", 0.5)),
           found((a, "x", 0.7))]
    assert math.isclose(average_precision(got, true), (1 + 2 / 3 + 3 / 5) / 3)
    # With labels the last one is wrong (y, not x), and one object stays unfound.
    assert math.isclose(average_precision(got, true, with_labels=True), (1 + 2 / 3) / 3)
    # A late right one lifts nothing before it; an early wrong one lowers everything behind it.
    got = [found((c, "x", 0.9), (a, "x", 0.5), (b, "y", 0.4)), found((a, "x", 0.3))]
    assert math.isclose(average_precision(got, true), 3 / 4)          # envelope of 1/2, 2/3, 3/4


def test_average_precision_marks_and_empty_pictures():
    """Bug: the mark ignored; division by no object; a picture without found boxes left out; a
    found box takes the first true object it overlaps, not the nearest."""
    true = [LabelledBoxes(tensor([0, 0, 1, 1]), ["x"]), LabelledBoxes(tensor([0, 0, 1, 1]), ["x"])]
    got = [found(([0, 0, 1, 0.7], "x", 0.9)), LabelledBoxes(torch.zeros(0, 4), [])]
    assert average_precision(got, true, 0.65) == 0.5 and average_precision(got, true, 0.75) == 0
    none = [LabelledBoxes(torch.zeros(0, 4), [])]
    assert average_precision(none, none) == 1 and average_precision(got[:1], none) == 0
    true = [LabelledBoxes(tensor([0, 0, 1, 0.6], [0, 0, 1, 1]), ["x", "x"])]
    got = [found(([0, 0, 1, 0.9], "x", 0.9), ([0, 0, 1, 0.55], "x", 0.8))]
    assert average_precision(got, true, 0.6) == 1


def test_segments_are_scored_by_their_box():
    """Bug: masks and boxes of different rows; an unfound object left out of the mean."""
    two = next(s for s in SCENES if len(s.objects) == 2)
    truth = scene_masks(two, 32) * 2 - 1
    boxes = tensor(*(t.box for t in two.objects))
    told = Refined([[]], boxes.flip(0)[None], tensor([0.9, 0.8]), [["", ""]], torch.zeros(1, 2, 1),
                   torch.tensor([[True, True]]), truth.flip(0)[None])
    assert segment_iou(told, [two]) == 1
    assert segment_iou(replace(told, mask=torch.tensor([[True, False]])), [two]) == 0.5
    assert segment_iou(replace(told, segments=truth[None]), [two]) == 0
