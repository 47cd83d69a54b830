"""lion_min: four region-aware multimodal LLMs, each whole, in one small PyTorch package."""

__version__ = "0.1.0"


class BadInput(ValueError):
    """A user's mistake, told in one line: what was given, what is wrong, how to mend it.

    The command lines print it to stderr and exit with code 2; no traceback, nothing written.
    """


def load(*args, **options):
    """A trained system, ready for `.ask(image, prompt)`: see lion_min.launch.load."""
    from lion_min import launch
    return launch.load(*args, **options)
