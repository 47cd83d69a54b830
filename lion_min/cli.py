"""What the command lines share: one line and exit code 2 for bad input, 130 after Ctrl-C."""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType

from lion_min import BadInput

# The doors of the house lead to its four rooms; those without a package are not built yet.
ROOMS = {"lion": "lion_min.lion", "pvit": "lion_min.pvit", "lyrics": "lion_min.lyrics",
         "lmeye": "lion_min.lmeye"}
MAX_SEED = 2**63 - 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3        # of glibc's malloc.h
# Those of datasets.py, whose import would make --help slow.
FORMATS = ("samples", "coco", "captions", "refcoco", "vg", "vsr", "pope", "llava", "pvit")


def room(system: str, part: str) -> ModuleType:
    """The module `part` of a system's room; BadInput for a system of a later release."""
    if not ROOMS[system]:
        ready = ", ".join(name for name, package in ROOMS.items() if package)
        raise BadInput(f"system {system}: arrives with its own release; so far there is {ready}")
    trips = {"published": f"lion_min.published.{system}", "tagging": "lion_min.pretrained.tagging"}
    return importlib.import_module(trips.get(part, f"{ROOMS[system]}.{part}"))


class Parser(argparse.ArgumentParser):
    """Tells a mistake on the command line in one line, as every other bad input."""

    def error(self, message: str):
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


def whole(low: int, high: int = MAX_SEED) -> Callable[[str], int]:
    """An argparse type: a whole number from low to high."""
    def number(text: str) -> int:
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return int(text)
    return number


def prepare() -> None:
    """Settings of the process: those of the environment count only before torch is imported."""
    keep_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Idle threads that spin starve the other process on a small machine: 60 ms became 2,400.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # More than four threads cost more than they bring at 1 M parameters.
    os.environ.setdefault("OMP_NUM_THREADS", str(min(4, cores or 1)))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def keep_memory() -> None:
    """Keep freed memory for the next tensor.

    glibc gives large blocks back at once and gets the next one page by page, each zeroed: a
    training step of tensors of 30 MB took up to twice as long. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):   # macOS, musl; Windows
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 28)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def guarded(action: Callable[[], object]) -> int:
    """Run `action`; 0 when done, 2 after one line on stderr for bad input, 130 interrupted."""
    try:
        action()
        return 0
    except BadInput as error:
        return _told(error)
    except OSError as error:                       # disk full, unwritable folder, broken pipe
        return _told(f"{error.filename or 'output'}: {error.strerror or error}")
    except RuntimeError as error:
        if type(error).__name__ != "NonFinite":    # of training.py, which this may not import:
            raise                                  # torch would make --help slow
        return _told(error)
    except KeyboardInterrupt:
        _print("interrupted")
        return 130


def _told(message: object) -> int:
    _print("error: " + " ".join(str(message).split()))
    return 2


def _print(line: str) -> None:
    """To stderr; under torchrun all processes fail alike, and the first one speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)
