"""Solution."""


def merged(W, down, up, alpha):
    return W + alpha / len(down) * up @ down
