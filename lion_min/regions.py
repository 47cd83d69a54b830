"""RoIAlign by hand: cut any box out of a feature map, to a fixed number of bins, exactly.

A feature map has few cells (8x8, 16x16), a box has corners anywhere; rounding the corners to
cells (RoIPool) moves them by up to half an object of the drawn world. RoIAlign (He et al., Mask
R-CNN, arXiv 1703.06870, sec. 3) rounds nothing: it divides the box into S x S bins, interpolates
the map bilinearly at a few points of every bin, and averages. Semantics: torchvision's roi_align,
which Detectron2's ROIAlignV2 calls (pvit.md 2.4).

**The frame.** The value of cell i is at its centre, i + 0.5 in units of cells. Subtracting 0.5
(`aligned=True`) turns a corner into index units; without it every box moves by half a cell.

**One axis.** A box from c1 to c2 (index units) has bins of width b = (c2 - c1) / S. Bin s has
g = ceil(b) points (adaptive: about one a cell) or a fixed number; a point's share of cell h is hat:

    p(s, a) = c1 + s b + (a + 1/2) b / g,   a = 0 .. g-1           hat(p, h) = max(0, 1 - |p - h|)

A point more than one cell outside the map (p < -1 or p > H) is zero; others move to the next cell.

**Two axes.** The bilinear share of cell (h, w) is hat(y, h) hat(x, w), and the points of a bin
form a grid, so their average factors into two small matrices a box, without any loop:

    crop[s, t] = sum_h sum_w  Y[s, h] X[t, w] map[h, w],    Y[s, h] = 1/g_y sum_a hat(y(s, a), h)

**By hand**, on a 4x4 map with map[h, w] = 4 h + w: a box from (0.5, 1) to (2.5, 3) in cells, 2x2
bins: g = 1, the points are x = 0.5, 1.5 (halfway between two cells) and y = 1, 2 (on one):

>>> axis_weights(torch.tensor([0.5]), torch.tensor([2.5]), cells=4, bins=2)[0]  # X
tensor([[0.5000, 0.5000, 0.0000, 0.0000],
        [0.0000, 0.5000, 0.5000, 0.0000]])
>>> axis_weights(torch.tensor([1.0]), torch.tensor([3.0]), cells=4, bins=2)[0]  # Y
tensor([[0., 1., 0., 0.],
        [0., 0., 1., 0.]])
>>> roi_align(torch.arange(16.).view(1, 1, 4, 4), torch.tensor([[0, 0.5, 1, 2.5, 3]]), 2)[0, 0]
tensor([[4.5000, 5.5000],
        [8.5000, 9.5000]])

Symbols: B batch, C channels, H W cells of the map, R regions, S bins a side, G samples a bin,
N patches, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK_ELEMENTS = 1 << 25  # numbers held at a time while pooling: 128 MB of float32


def axis_points(start: Tensor, end: Tensor, bins: int, sampling_ratio: int = 0,
                aligned: bool = True) -> tuple[Tensor, Tensor]:
    """The points of each bin along one axis: [R], [R] -> (points [R, bins, G], counts [R]).

    start, end: the boxes' two sides in units of cells; points are in index units. A box has
    counts[r] points a bin and G is the most of all boxes: the rest of its row is infinite."""
    start, end = start - 0.5 * aligned, end - 0.5 * aligned
    # The older form (not aligned) widens a box thinner than one cell.
    width = (end - start if aligned else (end - start).clamp(min=1)) / bins  # [R], b
    counts = torch.full_like(width, sampling_ratio) if sampling_ratio else \
        width.ceil().clamp(min=0)  # [R], g; every box has its own
    most = int(counts.max()) if len(counts) else 0  # G
    a, s = (torch.arange(n, device=start.device, dtype=start.dtype) for n in (most, bins))
    # torchvision's order of operations: b / g first. Another moves points by float32's last digit.
    step = (a + 0.5) * (width / counts.clamp(min=1))[:, None]  # [R, G]
    points = (start[:, None] + s * width[:, None])[..., None] + step[:, None]  # [R, S, G]
    return points.masked_fill((a >= counts[:, None])[:, None], math.inf), counts


def axis_weights(start: Tensor, end: Tensor, cells: int, bins: int, sampling_ratio: int = 0,
                 aligned: bool = True) -> Tensor:
    """The share of every cell in each bin, along one axis: [R], [R] -> [R, bins, cells].

    A row sums to 1, or to less where the bin's points lie outside the map; an adaptive box of
    no extent has no points and its rows are zero (g = ceil(0) = 0), never NaN."""
    points, counts = axis_points(start, end, bins, sampling_ratio, aligned)
    used = (points >= -1) & (points <= cells)  # [R, S, G]; the infinite ones are not
    cell = torch.arange(cells, device=points.device, dtype=points.dtype)  # [cells]
    hat = 1 - (points.clamp(0, cells - 1)[..., None] - cell).abs()  # [R, S, G, cells]
    shares = hat.clamp(min=0) * used[..., None]  # [R, S, G, cells]
    return shares.sum(2) / counts.clamp(min=1)[:, None, None]  # [R, S, cells]


def roi_align(features: Tensor, rois: Tensor, output_size: int, scale: float = 1.0,
              sampling_ratio: int = 0, aligned: bool = True) -> Tensor:
    """Pool every box to output_size x output_size bins: [B, C, H, W], [R, 5] -> [R, C, S, S].

    rois: rows (image's index in the batch, x1, y1, x2, y2); coordinates times `scale` are cells.
    sampling_ratio: 0 takes ceil(bin size) samples per bin and axis, k > 0 takes k. A box of no
        extent gives zeros with 0; with k it has one point, k x k times (as in torchvision).
    Differentiable in the features, not in the boxes; half precision is pooled in float32."""
    if rois.ndim != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois must be [R, 5] = (batch index, x1, y1, x2, y2), got {rois.shape}")
    B, C, H, W = features.shape
    index = rois[:, 0].long()  # [R]
    if ((index < 0) | (index >= B)).any():  # -1 would silently be the last image
        raise ValueError(f"rois name image {index.min()} to {index.max()} of a batch of {B}")
    exact = torch.promote_types(features.dtype, torch.float32)
    sides = rois[:, 1:].detach().to(exact) * scale  # [R, 4], cells

    # Memory grows with the largest box times the number of boxes: chunks bound it.
    S, rest = output_size, (sampling_ratio, aligned)
    longest = (sides[:, 2:] - sides[:, :2]).max().item() if len(sides) else 0.0
    samples = sampling_ratio or math.ceil(max(longest, 1) / S)
    chunk = max(1, CHUNK_ELEMENTS // max(C * H * W, S * samples * max(H, W), 1))
    crops = [features.new_zeros(0, C, S, S)]
    with torch.autocast(features.device.type, enabled=False):
        for some, image in zip(sides.split(chunk), index.split(chunk)):
            x1, y1, x2, y2 = some.unbind(1)
            X = axis_weights(x1, x2, W, S, *rest)  # [r, S, W]
            Y = axis_weights(y1, y2, H, S, *rest)  # [r, S, H]
            maps = features[image].to(exact)  # [r, C, H, W]
            rows = torch.einsum("rsh,rchw->rcsw", Y, maps)  # [r, C, S, W]
            crops.append(torch.einsum("rtw,rcsw->rcst", X, rows).to(features.dtype))
    return torch.cat(crops)  # [R, C, S, S]


def pool_regions(states: Tensor, boxes: Tensor, index: Tensor, size: int) -> Tensor:
    """Pool boxes out of an encoder's patch states: [B, N, D], [R, 4], [R] -> [R, size*size, D].

    states: one block's patches, without CLS, row by row on a square grid; boxes: xyxy fractions
    of the image; index: the image each box belongs to. Bins come row by row, as the patches do."""
    B, N, D = states.shape
    side = math.isqrt(N)
    if side * side != N:
        raise ValueError(f"{N} patch states form no square grid; is the CLS state still there?")
    grid = states.transpose(1, 2).reshape(B, D, side, side)  # [B, D, side, side]
    rois = torch.cat([index[:, None].to(boxes.dtype), boxes * side], dim=1)  # [R, 5], cells
    return roi_align(grid, rois, size).flatten(2).transpose(1, 2)  # [R, size*size, D]


class RegionToken(nn.Module):
    """A box's pooled features and its position as one token: [R, P], [R, 4] -> [R, D].

    Pooling loses size and position; a layer over centre and size in eighths of the image adds them
    (as UNITER's location features, arXiv 1909.11740, or PVIT's bbox_fc). boxes: xyxy fractions."""

    def __init__(self, pooled: int, width: int, hidden: int = 128):
        super().__init__()
        self.norm = nn.LayerNorm(pooled)
        self.look, self.place = nn.Linear(pooled, hidden), nn.Linear(4, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, pooled: Tensor, boxes: Tensor) -> Tensor:
        low, high = boxes[:, :2], boxes[:, 2:]
        position = 8 * torch.cat([(low + high) / 2 - 0.5, high - low], 1)  # [R, 4]
        return self.out(F.gelu(self.look(self.norm(pooled)) + self.place(position)))
