"""The reader of plain pickles: what RefCOCO's files hold comes out, nothing else gets anywhere."""

import builtins
import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict

import pytest

from lion_min import BadInput
from lion_min.datasets import pickles
from lion_min.datasets.pickles import PlainUnpickler, read_plain_pickle
from lion_min.datasets.records import show

REFS = [{"ref_id": 1, "ann_id": 1_719_310, "image_id": 581_857, "split": "testA", "file_name": "a",
         "sent_ids": [0, 2**40, -7], "category_id": 1, "sentences": [
             {"sent": "café au lait", "raw": "", "tokens": ["the", "the", "lady"], "sent_id": 0}]},
        {"plain": [None, True, False, 1.5, 10**30, {}], 7: "x" * 300},
        [f"word {i}" for i in range(300)] * 2]  # more notes than one byte's number counts
TUPLES = [(), (1,), (1, 2), (1, 2, 3), ((1, 2, 3, 4), 5)]  # become lists, as in JSON


def opened(tmp_path, program: bytes) -> object:
    path = tmp_path / "refs(unc).p"
    path.write_bytes(program)
    return read_plain_pickle(path)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol(tmp_path, protocol):
    """An instruction that only one protocol uses was missing, and that file could not be read."""
    assert opened(tmp_path, pickle.dumps(REFS, protocol)) == REFS
    assert opened(tmp_path, pickle.dumps(TUPLES, protocol)) == json.loads(json.dumps(TUPLES))


def test_what_python_2_wrote(tmp_path):
    """RefCOCO's files are of 2016: byte strings in quotes, longs with an L, (dp0 and (lp1."""
    program = (b"(lp0\n(dp1\nS'sent'\np2\nV\\u00e9t\\u00e9\np3\nsS'ann_id'\np4\nL17L\nsS'ok'\nI01\n"
               b"sS'x'\nF1.5\nsS'l'\n(lp5\ng2\nag2\nasS't'\n(I1\nI2\ntp6\nsa.")
    assert opened(tmp_path, program) == [
        {"sent": "été", "ann_id": 17, "ok": True, "x": 1.5, "l": ["sent", "sent"], "t": [1, 2]}]
    utf8 = "été".encode()
    for text in (b"S'\\xc3\\xa9t\\xc3\\xa9'\n", b"U\x05" + utf8, b"T\x05\0\0\0" + utf8):
        assert opened(tmp_path, text + b".") == "été"


class Calls:
    """Pickles as: call this with that."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


class Plain:
    pass


def named(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


HOSTILE = {
    "os.system": pickle.dumps(Calls(os.system, "touch OWNED")),
    "os.system, protocol 0": pickle.dumps(Calls(os.system, "touch OWNED"), 0),
    "eval": pickle.dumps([{"sent": Calls(eval, "open('OWNED', 'w')")}]),
    "an import alone": b"cthis\ns\n.",
    "builtins itself": b"cbuiltins\n__dict__\n.",
    "nested global": b"\x80\x04" + named("os") + named("path.os.system") + b"\x93" +
                     named("touch OWNED") + b"\x85R.",
    "numpy": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
    "a harmless class": pickle.dumps(OrderedDict(a=1)),
    "an object": pickle.dumps(Plain()),
    "Popen by INST": b"(S'touch OWNED'\nI-1\nNNNNNI01\nisubprocess\nPopen\n.",
    "Popen by OBJ": b"(csubprocess\nPopen\nS'touch OWNED'\no.",
    "persistent id": b"Ptorch-storage\n.",
    "persistent id, binary": b"S'x'\nQ.",
    "extension code": b"\x82\x01.",
    "called text": b"S'os.system'\n(S'touch OWNED'\ntR.",
    "state for a dict": b"}}S'__class__'\nI1\nsb.",
    "a global by memo": b"cos\nsystem\np0\n0g0\n(S'touch OWNED'\ntR.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "bytes": pickle.dumps(b"x" * 9), "a set": pickle.dumps({1}), "bytearray": pickle.dumps(
        bytearray(b"x"), 5),
}


HARMLESS = ("bytes", "a set", "bytearray")  # values, not calls


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_unexecuted(tmp_path, monkeypatch, name):
    """Opening a downloaded annotation file ran its author's code."""
    def ran(*_, **__):
        raise AssertionError("it ran")
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as guard:
        for owner, function in ((os, "system"), (subprocess, "Popen"), (builtins, "eval"),
                                (pickle, "loads"), (pickle, "load"), (pickle, "Unpickler")):
            guard.setattr(owner, function, ran)
        for second_lock in (False, True):   # find_class alone, every instruction allowed
            if second_lock:
                guard.setattr(PlainUnpickler, "dispatch", pickle._Unpickler.dispatch)
            if not second_lock or name not in HARMLESS:
                with pytest.raises(BadInput) as refusal:
                    opened(tmp_path, HOSTILE[name])
                assert second_lock or "asks for" in str(refusal.value)
    told = str(refusal.value)
    assert "refs(unc).p: " in told and "\n" not in told and len(told) < 400
    assert not (tmp_path / "OWNED").exists() and "this" not in sys.modules


DAMAGED = {
    "text": b"<html>404</html>", "cut off": pickle.dumps(REFS)[:-9], "no stop": b"]",
    "stop alone": b".", "memo never written": b"h\x07.", "nothing to note": b"q\0.",
    "mark never set": b"]e.", "append to text": b"S'x'\nI1\na.", "set in a list": b"]I1\nI2\ns.",
    "half an entry": b"}(I1\nu.", "a list as key": b"}]I1\ns.", "a tuple as key": b"})I1\ns.",
    "tuple of too few": b"I1\n\x87.", "text not text": b"X\x01\0\0\0\xff.",
    "longer than the file": b"\x8d" + b"\xff" * 7 + b"\x7fx.", "bad number": b"Ix\n.",
    "too many digits": b"I" + b"9" * 9000 + b"\n."}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_pickles_are_told(tmp_path, name):
    """A cut-off download ended in a traceback of the machine's insides."""
    with pytest.raises(BadInput, match=r"refs\(unc\)\.p: (no whole pickle|the file is empty)") as e:
        opened(tmp_path, DAMAGED[name])
    assert "\n" not in str(e.value) and len(str(e.value)) < 400


def test_bombs_stay_small(tmp_path, monkeypatch):
    """A memo index of 2**31 reserved gigabytes; a tangle of a few bytes was printed in full."""
    assert opened(tmp_path, b"]r\xff\xff\xff\x7f.") == []
    tangle = b"](I1\nI2\ne" + (b"q\0](" + b"h\0" * 9 + b"e") * 40 + b"."  # 9**40 numbers long
    tangled = opened(tmp_path, tangle)
    assert len(tangled) == 9 and len(show(tangled)) <= 60
    itself = opened(tmp_path, b"]q\0h\0a.")
    assert itself[0] is itself and len(show(itself)) <= 60
    assert show(10**5000) == "a huge int" and len(show([["x" * 999] * 99] * 99)) == 60
    for keyed in (b"})q\0" + b"h\0\x86q\0" * 60 + b"I1\ns.",  # a tuple of 2**60 steps to hash
                  b"}N" + b"\x85" * 10**5 + b"I1\ns."):          # so deep that hashing crashes
        with pytest.raises(BadInput, match="unhashable"):
            opened(tmp_path, keyed)
    deep = opened(tmp_path, b"N" + b"\x85" * 10**5 + b".")
    assert len(show(deep)) <= 60
    for marks in (b"(" * 10**5, b"]" * 10**5 + b"a" * 10**5):
        with pytest.raises(BadInput, match="no whole pickle"):
            opened(tmp_path, marks)
    monkeypatch.setattr(pickles, "MAX_BYTES", 10)
    with pytest.raises(BadInput, match="has at most 10"):
        opened(tmp_path, pickle.dumps(REFS))
    with pytest.raises(BadInput, match="is a folder"):
        read_plain_pickle(tmp_path)
