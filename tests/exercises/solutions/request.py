"""Solution."""


def requests(hidden, linear, n):
    return linear(hidden).unflatten(-1, (n, -1))


def point(R, image):
    image = image.repeat_interleave(len(R) // len(image), 0)                   # [S, N, c]
    weights = (R @ image.transpose(1, 2) / R.shape[-1] ** 0.5).softmax(-1)
    return weights, weights @ image
