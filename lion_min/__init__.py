"""lion_min: four region-aware multimodal LLMs, each whole, in one small PyTorch package."""

import os

LFS = b"version https://git-lfs.github.com/spec/"
__version__ = "0.1.0"


class BadInput(ValueError):
    """A user's mistake, told in one line: what was given, what is wrong, how to mend it.

    The command lines print it to stderr and exit with code 2; no traceback, nothing written.
    """


def check_file(path, name: str = "") -> None:
    """BadInput, by its true cause, for a path that is no file with something to read in it.

    name: what the message calls it, such as "image 'cat.png'"; default: the path. A pointer of
    git-lfs stands where a repository was cloned without its large files.
    """
    name = name or str(path)
    if not os.path.exists(path):
        raise BadInput(f"{name}: no such file; check the path")
    if os.path.isdir(path):
        raise BadInput(f"{name}: is a folder, not a file; give the file in it")
    if not os.path.isfile(path):  # a pipe, which would wait for ever
        raise BadInput(f"{name}: not a file; give one that lies on the disk")
    if not os.access(path, os.R_OK):
        raise BadInput(f"{name}: may not be read; change its permissions")
    with open(path, "rb") as file:
        start = file.read(len(LFS))
    if not start:
        raise BadInput(f"{name}: the file is empty; save or download it again")
    if start == LFS:
        raise BadInput(f"{name}: is a pointer of git-lfs, not the file itself; get it with "
                       "git lfs pull")


def load(*args, **options):
    """A trained system, ready for `.ask(image, prompt)`: see lion_min.launch.load."""
    from lion_min import launch
    return launch.load(*args, **options)
