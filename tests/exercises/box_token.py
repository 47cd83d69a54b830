"""Chapter 17: the frame of PVIT's box embedding.

Beside what is in the box, the region's token says where the box is: X_R + W_box b, with b in xyxy
fractions of the picture as the user sees it. Its size in pixels must not matter, nor the square to
which the encoder squashes it.
"""

from torch import Tensor, nn


def box_token(feature: Tensor, pixels: list[float], width: int, height: int, bbox_fc: nn.Linear) -> Tensor:
    """feature [D], a box in xyxy pixels of a picture of width x height, bbox_fc 4 -> D: the token [D]."""
    raise NotImplementedError
