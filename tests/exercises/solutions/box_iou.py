"""Solution."""


def to_fractions(box, width, height):
    x1, y1, x2, y2 = box
    return x1 / width, y1 / height, x2 / width, y2 / height


def iou(a, b):
    wide = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both, (area_a, area_b) = wide * high, ((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b))
    return both / (area_a + area_b - both)
