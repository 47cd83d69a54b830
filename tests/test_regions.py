"""RoIAlign by hand against a plain loop, against Detectron2's values, and by its gradient."""

import doctest
import itertools
import math
import random

import pytest
import torch

from lion_min import regions
from lion_min.regions import axis_points, axis_weights, pool_regions, roi_align


def slow_roi_align(features, rois, size, scale, ratio, aligned):
    """The definition, one sample after the other; nothing shared with the module under test."""
    out = torch.zeros(len(rois), features.shape[1], size, size, dtype=features.dtype)
    for r, (b, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (v * scale - (0.5 if aligned else 0) for v in corners)
        w, h = (side if aligned else max(side, 1) for side in (x2 - x1, y2 - y1))
        gx, gy = (ratio or math.ceil(side / size) for side in (w, h))
        for s, t, i, j in itertools.product(range(size), range(size), range(gy), range(gx)):
            y = y1 + s * h / size + (i + .5) * h / size / gy
            x = x1 + t * w / size + (j + .5) * w / size / gx
            out[r, :, s, t] += slow_bilinear(features[int(b)], y, x)
        out[r] /= max(gy * gx, 1)
    return out


def slow_bilinear(image, y, x):
    C, H, W = image.shape
    if y < -1 or y > H or x < -1 or x > W:
        return torch.zeros(C, dtype=image.dtype)
    y, x = min(max(y, 0), H - 1), min(max(x, 0), W - 1)
    top, left = int(y), int(x)
    low, right = min(top + 1, H - 1), min(left + 1, W - 1)
    dy, dx = y - top, x - left
    return ((1 - dy) * ((1 - dx) * image[:, top, left] + dx * image[:, top, right])
            + dy * ((1 - dx) * image[:, low, left] + dx * image[:, low, right]))


def odd_boxes(count, H, W, scale):
    """Boxes of every kind, in units of 1/scale."""
    rng, rows = random.Random(11), []
    for i in range(count):
        (x1, x2), (y1, y2) = (sorted((rng.uniform(-.1, 1.1), rng.uniform(-.1, 1.1))) for _ in "xy")
        box = [
            (x1, y1, x2, y2), (0, 0, x2, y2), (x1, y1, 1, 1),            # inside, touching a corner
            (x1 - 3, y1 - 3, x2 + 3, y2 + 3), (x1 + 2, y1, x2 + 2, y2),  # mostly, wholly outside
            (x1, y1, x1 + 1 / W * scale, y1 + 1 / H * scale), (x1, y1, x1, y2),  # a pixel, no area
            [round(v * 8) / 8 for v in (x1, y1, x2, y2)]][i % 8]         # on the grid
        rows.append([rng.randrange(2), *(v * side / scale for v, side in zip(box, (W, H, W, H)))])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("sampling_ratio, aligned", [(0, True), (2, True), (0, False), (3, False)])
def test_agrees_with_the_plain_loop(sampling_ratio, aligned, monkeypatch):
    """Guards: any slip of sampling grid, edge rule, divisor or axis order, over 100 odd boxes."""
    torch.manual_seed(0)
    monkeypatch.setattr(regions, "CHUNK_ELEMENTS", 20_000)  # many chunks: order must survive
    features = torch.randn(2, 3, 8, 11, dtype=torch.float64)
    rois = odd_boxes(100, 8, 11, 1 / 4)
    ours = roi_align(features, rois, 3, 1 / 4, sampling_ratio, aligned)
    slow = slow_roi_align(features, rois, 3, 1 / 4, sampling_ratio, aligned)
    assert slow.abs().sum((1, 2, 3)).count_nonzero() > 60  # the table is not all zeros
    torch.testing.assert_close(ours, slow, rtol=0, atol=1e-12)


def test_points_are_the_ones_weighed():
    """Guards: a picture of points (drawing.py) that RoIAlign does not read, or fewer than it does;
    points of a long box that are left in a short one's row."""
    start, end = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)).sort(1).values.T
    start[:3], end[:3] = torch.tensor([0.1, 0.0, 0.3]), torch.tensor([0.475, 1.0, 0.3])
    points, counts = axis_points(start * 8, end * 8, bins=3)  # [R, S, G]; 0.1 + 3/8 is on the edge
    weights = axis_weights(start * 8, end * 8, cells=8, bins=3)
    assert counts[1:3].tolist() == [3, 0] and len(set(counts.tolist())) == 4
    for samples, count, shares in zip(points, counts.tolist(), weights):
        samples = samples[samples.isfinite()].view(3, -1)  # [S, g]
        hat = (1 - (samples.clamp(0, 7)[..., None] - torch.arange(8)).abs()).clamp(min=0)
        assert samples.shape[1] == count
        torch.testing.assert_close(hat.sum(1) / max(1, count), shares, rtol=0, atol=1e-5)


def test_boxes_without_cells_and_wrong_boxes():
    """Guards: the 0/0 of a slice-and-mean, edge cells smeared far outside the map; a sample without
    regions crashing the batch; a batch index of -1 wrapping round."""
    features = torch.ones(2, 3, 4, 4)
    rois = torch.tensor([[0, 1, 1, 1, 3], [0, 2, 2, 2, 2], [0, 9, 9, 12, 12], [0, -9, 0, -6, 4.]])
    assert roi_align(features, rois, 2).eq(0).all()
    assert roi_align(features, torch.tensor([[0, 0, 0, 4, 4.]]), 3).eq(1).all()  # rows sum to 1
    assert roi_align(features, torch.zeros(0, 5), 2).shape == (0, 3, 2, 2)
    for wrong in ([0, 0, 1, 1.], [-1, 0, 0, 1, 1.], [2, 0, 0, 1, 1.]):
        with pytest.raises(ValueError, match="rois"):
            roi_align(features, torch.tensor([wrong]), 2)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradcheck(sampling_ratio):
    """Guards: a detached or wrongly weighted gradient; the region branch would train on noise."""
    torch.manual_seed(1)
    features = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, .3, .7, 3.9, 3.1], [1, -1, -1, 6, 5], [1, 2, 2, 2, 3]]).double()
    pool = lambda f: roi_align(f, rois, 3, sampling_ratio=sampling_ratio)
    assert torch.autograd.gradcheck(pool, features)


def test_half_precision_is_pooled_in_float32():
    """Guards: autocast turning the two products into bfloat16 (torchvision forbids it, too)."""
    torch.manual_seed(2)
    features, rois = torch.randn(1, 4, 8, 8), torch.tensor([[0, .3, 1.2, 6.9, 7.7]])
    exact = roi_align(features, rois, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align(features, rois, 3), exact)
    half = roi_align(features.bfloat16(), rois, 3)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, roi_align(features.bfloat16().float(), rois, 3).bfloat16())


def test_pool_regions_finds_its_box():
    """Guards: x and y exchanged, the half-cell slide, states read in the wrong order or image."""
    side, D = 8, 3
    centres = (torch.arange(side) + .5) / side
    row, column = torch.meshgrid(centres, centres, indexing="ij")
    patches = torch.stack([column, row, torch.ones(side, side)], -1).view(-1, D)  # [64, D]
    states = torch.stack([patches, -patches])  # [2, 64, D]: where each patch is
    boxes = torch.tensor([[.25, .5, .75, .75], [.1, .2, .9, .5]])
    pooled = pool_regions(states, boxes, torch.tensor([0, 1]), 2)  # [2, 4, D]
    for (x1, y1, x2, y2), tokens, sign in zip(boxes.tolist(), pooled, (1, -1)):
        bins = [(x1 + (x2 - x1) * u, y1 + (y2 - y1) * v) for v in (.25, .75) for u in (.25, .75)]
        expected = sign * torch.tensor([[x, y, 1] for x, y in bins])  # bin centres, row by row
        torch.testing.assert_close(tokens, expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="CLS"):
        pool_regions(torch.zeros(1, 65, D), boxes[:1], torch.tensor([0]), 2)


def test_a_region_token_knows_how_large_its_box_was():
    """Guards: a small object taken for its large neighbour, for their pooled bins look alike."""
    torch.manual_seed(0)
    project, pooled = regions.RegionToken(8, 4), torch.randn(1, 8).expand(3, -1)
    boxes = torch.tensor([[.2, .2, .4, .4], [.2, .2, .5, .5], [.3, .2, .5, .4]])
    tokens = project(pooled, boxes)
    assert tokens.shape == (3, 4)
    assert (tokens[0] - tokens[1]).abs().max() > 0.01 < (tokens[0] - tokens[2]).abs().max()
    torch.testing.assert_close(project(pooled[:1], boxes[:1]), tokens[:1])
    assert not torch.allclose(project(-pooled, boxes), tokens)


@pytest.mark.parametrize("features, rois, size, expected", [
    *(("in/roi_table_features", "in/roi_table_rois", size, f"out/roi_table_{size}")
      for size in (7, 18)),
    ("out/res4", "in/rois_batch_xyxy", 4, "out/roi_crops_4x4")])
def test_parity_roi(reference, features, rois, size, expected):
    """Guards: a drift from torchvision's RoIAlign as PVIT uses it (pvit.md 7); the batch index or
    the padded scale 1/16 read wrongly (map not divisible by 16)."""
    values = reference("pvit")
    ours = roi_align(values[features], values[rois], size, 1 / 16)
    torch.testing.assert_close(ours, values[expected], rtol=0, atol=1e-6)


def test_the_worked_example_is_true():
    """Guards: the 4x4 example of the module's docstring going stale."""
    results = doctest.testmod(regions)
    assert results.attempted == 3 and results.failed == 0
