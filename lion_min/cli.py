"""What the command lines share: one line and exit code 2 for bad input, 130 after Ctrl-C."""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from lion_min import BadInput

SYSTEMS = LION, PVIT, LYRICS, LMEYE = "lion", "pvit", "lyrics", "lmeye"
TITLES = {LION: "LION", PVIT: "PVIT", LYRICS: "Lyrics", LMEYE: "LMEye"}
MAX_SEED = 2**63 - 1
MAX_BAD = 0.05             # the share of bad records and pictures that is left out without a question
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3        # of glibc's malloc.h
PART_FLAGS = {                             # where a pretrained preset's parts lie
    "vision": "the preset's ViT: a folder instead of its name",
    "llm": "the preset's LLM, likewise",
    "regions": "PVIT's RegionCLIP, its official file; default: the ViT sees each box cut out",
    "detector": "Lyrics' Grounding-DINO, likewise a folder",
    "segmenter": "Lyrics' SAM, for masks of the detected boxes; default: no masks",
    "tower": "LMEye around FlanT5: the CLIP whose text tower interacts, likewise a folder"}
PART_OF = {"regions": PVIT, "detector": LYRICS, "segmenter": LYRICS, "tower": LMEYE}
# Those of lion_min.datasets, whose import would make --help slow.
FORMATS = ("samples", "coco", "captions", "refcoco", "vg", "vsr", "pope", "llava", "pvit")


class Parser(argparse.ArgumentParser):
    """Tells a mistake on the command line in one line, as every other bad input."""

    def error(self, message: str):
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")

    def _print_message(self, message: str, file=None):
        """As argparse, which passes over a full disk behind stdout."""
        (file or sys.stderr).write(message)


def whole(low: int, high: int = MAX_SEED) -> Callable[[str], int]:
    """An argparse type: a whole number from low to high."""
    limits = f"from {low} on" if high == MAX_SEED else f"from {low} to {high}"

    def number(text: str) -> int:
        if not re.fullmatch(r"\s*[+-]?[0-9]{1,20}\s*", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r:.40} is no whole number {limits}, in digits")
        return int(text)
    return number


def positive(text: str) -> float:
    """An argparse type: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no number above 0, such as 0.002 or 2e-3")
    return number


def training_flags(p: argparse.ArgumentParser) -> None:
    """The flags of every training command."""
    p.add_argument("--world", choices=("small", "medium", "rich"), default="medium",
                   help="default: medium")
    p.add_argument("--data", type=Path, metavar="PATH",
                   help="stages after 0: scenes of a folder, as python -m lion_min.scenes writes "
                        "them; the folder of a data set, as COCO's unpacks; or an annotation file")
    data_flags(p, FORMATS)
    p.add_argument("--steps", type=whole(1), metavar="K", help="default: the stage's own")
    p.add_argument("--batch-size", type=whole(1, 1024), metavar="B", help="scenes a step")
    p.add_argument("--accumulate", type=whole(1), metavar="K",
                   help="batches a step, one after another; default: 1")
    p.add_argument("--checkpointing", action="store_true",
                   help="recompute the LLM's layers in backward: less memory, more time")
    p.add_argument("--shard", action="store_true",
                   help="under torchrun: share one model among the processes, for one that is "
                        "larger than a GPU")
    p.add_argument("--lr", type=positive, metavar="X", help="highest learning rate")
    p.add_argument("--seed", type=whole(0), default=0, metavar="N")
    p.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    p.add_argument("--init", type=Path, metavar="DIR",
                   help="go on from a finished run of the same stage, with new steps, instead of "
                        "from the stage before it")
    p.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--precision", choices=("fp32", "bf16"),
                   help="default: the stage's own, fp32 on a CPU that is slow in bf16")


def part_flags(p: argparse.ArgumentParser) -> None:
    """The flags of every command that takes a pretrained preset's parts from the disk."""
    for name, told in PART_FLAGS.items():
        p.add_argument(f"--{name}", metavar="FILE" if name == "regions" else "DIR", help=told)


def sources(args: argparse.Namespace) -> dict[str, str]:
    """What part_flags were given; BadInput for one of another system, or an empty one."""
    given = {name: path for name in PART_FLAGS if (path := getattr(args, name)) is not None}
    for name, path in given.items():
        if not path:
            raise BadInput(f"--{name} '': is empty; name a place or leave it out")
        if (owner := PART_OF.get(name, args.system)) != args.system:
            raise BadInput(f"--{name}: belongs to {owner}; leave it out for {args.system}")
    return given


def data_flags(p: argparse.ArgumentParser, formats: tuple[str, ...]) -> None:
    """The flags of every command that reads photographs: how, and how many bad ones to leave out."""
    p.add_argument("--format", choices=formats,
                   help="of --data; default: by its files' names, instances*.json and so on")
    p.add_argument("--images", type=Path, metavar="DIR",
                   help="the folder of the photographs, where they are not beside --data")
    tags_flag(p)
    p.add_argument("--max-bad", type=share, default=MAX_BAD, metavar="X",
                   help="share of bad records and pictures that is left out; more stop the run; "
                        f"default: {MAX_BAD}")


def tags_flag(p: argparse.ArgumentParser) -> None:
    """The flag of every command in which LION may read tags of another tagger."""
    p.add_argument("--tags", type=Path, metavar="FILE",
                   help="LION's tags from outside: JSON lines of image, tags and scores, see "
                        "lion_min/datasets/tags.py; default: the tag head's")


def share(text: str) -> float:
    """An argparse type: a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return float(text)


def prepare() -> None:
    """Settings of the process: those of the environment count only before torch is imported."""
    keep_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Idle threads that spin starve the other process on a small machine: 60 ms became 2,400.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # More than four threads cost more than they bring at 1 M parameters.
    os.environ.setdefault("OMP_NUM_THREADS", str(min(4, cores or 1)))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if several():                                  # a process that has ended fills pages of C++ else
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


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


class Lines:
    """A stream for tqdm where stderr is no terminal: its bars as lines, each with its end."""

    def write(self, text: str) -> None:
        if line := text.strip():
            note(line)

    def flush(self) -> None:
        pass                                       # each line was flushed


def progress(iterable: Iterable, desc: str, total: int | None = None) -> Iterator:
    """Pass the elements on and say on stderr how many are done, once that takes over 3 seconds."""
    return progress_bar(iterable=iterable, desc=desc, total=total, leave=False, delay=3,
                        disable=os.environ.get("RANK", "0") != "0")


def progress_bar(**options):
    """tqdm's bar on a terminal; elsewhere, as in a log file, a line about every ten seconds."""
    from tqdm import tqdm                          # here, because --help is instant
    style = {"file": sys.stderr, "dynamic_ncols": True} if sys.stderr.isatty() else {
        "file": Lines(), "mininterval": 10, "miniters": 1, "bar_format":
            "{desc}: {n_fmt} of {total_fmt}{postfix}, {elapsed} so far, {remaining} to go"}
    return tqdm(**options | style)


# ---- how a command ends --------------------------------------------------------------------------

def command(parser: argparse.ArgumentParser, action: Callable[[argparse.Namespace], object],
            argv: list[str] | None = None) -> int:
    """Parse the command line and run `action` on its words; the exit code, see `guarded`."""
    def run() -> None:
        args = parser.parse_args(argv)
        prepare()
        action(args)

    return guarded(run)


def guarded(action: Callable[[], object]) -> int:
    """Run `action`; 0 when done, 2 after one line on stderr for bad input, 130 interrupted.

    What was printed is on its way when this returns: a full disk or a closed pipe behind stdout is
    bad input, too. SIGTERM is an interrupt. Defects leave with their traceback.
    """
    old = signal.getsignal(signal.SIGTERM)
    try:
        if old is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        check_streams()
        code = _code(action)
        sys.stdout.flush()
        return code
    except BadInput as error:
        return _ended(error)
    except BrokenPipeError:
        return _ended("stdout: was closed by its reader before everything was written")
    except OSError as error:                       # disk full, unwritable folder
        return _ended(f"{error.filename or 'output'}: {error.strerror or error}")
    except (RuntimeError, MemoryError) as error:
        if (cause := _cause(error)) is None:
            raise
        return _ended(cause)
    except KeyboardInterrupt:
        return _ended("interrupted", 130)
    finally:
        if old is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, old)
        _drop_unwritten()


def check_streams() -> None:
    """BadInput where stdout is closed. What a stream cannot encode, it shows as an escape."""
    if sys.stderr is None:                         # closed: print(file=None) would go to stdout
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        raise BadInput("stdout: is closed, so nothing can be answered; leave >&- out")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def note(line: str) -> None:
    """One line for the user on stderr, beside the answer; lost where stderr cannot be written."""
    with suppress(OSError):
        print(" ".join(line.split()), file=sys.stderr, flush=True)


def _code(action: Callable[[], object]) -> int:
    """0, or what argparse or a process that was started here ended with."""
    try:
        action()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 2
    return 0


def _cause(error: Exception) -> str | None:
    """What to tell of an error that is no defect of the code; torch's types by name, since an
    import would make --help slow."""
    text, kind = " ".join(str(error).split()), type(error).__name__
    if kind == "NonFinite":                        # of training.py
        return text
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate" in text:
        return f"out of memory ({text[:120]}); lower --batch-size or take a smaller preset"
    if several() and ("gloo" in text or kind.startswith("Dist")):
        return ("another process of this run has ended: its own line says why, or it was killed, "
                "as where memory runs out")
    return None


def _ended(cause: object, code: int = 2) -> int:
    """Tell why this process ends, unless another one of the run has told it first."""
    if not several() or _first_to_end():
        note(f"{cause}" if code == 130 else f"error: {cause}")
    return code


def several() -> bool:
    """Whether torchrun started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def _first_to_end() -> bool:
    parallel = sys.modules.get("lion_min.parallel")    # not loaded: all processes end alike
    return parallel.first_to_end() if parallel else os.environ.get("RANK", "0") == "0"


def _drop_unwritten() -> None:
    """Python flushes once more when it ends, and would fail with its own words and code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
