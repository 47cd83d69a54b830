"""Checks box_iou.py against check_box and iou of lion_min/boxes.py."""

import torch
from checking import check

from lion_min import boxes


def test_to_fractions(student):
    want, _ = boxes.check_box([16, 8, 48, 24], 64, 32)
    got = student.to_fractions([16, 8, 48, 24], 64, 32)
    check(tuple(got) == want, f"[16, 8, 48, 24] of a 64x32 picture is {want}, not {tuple(got)}: x is "
          "a fraction of the width, y of the height")


def test_iou(student):
    a = (0.0, 0.0, 0.5, 0.5)
    for b, case in ((a, "the same box"), ((.25, 0, .75, .5), "half of it moved out"),
                    ((.1, .1, .2, .4), "a box inside"), ((.6, .6, .9, .9), "a box that does not meet it"),
                    ((.1, .7, .4, .9), "a box below it")):
        want, got = float(boxes.iou(torch.tensor(a), torch.tensor(b))), student.iou(a, b)
        check(abs(got - want) < 1e-5, f"IoU of {a} with {b}, {case}: {got:.3f} instead of {want:.3f}")
