"""Three hundred randomly broken data sets through check, a training of two steps, and evaluate.

Each must end with 0, or with 2 and one line; what a command left out, it must have said.
"""

import copy
import functools
import io
import json
import os
import pickle
import random
from pathlib import Path

import pytest
from commands import call
from PIL import Image
from random_backbones import write_clip, write_llama

import train
from lion_min import evaluate, launch
from lion_min.datasets import __main__ as datasets
from lion_min.pvit.system import PvitSystem

COUNT, PICTURES, W, H = 300, 10, 24, 16
BOXES = ([2, 2, 6, 6], [12.5, 4, 9, 10])
ODD = (None, True, -1, 0, 3, 10**70, 1e-9, float("nan"), float("inf"), "", " ", "0.jpg", "yes", "x" * 30_000,
       "\ud800", "é<image>", "<Region>[0.1]</Region>", "[0.9,0.1,0.2,0.3]", "../0.jpg", "a\0b", [], [[]],
       [3], [1, 2, 3, 4], {}, {"id": 1}, {"regions": [1]})


# ---- sound data sets -----------------------------------------------------------------------------

def coco() -> dict:
    """Two boxes on each picture but the last, which has none; one crowd."""
    boxes = [{"id": 2 * i + k, "image_id": i, "category_id": 1 + (i + k) % 3, "bbox": list(BOXES[k]),
              "iscrowd": int(i == 3 and k == 1)} for i in range(PICTURES - 1) for k in (0, 1)]
    return {"images": [{"id": i, "file_name": f"{i}.jpg", "width": W, "height": H}
                       for i in range(PICTURES)], "annotations": boxes,
            "categories": [{"id": i, "name": name} for i, name in enumerate(("cat", "dog", "bus"), 1)]}


def references() -> list:
    return [{"ref_id": i, "ann_id": 2 * i, "image_id": i, "split": "train" if i % 5 else "val",
             "sentences": [{"sent": "the left one"}, {"sent": "café"}]} for i in range(PICTURES - 1)]


def regions() -> list:
    return [{"id": i, "regions": [{"region_id": 9 * i + k, "image_id": i, "x": x, "y": y, "width": w,
                                   "height": h, "phrase": "a red roof"}
                                  for k, (x, y, w, h) in enumerate(BOXES)]} for i in range(PICTURES)]


def talks() -> list:
    texts = ("<image>\nWhat is it?", "A dog.", "And <Region><L100><L100><L500><L900></Region>?", "Red.")
    return [{"id": str(i), "image": f"{i}.jpg", "conversations": [
        {"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]}
        for i in range(PICTURES)]


def questions() -> list:
    return [{"question_id": i, "image": f"{i % PICTURES}.jpg", "text": "Is there a dog?",
             "label": "yes" if i % 2 else "no"} for i in range(2 * PICTURES)]


def lines() -> list:
    return [{"image": f"{i}.jpg", "task": "rec", "prompt": "Where is it?", "answer": "[2, 2, 9, 9]"}
            for i in range(PICTURES)] + [{"id": 7, "image": "0.jpg", "task": "vqa", "prompt": "How many?",
                                          "answer": "2", "turns": [["What?", "Dogs."]]}]


SETS = {"coco": ("annotations/instances_train2017.json", coco, "train2017"),
        "refcoco": ("refcoco/refs(unc).p", references, "train2014"),
        "vg": ("region_descriptions.json", regions, "VG_100K_2"), "llava": ("c.json", talks, "."),
        "pope": ("coco_pope_random.json", questions, "val2014"), "samples": ("samples.jsonl", lines, ".")}


# ---- breaking ------------------------------------------------------------------------------------

def inside(value: object) -> list:
    """Every (list or dict, key) below a value."""
    pairs = [*enumerate(value)] if isinstance(value, list) else \
        [*value.items()] if isinstance(value, dict) else []
    return [(value, key) for key, _ in pairs] + [deeper for _, child in pairs for deeper in inside(child)]


def break_value(data: object, rng: random.Random) -> None:
    """One field or element exchanged, taken out, or there twice."""
    if not (found := inside(data)):
        return
    holder, key = rng.choice(found)
    how = rng.random()
    if how < 0.2:
        del holder[key]
    elif how < 0.4 and isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    elif how < 0.6 and isinstance(holder[key], (int, float)):
        holder[key] = holder[key] * rng.choice((-1, 0, 0.5, 3, 100)) + rng.choice((-3, 0, 1))
    else:
        holder[key] = rng.choice(ODD)


def break_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Cut off, some bytes exchanged, or nothing but noise."""
    how, raw = rng.random(), bytearray(raw)
    if how < 0.4:
        return bytes(raw[:rng.randrange(len(raw))])
    if how < 0.8:
        for _ in range(rng.randint(1, 5)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(raw)
    return rng.randbytes(rng.choice((0, 1, 100)))


def picture(rng: random.Random, broken: bool) -> bytes:
    """A JPEG or PNG, in one of ten orientations; broken: other bytes, or another size."""
    size, exif = (W, H), Image.Exif()
    if broken and rng.random() < 0.3:
        size = rng.choice(((H, W), (1, 1), (W + 1, H)))
    if rng.random() < 0.3:
        exif[0x0112] = rng.randrange(10)
    saved = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(
        saved, rng.choice(("JPEG", "PNG")), exif=rng.randbytes(20) if rng.random() < 0.02 else exif)
    return break_bytes(saved.getvalue(), rng) if broken and size == (W, H) else saved.getvalue()


def write(folder: Path, rng: random.Random) -> tuple[Path, str]:
    """A data set of which a part is broken: (annotation file, format)."""
    form = rng.choice([*SETS])
    name, make, place = SETS[form]
    data, instances = make(), coco()
    where = rng.choice(("values", "values", "values", "bytes", "pictures", "instances"))
    for _ in range(rng.choice((1, 1, 2, 9)) if where == "values" else 0):
        break_value(data, rng)
    for _ in range(rng.randint(1, 3) if where == "instances" else 0):
        break_value(instances, rng)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "refcoco":
        raw = pickle.dumps(data, rng.randrange(5))
        (path.parent / "instances.json").write_text(json.dumps(instances))
    elif form in ("pope", "samples"):
        raw = "\n".join(map(json.dumps, data)).encode()
    else:
        raw = json.dumps(data).encode()
    path.write_bytes(break_bytes(raw, rng) if where == "bytes" else raw)
    broken = set(rng.sample(range(PICTURES), rng.choice((1, 1, 2, 8)))) if where == "pictures" else ()
    (folder / place).mkdir(exist_ok=True)
    for i in range(PICTURES):
        if i not in broken or rng.random() < 0.8:          # or it is missing
            (folder / place / f"{i}.jpg").write_bytes(picture(rng, i in broken))
    return path, form


# ---- the commands --------------------------------------------------------------------------------

@pytest.fixture
def cheap(tmp_path, monkeypatch):
    """The backbones are read once; no text is generated: what is tried is the way of the data."""
    write_clip(tmp_path / "clip"), write_llama(tmp_path / "llama")
    read = launch.parts_for
    once = functools.cache(lambda preset, *items: read(
        tmp_path, preset, dict(items), system="pvit"))

    def parts_for(out, preset, sources, *_, **__):
        parts = copy.copy(once(preset, *sources.items()))
        parts.out = out
        return parts
    monkeypatch.setattr(launch, "parts_for", parts_for)
    monkeypatch.setattr(os, "fsync", lambda file: None)    # 1,000 waits for the disk
    monkeypatch.setattr(PvitSystem, "answer",
                        lambda self, features, prompts, turns=None: ["no" for _ in prompts])
    return ["--system", "pvit", "--stage", "1", "--preset", "clip-smollm2", "--vision", tmp_path / "clip",
            "--llm", tmp_path / "llama", "--steps", "2", "--batch-size", "2", "--precision", "fp32",
            "--device", "cpu"]


@pytest.mark.slow
def test_randomly_broken_data_sets(tmp_path, capsys, monkeypatch, cheap):
    """Guards: a traceback, a hang, or a record that is left out or changed without a word."""
    ended = {name: [] for name in ("check", "train", "evaluate")}
    trained = None
    for number in range(COUNT):
        folder = tmp_path / f"set{number}"
        path, form = write(folder, random.Random(f"broken/{number}"))
        data = ["--data", path, "--format", form]
        checked = call(datasets.main, capsys, "check", path, "--format", form)
        runs = {"check": checked, "train": call(train.main, capsys, *cheap, *data, "--out", folder / "out")}
        if trained is None and runs["train"][0] == 0:
            system = launch.load("pvit", folder / "out" / "pvit" / "stage1", "cpu")
            monkeypatch.setattr(launch, "load", lambda *_: system)
            trained = folder
        if trained:
            runs["evaluate"] = call(evaluate.main, capsys, *data, "--no-shuffled")
        for name, (code, out, err) in runs.items():
            errors = [line for line in err.splitlines() if line.startswith("error: ")]
            case = f"{number}, {form}, {name}: {code} {err[-600:]}"
            assert code in (0, 2) and len(errors) == (code == 2), case
            assert all(line.startswith(("error: ", "note: ")) or " so far, " in line
                       for line in err.splitlines()), case
            ended[name].append(code)
        if checked[0] == 2 and runs["train"][0] == 0:
            assert "left out" in runs["train"][2], f"{number}, {form}: {checked}"
    good = {name: codes.count(0) / len(codes) for name, codes in ended.items()}
    assert 0.1 < good["check"] < 0.5 < good["train"] < 0.9 and 0.5 < good["evaluate"] < 0.95, good
