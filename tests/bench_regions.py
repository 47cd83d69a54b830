"""How much faster is RoIAlign as two matrix products? `python tests/bench_regions.py`

One run, one thread, ratios: the plain loop over boxes, bins and samples against regions.py, and
torchvision's compiled kernel against it where that is installed. 7x7 bins, 32 channels.
"""

import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import torch  # noqa: E402
from test_regions import slow_roi_align  # noqa: E402

from lion_min.regions import roi_align  # noqa: E402

try:
    from torchvision.ops import roi_align as compiled
except ImportError:
    compiled = None


def seconds(pool, features, rois, repeat: int) -> tuple[float, float]:
    """The best of `repeat` runs: (forward, forward and backward)."""
    best = [float("inf")] * 2
    for _ in range(repeat):
        features.grad = None
        start = time.perf_counter()
        out = pool(features, rois)
        middle = time.perf_counter()
        out.sum().backward()
        best = [min(b, t) for b, t in zip(best, (middle - start, time.perf_counter() - start))]
    return tuple(best)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rivals = {"plain loop": lambda f, r: slow_roi_align(f, r, 7, 1.0, 0, True)}
    if compiled:
        rivals["torchvision"] = lambda f, r: compiled(f, r, 7, 1.0, 0, True)
    for cells in (14, 50):
        for count in (1, 32, 1000):
            features = torch.randn(2, 32, cells, cells, requires_grad=True)
            corner, size = torch.rand(count, 2) * 0.5, torch.rand(count, 2) * 0.45 + 0.02
            boxes = torch.cat([corner, corner + size], 1) * cells
            rois = torch.cat([torch.randint(2, (count, 1)).float(), boxes], 1)
            own = seconds(lambda f, r: roi_align(f, r, 7), features, rois, 5)
            line = f"{cells}x{cells} map, {count:4d} boxes: ours {own[0] * 1e3:8.2f} ms"
            for name, pool in rivals.items():
                other = seconds(pool, features, rois, 1 if name == "plain loop" else 5)
                line += "".join(f" | {name} {kind} {theirs / mine:.1f} times ours" for kind, theirs,
                                mine in zip(("forward", "with backward"), other, own))
            print(line, flush=True)


if __name__ == "__main__":
    main()
