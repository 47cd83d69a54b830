"""Records of tensors that have a row for each picture or sample."""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """What such a dataclass can do; a field may also be None or no tensor."""

    def pick(self, rows: Tensor | list[int]) -> Rows:
        """These rows [R] alone, in this order."""
        return type(self)(*(None if v is None else v[rows] for v in vars(self).values()))

    def to(self, device: torch.device | str) -> Rows:
        return type(self)(*(v.to(device) if isinstance(v, Tensor) else v
                            for v in vars(self).values()))
