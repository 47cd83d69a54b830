"""Solution."""


def block(x, y, attention, cross, ffn, norms):
    x = norms[0](x + attention(x, x))
    x = norms[1](x + cross(x, y))
    return norms[2](x + ffn(x))
