"""Opens the pickles that data sets come in, RefCOCO's `refs(unc).p`, and runs none of their code.

A pickle is a program, and some of its instructions import and call whatever the file names:
opening one from the network with `pickle.load` runs its author's code. The reader below keeps
only the instructions that build lists, dicts, text and numbers.
"""

import io
import pickle
from functools import partial
from pathlib import Path

from lion_min import BadInput, check_file

MAX_BYTES = 200_000_000  # RefCOCO's own files are below 50 MB
BASE = pickle._Unpickler  # in Python: unlike C's, its memo is a dict; index 2**31 costs no 16 GB
PLAIN = {"load_" + name for name in """proto frame mark stop none true false int binint binint1
    binint2 long long1 long4 float binfloat string binstring short_binstring unicode binunicode
    short_binunicode binunicode8 get binget long_binget put binput long_binput memoize empty_list
    list append appends empty_dictionary dict setitem setitems""".split()}


def _refuse(name: str, *_) -> None:
    raise BadInput(f"asks for {name[:60]}; only lists, dicts, text and numbers are opened")


def _list_of(count: int):
    """The instruction that takes the topmost `count` values and pushes a list of them."""
    return lambda self: self.append([self.stack.pop() for _ in range(count)][::-1])


class PlainUnpickler(BASE):
    """Tuples become lists, as in JSON: a key of nested tuples could take years to hash."""

    dispatch = {code: step if step.__name__ in PLAIN else
                partial(_refuse, step.__name__.removeprefix("load_").upper())
                for code, step in BASE.dispatch.items()} | {
        pickle.TUPLE[0]: BASE.load_list, pickle.EMPTY_TUPLE[0]: _list_of(0),
        pickle.TUPLE1[0]: _list_of(1), pickle.TUPLE2[0]: _list_of(2), pickle.TUPLE3[0]: _list_of(3)}

    def find_class(self, module: str, name: str) -> None:
        _refuse(f"{module}.{name}")

    def persistent_load(self, key: object) -> None:
        _refuse("a persistent id")


def read_plain_pickle(file: Path | str) -> object:
    """The value of a pickle of plain data: lists, dicts, str, int, float, None; bytes are UTF-8.

    BadInput, naming the file, for a pickle that wants anything else, is damaged, or is larger
    than MAX_BYTES. Values may be shared or contain themselves: walk them by known fields.
    """
    path = Path(file)
    check_file(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadInput(f"{path}: {size} bytes; a pickle of annotations has at most {MAX_BYTES}")
    try:
        return PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="utf-8").load()
    except BadInput as error:
        raise BadInput(f"{path}: {error}; write it again as such or as .json") from None
    except UnicodeDecodeError as error:    # another alphabet's bytes, as Python 2 wrote them
        raise BadInput(f"{path}: no whole pickle: {error.object[:30]!r} is not UTF-8 text; write it "
                       "again as such or as .json") from None
    except Exception as error:             # what a damaged program raises is open-ended
        raise BadInput(f"{path}: no whole pickle ({type(error).__name__}: {str(error)[:100]}); "
                       "download it again") from None
