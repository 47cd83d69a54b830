"""Opens the pickles that data sets come in, RefCOCO's `refs(unc).p`, and can do nothing else.

A pickle is a program for a small stack machine, and some of its instructions import and call
whatever the file names: opening one from the network with `pickle.load` runs its author's code.
The machine below has only the instructions that build lists, tuples, dicts, text and numbers.
Nothing in it looks up a name or calls a value, so a hostile file finds nothing to reach for.
`pickletools`, of the standard library, takes the bytes apart into instructions and runs none.
"""

from __future__ import annotations

import pickletools
import reprlib
from collections.abc import Callable
from pathlib import Path

from lion_min import BadInput

MAX_BYTES = 200_000_000  # RefCOCO's own files are below 50 MB
SCALARS = (str, int, float, type(None))  # what a key may be: hashing nested tuples can take years


def show(value: object) -> str:
    """A value in at most 60 characters: repr() of a small tangled pickle can fill the memory."""
    try:
        return _SHORT.repr(value)[:60]
    except ValueError:  # Python prints no number of more than 4,300 digits
        return f"a huge {type(value).__name__}"


_SHORT = reprlib.Repr()
_SHORT.maxlevel = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 4
_SHORT.maxlong = _SHORT.maxstring = _SHORT.maxother = 50


class Machine:
    """The stack, where its open brackets are, and the values the program refers back to."""

    def __init__(self) -> None:
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}  # a dict: index 2**31 costs one entry, not 16 GB

    def push(self, value: object) -> None:
        self.stack.append(value)

    def note(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def items(self) -> list:
        """Take everything pushed since the last mark."""
        start = self.marks.pop()
        taken, self.stack[start:] = self.stack[start:], []
        return taken

    def last(self, count: int) -> list:
        """Take the topmost `count` values."""
        if count > len(self.stack):
            raise ValueError("the stack is empty")
        taken, self.stack[-count:] = self.stack[-count:], []
        return taken

    def extend(self, values: list) -> None:
        """Append to the list on top."""
        if type(self.stack[-1]) is not list:
            raise ValueError("appends to what is no list")
        self.stack[-1].extend(values)

    def update(self, values: list) -> None:
        """Put key, value, key, value, ... into the dict on top."""
        if type(self.stack[-1]) is not dict:
            raise ValueError("sets an entry of what is no dict")
        if len(values) % 2 or not all(isinstance(key, SCALARS) for key in values[::2]):
            raise ValueError("a key is missing, or is neither text nor a number")
        self.stack[-1].update(zip(values[::2], values[1::2]))

    def new_dict(self, values: list) -> None:
        self.push({})
        self.update(values)


VALUES = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
          "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
          "BINUNICODE8")
# Every instruction there is here, of protocols 0 to 5: name -> what it does with its argument.
STEPS: dict[str, Callable[[Machine, object], None]] = {
    **dict.fromkeys(VALUES, Machine.push),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, i: m.push(m.memo[i])),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Machine.note),
    "MEMOIZE": lambda m, _: m.note(len(m.memo)),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "LIST": lambda m, _: m.push(m.items()),
    "DICT": lambda m, _: m.new_dict(m.items()),
    "TUPLE": lambda m, _: m.push(tuple(m.items())),
    "TUPLE1": lambda m, _: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.last(3))),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.items()),
    "SETITEM": lambda m, _: m.update(m.last(2)),
    "SETITEMS": lambda m, _: m.update(m.items()),
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
}


def read_plain_pickle(file: Path | str) -> object:
    """The value that a pickle of plain data holds: lists, tuples, dicts, str, int, float, None.

    Raises BadInput, naming file and byte, for a pickle that holds or wants anything else (sets,
    bytes, arrays, objects, functions), is damaged, or is larger than MAX_BYTES. Nothing that the
    file names is ever imported or called. Values may be shared or contain themselves, as in any
    pickle: walk them by known fields, never to the bottom.
    """
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"{path}: no such file; check the path")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path}: {path.stat().st_size} bytes; a pickle of annotations "
                       f"has at most {MAX_BYTES}")
    return _run(path.read_bytes(), path)


def _run(program: bytes, path: Path) -> object:
    machine, place = Machine(), 0
    try:
        for op, argument, place in pickletools.genops(program):
            if op.name == "STOP":
                return machine.last(1)[0]
            if op.name not in STEPS:
                raise BadInput(f"{path}: byte {place} asks for {op.name} "
                               f"{show(argument)}; only lists, tuples, dicts, text and "
                               "numbers are opened, write it again as such or as .json")
            STEPS[op.name](machine, argument)
    except BadInput:
        raise
    except (ValueError, LookupError) as error:
        raise BadInput(f"{path}: no whole pickle from byte {place} on "
                       f"({str(error)[:100]}); download it again") from None
    raise BadInput(f"{path}: the pickle ends too early; download it again")
