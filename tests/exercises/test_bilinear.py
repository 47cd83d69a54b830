"""Checks bilinear.py against axis_weights."""

import torch
from checking import check, same

from lion_min.regions import axis_weights


def test_weights(student):
    for x, y in ((1.5, 2.5), (2.0, 1.25), (3.1, 0.9), (0.2, 3.9)):
        got = student.weights(x, y, 4)
        total = float(torch.as_tensor(got).sum())
        check(abs(total - 1) < 1e-4, f"the weights do not sum to 1: {total:.3f} at x={x}, y={y}")
        row, column = (axis_weights(torch.tensor([v - 0.1]), torch.tensor([v + 0.1]), 4, 1)[0, 0]
                       for v in (y, x))                    # one bin around the point, one sample
        same(got, row[:, None] * column, f"the weights [row, column] of x={x}, y={y}")
