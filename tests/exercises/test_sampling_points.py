"""Checks sampling_points.py against axis_points."""

import torch
from checking import check, same

from lion_min.regions import axis_points


def test_points(student):
    for start, end, bins in ((0.5, 2.5, 2), (0.0, 4.0, 2), (1.2, 6.9, 3)):
        want = axis_points(torch.tensor([start]), torch.tensor([end]), bins)[0][0]
        box, got = f"a box from {start} to {end} in {bins} bins", student.points(start, end, bins)
        check(getattr(got, "shape", None) == want.shape,
              f"{box} has {want.shape[1]} points a bin (its width in cells, rounded up); the shape "
              f"should be {[*want.shape]}, not {[*getattr(got, 'shape', [])]}")
        off = float((got.mean() - (start + end - 1) / 2))
        check(abs(off) < 1e-4, f"{box}: the points are off its middle by {off:.3f} cells: each should "
              "be in the middle of its part, in index units")
        same(got, want, box)
