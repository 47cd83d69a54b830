"""Chapter 12: a box from pixels to fractions, and the overlap of two boxes.

IoU(A, B) = |A and B| / |A or B|; LION's REC counts an answer as right from 0.5 on. Boxes that do
not meet have IoU 0, also where they miss each other on both axes.
"""


def to_fractions(box: list[float], width: int, height: int) -> tuple[float, ...]:
    """xyxy pixels of a picture of width x height -> xyxy fractions of it."""
    raise NotImplementedError


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Two xyxy boxes in the same unit -> a number from 0 to 1."""
    raise NotImplementedError
