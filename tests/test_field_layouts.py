"""The field's data sets as they unpack and as they are: folders, bad records, ids, pictures."""

import copy
import json
import pickle
import random
import shutil

import pytest
from commands import call, refused
from field_files import BOX, CAPTIONS, COCO, LLAVA, POPE, REFS, VG, H, W, written
from oracle import Knowing
from PIL import Image
from random_backbones import write_clip, write_llama
from test_parallel import torchrun

import train
from lion_min import BadInput, evaluate, launch
from lion_min.datasets import __main__ as datasets
from lion_min.datasets import benchmarks, fingerprint, load, photos
from lion_min.datasets.records import Sample
from lion_min.features import FeatureCache, FeaturesOnTheFly
from lion_min.left_out import FEW, BadRecord, LeftOut
from lion_min.pvit.system import PvitSystem
from lion_min.draws import readable_rows
from lion_min.stage import ROUNDS, Stage, row_sampler
from lion_min.training import Plan

STAGE = Stage(number=1, trains=(), plan=Plan(steps=1, lr=1))


def pictures(folder, *names, size=(W, H)) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i, 9, 9)).save(folder / name)


def save(folder, **files) -> None:
    """Files by their name, in which __ is a slash; JSON, or bytes as they are."""
    for name, data in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def coco(count=10, kinds=("dog",), name="{}.jpg", **more) -> dict:
    """Pictures 0.jpg, 1.jpg, ... with an object of each kind."""
    return {"images": [{"id": i, "file_name": name.format(i), "width": W, "height": H}
                       for i in range(count)],
            "categories": [{"id": k, "name": kind} for k, kind in enumerate(kinds)],
            "annotations": [{"id": len(kinds) * i + k, "image_id": i, "category_id": k,
                             "bbox": [4, 4, 8, 8]} for i in range(count) for k in range(len(kinds))]} | more


# ---- how data sets unpack ------------------------------------------------------------------------

def unpack(folder, layout: str) -> None:
    """One of the layouts of the sets' own pages, with the same object everywhere."""
    two = {"images": [{**COCO["images"][0], "file_name": "COCO_train2014_9.jpg"}]}
    if layout == "coco2017":
        save(folder, **{"annotations__instances_train2017.json": COCO,
                        "annotations__captions_train2017.json": CAPTIONS,
                        "annotations__person_keypoints_train2017.json": {}})
        pictures(folder, "train2017/COCO_9.jpg", "val2017/COCO_9.jpg", size=(W, H))
    elif layout == "coco2014":
        save(folder, **{"annotations__instances_train2014.json": COCO | two})
        pictures(folder, "train2014/COCO_train2014_9.jpg")
    elif layout == "lvis":
        image = {**COCO["images"][0], "coco_url": "http://images.cocodataset.org/val2017/1.jpg"}
        del image["file_name"]
        save(folder, **{"annotations__lvis_v1_train.json": COCO | {"images": [image]}})
        pictures(folder, "val2017/1.jpg")
    elif layout == "refcoco":
        save(folder, **{"refcoco__refs(unc).p": pickle.dumps(REFS, 0), "refcoco__instances.json": COCO | two})
        pictures(folder, "train2014/COCO_train2014_9.jpg")
    else:
        regions = copy.deepcopy(VG)
        regions[0]["regions"].append({**regions[0]["regions"][0], "image_id": 2})
        save(folder, **{"region_descriptions.json": regions})
        pictures(folder, "VG_100K/1.jpg", "VG_100K_2/2.jpg")


@pytest.mark.parametrize("layout, inside, form, found", [
    ("coco2017", ".", "coco", ["train2017/COCO_9.jpg"]),
    ("coco2017", "annotations/captions_train2017.json", "captions", ["train2017/COCO_9.jpg"] * 2),
    ("coco2014", ".", "coco", ["train2014/COCO_train2014_9.jpg"]),
    ("lvis", ".", "coco", ["val2017/1.jpg"]),
    ("refcoco", "refcoco", "refcoco", ["train2014/COCO_train2014_9.jpg"] * 2),
    ("vg", ".", "vg", ["VG_100K/1.jpg", "VG_100K_2/2.jpg"])])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_layouts(tmp_path, layout, inside, form, found, elsewhere):
    """COCO as it unpacks was refused; a picture of val2017 was taken for one of train2017."""
    unpack(tmp_path / "set", layout)
    images = tmp_path / "set"
    if elsewhere:                          # --images: where they are not beside the annotations
        images = tmp_path / "pictures"
        for part in (tmp_path / "set").glob("*2*"):
            if part.is_dir() or part.name.startswith("VG"):
                shutil.move(part, images / part.name)
        if layout == "vg":
            shutil.move(tmp_path / "set" / "VG_100K", images / "VG_100K")
    annotations = load(tmp_path / "set" / inside, None, images if elsewhere else None)
    assert annotations.form == form
    assert [s.image for s in annotations.samples] == [images / name for name in found]


def test_the_same_data_for_training_and_evaluation(tmp_path, capsys, monkeypatch):
    """evaluate refused the folder that train.py takes; it scored what was trained on though a part
    for validation lay there."""
    for part, count in (("train", 10), ("val", 3)):
        save(tmp_path, **{f"annotations__instances_{part}2017.json": coco(count)})
        pictures(tmp_path, *(f"{part}2017/{i}.jpg" for i in range(count)))
    assert len(photos.read_photos(tmp_path)) == 10
    monkeypatch.setattr(launch, "load", lambda *_: Knowing())
    monkeypatch.setattr(Knowing, "encode", lambda self, images: images)
    monkeypatch.setattr(Knowing, "answer", lambda self, features, prompts: ["dog"] * len(prompts))
    for words, told in (([], "3 questions on 3 pictures"), (["--held-out"], "on 2 pictures"),
                        (["--format", "coco", "--images", tmp_path], "3 questions")):
        code, out, err = call(evaluate.main, capsys, "--data", tmp_path, *words)
        assert code == 0 and err == "" and told in out, (out, err)
    code, out, _ = call(datasets.main, capsys, "check", tmp_path)
    assert code == 0 and "3 samples of 3 pictures" in out and "10 samples of 10 pictures" in out


# ---- bad records ---------------------------------------------------------------------------------

def annotation(**fields) -> dict:
    return {"id": 99, "image_id": 0, "category_id": 0, "bbox": [1, 1, 5, 5]} | fields


def with_annotation(**fields) -> dict:
    data = coco()
    return data | {"annotations": [*data["annotations"], annotation(**fields)]}


TALK = {"id": "1", "image": "0.jpg", "conversations": LLAVA[0]["conversations"]}
REGION = {**VG[0]["regions"][0], "image_id": 0, "x": 4, "y": 4, "width": 9, "height": 9}


def talks(**fields) -> list:
    bad = {name: value for name, value in (TALK | fields).items() if value != "left out"}
    return [{**TALK, "image": f"{i}.jpg"} for i in range(10)] + [bad]


def regions(**fields) -> list:
    return [{"id": i, "regions": [{**REGION, "image_id": i}]} for i in range(10)] + [
        {"id": 77, "regions": [REGION | fields]}]


@pytest.mark.parametrize("form, data, reason", [
    ("coco", with_annotation(bbox=[1, 1, 5, 0]), "1 box empty"),
    ("coco", with_annotation(bbox=[0, 0, 0, 0]), "1 box empty"),
    ("coco", with_annotation(bbox=[1, 1, 0.4, 5]), "1 box below a pixel"),
    ("coco", with_annotation(bbox=[-3, 1, 5, 5]), "1 box outside the picture"),
    ("coco", with_annotation(bbox=[60, 1, 9, 5]), "1 box outside the picture"),
    ("coco", with_annotation(bbox=None), "1 bbox missing"),
    ("coco", with_annotation(bbox=[1, 1, "5", 5]), "1 box malformed"),
    ("coco", with_annotation(category_id=7), "1 category_id unknown"),
    ("coco", with_annotation(category_id=None), "1 category_id missing"),
    ("coco", with_annotation(image_id=70), "1 image_id unknown"),
    ("coco", with_annotation(iscrowd=1), "1 crowd"),
    ("coco", coco(10, images=[*coco(9)["images"], {"id": 9, "file_name": "no.jpg"}]),
     "1 picture missing, 1 of a picture left out"),
    ("vg", regions(x=-3), "1 box outside the picture"), ("vg", regions(height=0), "1 box empty"),
    ("vg", regions(phrase=" "), "1 phrase empty"), ("vg", regions(image_id=70), "1 picture missing"),
    ("llava", talks(image="left out"), "1 text-only conversation"),
    ("llava", talks(image=None), "1 image missing"),
    ("llava", talks(conversations=[]), "1 conversations empty"),
    ("llava", talks(conversations=TALK["conversations"][:3]), "1 conversation without its answer")])
def test_a_bad_record_costs_itself_alone(tmp_path, capsys, form, data, reason):
    """Training stopped at one of COCO's two empty boxes, or at a conversation without a picture."""
    save(tmp_path, **{"x.json": data})
    pictures(tmp_path, *(f"{i}.jpg" for i in range(10)))
    learnt = photos.read_photos(tmp_path / "x.json", form)
    out, err = capsys.readouterr()
    assert {p.path.name for p in learnt} >= {f"{i}.jpg" for i in range(9)}
    assert out == "" and err.count("\n") == 1 and f"left out ({reason})" in err, err
    by_rule = "crowd" in reason or "text-only" in reason
    code, out, err = call(datasets.main, capsys, "check", tmp_path / "x.json", "--format", form)
    assert code == (0 if by_rule else 2), "what a rule leaves out is not bad"
    assert f"1  left out: {reason.split(', ')[0][2:]}\n" in out


def test_a_small_share_may_be_bad(tmp_path, capsys):
    """A file of which a tenth is nonsense was trained on without a word; one bad line of eight
    stopped a first try."""
    left_out = LeftOut("x.json", total=1000)
    for count in range(1, 52):
        left_out.add(BadRecord("x.json line 3: no box", "box empty"))
        assert bool(left_out.fault()) == (count > 50) and bool(left_out.fault(0.01)) == (count > 10)
    assert "51 of 1000 records left out (51 box empty); the first: x.json line 3" in left_out.fault()
    for total, bad, stops in ((8, FEW, False), (FEW, FEW, True), (8, FEW + 1, True)):
        small = LeftOut("x.json", total=total)
        for _ in range(bad):
            small.add(BadRecord("bad", "box empty"))
        assert bool(small.fault()) == stops
    for _ in range(999):
        small.add(BadRecord("a crowd", "crowd", by_rule=True))
    assert small.count == FEW + 1, "what a rule leaves out is never too much"


def test_a_set_of_crowds_alone_says_so(tmp_path):
    """A file of which nothing was left was said to hold no good record, and not why."""
    data = coco()
    for thing in data["annotations"]:
        thing["iscrowd"] = 1
    save(tmp_path, **{"instances.json": data})
    pictures(tmp_path, *(f"{i}.jpg" for i in range(10)))
    with pytest.raises(BadInput, match=r"no good record of the format 'coco': 10 of 20 .*\(10 crowd\)"):
        load(tmp_path)


# ---- ids -----------------------------------------------------------------------------------------

def twice(form: str, *keys, **fields):
    """(form, a data set in which a record stands once more with some fields changed)."""
    data = copy.deepcopy({"coco": COCO, "captions": CAPTIONS, "refcoco": REFS, "pope": POPE}[form])
    holder = data
    for key in keys:
        holder = holder[key]
    holder.append(holder[0] | fields)
    return form, data


@pytest.mark.parametrize("data, told", [
    (twice("coco", "images", file_name="b.jpg"), "image 2: id 9 stands twice"),
    (twice("coco", "categories", name="cat"), "categorie 2: id 18 stands twice"),
    (twice("coco", "annotations", bbox=[1, 2, 3, 4]), "annotation 3: id 5 stands twice"),
    (twice("captions", "images", file_name="b.jpg"), "image 2: id 9 stands twice"),
    (twice("captions", "annotations", caption="Other."), "annotation 3: id 1 stands twice"),
    (twice("refcoco", split="train"), "record 2: ref_id 3 stands twice"),
    (twice("pope", label="no"), "line 3: question_id 1 stands twice")])
def test_an_id_stands_for_one_thing(field, data, told, capsys):
    """The boxes of one picture were put on another one with the same id."""
    path = written(field, *data)
    with pytest.raises(BadInput, match=told):
        load(path, data[0], field, max_bad=1.0)
    refused(call(datasets.main, capsys, "check", path, "--format", data[0]), told)


@pytest.mark.parametrize("data, samples", [
    (twice("coco", "images"), 1), (twice("coco", "categories"), 1), (twice("coco", "annotations"), 1),
    (twice("captions", "annotations"), 2), (twice("refcoco"), 2), (twice("pope"), 2),
    (("vg", [{"id": 1, "regions": VG[0]["regions"] * 2}]), 1), (("llava", LLAVA * 2), 2)])
def test_the_same_record_counts_once(field, data, samples, capsys):
    """An annotation that stood twice was trained on twice as often."""
    assert len(load(written(field, *data), data[0], field).samples) == samples
    if data[1] not in (twice("coco", "categories")[1],):
        assert "1 repeated" in capsys.readouterr().err


# ---- pictures ------------------------------------------------------------------------------------

@pytest.fixture
def damaged(tmp_path):
    """Twelve pictures, 3.jpg cut off behind its header."""
    save(tmp_path, **{"instances.json": coco(12, ("dog", "cat"))})
    pictures(tmp_path, *(f"{i}.jpg" for i in range(12)), size=(W, H))
    Image.effect_noise((W, H), 90).save(tmp_path / "3.jpg")
    raw = (tmp_path / "3.jpg").read_bytes()
    (tmp_path / "3.jpg").write_bytes(raw[:len(raw) * 3 // 4])
    return tmp_path


def test_check_decodes_every_picture(damaged, capsys):
    """check passed a picture that ended the training hours later; a picture without an object was
    never opened; numbers of the documentation that had to be counted by hand."""
    data = json.loads((damaged / "instances.json").read_text())
    data["annotations"] = [{**thing, "iscrowd": int(thing["id"] == 5)} for thing in data["annotations"]
                           if thing["image_id"] != 3]
    save(damaged, **{"instances.json": data})
    code, out, err = call(datasets.main, capsys, "check", damaged)
    assert code == 2 and "1 bad, 21 good" in err and out.startswith("image ") and "3.jpg" in out
    assert "truncated" in out.splitlines()[0]
    for line in ("12  pictures", "22  annotations", "2  categories", "2  categories with an annotation",
                 "1  pictures without an annotation", "2  boxes in the fullest picture, 1.75 in the mean",
                 "1  left out: crowd", "1  left out: picture unreadable", "21  reg"):
        assert f" {line}\n" in out, line
    code, out, _ = call(datasets.main, capsys, "check", damaged, "--headers")
    assert code == 0 and "unreadable" not in out


class Encoder:
    """A system whose features are the pictures' sizes; 4 deep."""

    depths = {0}

    def encode(self, images):
        import torch
        return {"states": [torch.tensor([[[float(image.getpixel((0, 0))[0])]] for image in images])],
                "tags": [[] for _ in images]}


@pytest.mark.parametrize("kind", [FeatureCache, FeaturesOnTheFly])
def test_training_leaves_an_unreadable_picture_out(damaged, capsys, kind):
    """A damaged picture in the middle of an epoch ended the run; its questions were asked of the
    picture that took its place; a picture without objects took that place in a region round."""
    shown = photos.read_photos(damaged)
    bad = next(i for i, photo in enumerate(shown) if photo.path.name == "3.jpg")
    features = kind(Encoder(), shown)
    for step in range(30):
        rng = random.Random(step)
        draw = row_sampler(STAGE, shown, 4)
        rows = readable_rows(features, lambda: draw(ROUNDS["reg"], step, rng))
        assert len(rows) == 4 and bad not in rows
        states = features.take(rows)["states"][0].flatten().round().tolist()
        for row, value in zip(rows, states):
            assert abs(value - float(shown[row].draw().getpixel((0, 0))[0])) < 0.5
    assert features.left_out.count == 1 and not features.left_out.fault()
    assert "3.jpg" in str(features.left_out.first)
    assert (capsys.readouterr().err.count("3.jpg") == 1) == (kind is FeaturesOnTheFly)


def test_nothing_readable_ends_the_run(damaged):
    """A folder of damaged pictures was drawn from for ever."""
    shown = [photo for photo in photos.read_photos(damaged) if photo.path.name == "3.jpg"]
    with pytest.raises(BadInput, match="none is left"):
        FeatureCache(Encoder(), shown)
    features = FeaturesOnTheFly(Encoder(), shown)
    with pytest.raises(BadInput, match="no readable one"):
        readable_rows(features, lambda: [0])


def test_evaluation_leaves_an_unreadable_picture_out(damaged):
    """An unreadable picture ended hours of asking; its questions counted as wrong answers; the
    floor asked beside it."""
    system = Knowing()
    system.encode = lambda images: [image.size for image in images]
    system.answer = lambda features, prompts: ["yes"] * len(features)
    samples = [Sample(damaged / f"{i}.jpg", "existence", "Is it there?", "yes") for i in (2, 3, 4)]
    for batch in (1, 2, 9):
        result = benchmarks.score_samples(system, samples, batch)
        assert result["exist_acc"] == 1.0 and result["n"] == {"existence": 2} and result["pictures"] == 2
        assert result["shuffled"]["exist_acc"] == 1.0
    with pytest.raises(BadInput, match="none is left"):
        benchmarks.score_samples(system, samples[1:2], shuffled=False)


# ---- pictures without objects, kinds that are everywhere -----------------------------------------

def test_pictures_without_objects_are_asked_what_they_do_not_show(tmp_path):
    """A tenth of COCO's pictures was dropped; with one class every question was answered yes."""
    data = coco(11)
    data["annotations"] = [thing for thing in data["annotations"] if thing["image_id"] != 3]
    data["annotations"][7]["iscrowd"] = 1                       # 8.jpg: a crowd alone
    save(tmp_path, **{"instances.json": data})
    pictures(tmp_path, *(f"{i}.jpg" for i in range(11)))
    shown = {photo.path.name: photo for photo in photos.read_photos(tmp_path)}
    assert len(shown) == 10 and "8.jpg" not in shown, "a crowd of the one kind: nothing can be asked"
    rng, tasks = random.Random(0), ("existence", "colour", "count", "relation")
    empty = [e for _ in range(50) for e in shown["3.jpg"].examples(rng, tasks)]
    assert {(e.task, e.answer) for e in empty} == {("existence", "no")}
    full = [e for _ in range(50) for e in shown["0.jpg"].examples(rng, ("existence",))]
    assert {(e.task, e.answer) for e in full} == {("existence", "yes"), ("count", "1")}
    asked = photos.questions([shown["3.jpg"]])
    assert asked and {s.answer for s in asked} == {"no"} and len(set(asked)) == len(asked)
    scenes = [*shown.values()]
    row = scenes.index(shown["3.jpg"])
    draw, step = row_sampler(STAGE, scenes, 500), 0
    assert row not in draw(ROUNDS["region"], step, rng) and row not in draw(ROUNDS["caption"], step, rng)
    assert row in draw(ROUNDS["vqa"], step, rng)


def test_one_class_has_no_question_that_is_always_answered_yes(tmp_path):
    """A model that always says yes was always right on a data set of one class."""
    save(tmp_path, **{"instances.json": coco()})
    pictures(tmp_path, *(f"{i}.jpg" for i in range(10)))
    rng = random.Random(0)
    made = [e for photo in photos.read_photos(tmp_path) for _ in range(9) for e in photo.examples(
        rng, ("existence", "colour", "side", "instructions", "relation", "count", "caption"))]
    assert {e.task for e in made} == {"count", "reg", "caption"}


def test_a_crowd_is_there_and_cannot_be_counted(tmp_path):
    """"Is there a dog?" was answered no beside a crowd of dogs; dogs were counted without it."""
    data = coco(10, ("dog", "cat"))
    data["annotations"].append(annotation(image_id=0, category_id=0, iscrowd=1))
    data["annotations"].append(annotation(id=100, image_id=1, category_id=1, iscrowd=1))
    data["annotations"] = [t for t in data["annotations"] if t["id"] not in (3, 5)]    # cats of 1, 2
    save(tmp_path, **{"instances.json": data})
    pictures(tmp_path, *(f"{i}.jpg" for i in range(10)))
    shown = {photo.path.name: photo for photo in photos.read_photos(tmp_path)}
    rng = random.Random(0)
    for name, task, wrong in (("0.jpg", "count", "dog"), ("0.jpg", "rec", "dog"),
                              ("1.jpg", "existence", "cat")):
        asked = [e for _ in range(40) for e in shown[name].examples(rng, (task,))]
        assert not [e for e in asked if e.task == task and wrong in e.prompt], name
    asked = [e for _ in range(40) for e in shown["2.jpg"].examples(rng, ("existence",))]
    assert [e for e in asked if e.answer == "no" and "cat" in e.prompt]


# ---- what else is kept ---------------------------------------------------------------------------

def test_turns_are_trained_with_what_came_before(tmp_path):
    """"And on its right?" was taught without the question before it."""
    save(tmp_path, **{"c.json": talks()})
    pictures(tmp_path, *(f"{i}.jpg" for i in range(10)))
    (first, *_) = photos.read_photos(tmp_path / "c.json", "llava")
    made = {sample for seed in range(20) for sample in
            [(q, a, tuple(t)) for q, a, t in PvitSystem.samples(first, ("reg",), random.Random(seed))]}
    assert made == {("What is it? [0.1, 0.1, 0.2, 0.2]", "A dog.", ()),
                    ("Its colour?", "Red.", (("What is it? [0.1, 0.1, 0.2, 0.2]", "A dog."),))}


def test_the_fingerprint_is_of_the_annotations(tmp_path):
    """A run was resumed on other data; or refused because the folder had moved."""
    marks = []
    for name, data in (("a", coco()), ("b", coco()), ("c", coco(kinds=("cat",))), ("d", coco(9)),
                       ("e", with_annotation(bbox=[2, 1, 5, 5])), ("f", with_annotation(bbox=[2, 1, 5, 6]))):
        save(tmp_path / name, **{"instances.json": data | {"info": name}})
        pictures(tmp_path / name, *(f"{i}.jpg" for i in range(10)))
        marks.append(fingerprint(photos.read_photos(tmp_path / name)))
    assert marks[0] == marks[1] and len(set(marks)) == 5


@pytest.mark.parametrize("text", [b"S'caf\\xc3\\xa9'\n", b"S'caf\xc3\xa9'\n", b"Vcaf\\u00e9\n", b"Vcaf\xe9\n",
                                  b"U\x05caf\xc3\xa9", b"T\x05\0\0\0caf\xc3\xa9", b"X\x05\0\0\0caf\xc3\xa9"])
def test_python_2_text_is_utf8(field, text):
    """RefCOCO's files are of Python 2: bytes, whatever the protocol, or its unicode."""
    program = (b"(lp0\n(dp1\nS'ann_id'\nI5\nsS'image_id'\nI9\nsS'split'\nS'train'\nsS'sentences'\n"
               b"(lp2\n(dp3\nS'sent'\n" + text + b"sasa.")
    (field / "refs(unc).p").write_bytes(program)
    (sample,) = load(field / "refs(unc).p", None, field).samples
    assert "café" in sample.prompt and sample.boxes == (BOX,)
    (field / "refs(unc).p").write_bytes(program.replace(text, b"U\x04caf\xe9"))
    with pytest.raises(BadInput, match=r"refs\(unc\).p: .*UTF-8"):
        load(field / "refs(unc).p", None, field)


# ---- several processes, resuming -----------------------------------------------------------------

SCRIPT = """
import json, os, random, sys
from pathlib import Path
from torch import nn
from lion_min import BadInput, parallel, training
from lion_min.datasets import photos
from lion_min.features import FeatureCache, FeaturesOnTheFly
from lion_min.draws import readable_rows
from lion_min.stage import ROUNDS, row_sampler
from test_field_layouts import STAGE, Encoder
folder, ended = Path(sys.argv[1]), {}
parallel.start()
for name in ("damaged", "ruined"):
    for kind in (FeatureCache, FeaturesOnTheFly):
        shown = photos.read_photos(folder / name)
        features, model, draw = kind(Encoder(), shown), nn.Linear(1, 1), row_sampler(STAGE, shown, 2)

        def step_loss(step, shard=0):
            rng = random.Random(f"{step}/{shard}")
            rows = readable_rows(features, lambda: draw(ROUNDS["reg"], step, rng))
            return model(features.take(rows)["states"][0].flatten(1)).square().mean(), {}

        try:
            training.run(model, step_loss, training.Plan(8, 1e-3), folder / f"{name} {kind.__name__}", {},
                         quiet=True, fault=features.left_out.fault)
            ended[f"{name} {kind.__name__}"] = ""
        except BadInput as error:
            ended[f"{name} {kind.__name__}"] = str(error)
(folder / f"ended {os.environ['RANK']}").write_text(json.dumps(ended))
"""


@pytest.mark.slow
def test_processes_stay_in_step_around_unreadable_pictures(damaged):
    """The process that met a damaged picture ended, and the others waited for it for ever."""
    for name in ("damaged", "ruined"):
        shutil.copytree(damaged, damaged / name, ignore=shutil.ignore_patterns("damaged", "ruined"))
    for i in range(9):
        shutil.copy(damaged / "3.jpg", damaged / "ruined" / f"{i}.jpg")
    torchrun(2, "-c", SCRIPT, str(damaged), timeout=300)
    ends = [json.loads((damaged / f"ended {rank}").read_text()) for rank in (0, 1)]
    assert ends[0] == ends[1], "one process went on without the other"
    assert [bool(end) for end in ends[0].values()] == [False, False, True, True]
    assert all("more than --max-bad" in end for end in [*ends[0].values()][2:])


def test_resuming_on_other_data_is_refused(tmp_path, tmp_path_factory, capsys, monkeypatch):
    """A run went on with another data set's annotations, and its config named neither."""
    write_clip(tmp_path / "clip"), write_llama(tmp_path / "llama")
    monkeypatch.setattr(benchmarks, "score_samples", lambda *_, **__: {"reg_exact": 0.0})
    for name, kind in (("one", "dog"), ("two", "cat")):
        save(tmp_path / name, **{"instances.json": coco(10, (kind,))})
        pictures(tmp_path / name, *(f"{i}.jpg" for i in range(10)))
    words = ["--system", "pvit", "--stage", "1", "--preset", "clip-smollm2", "--vision", tmp_path / "clip",
             "--llm", tmp_path / "llama", "--steps", 2, "--batch-size", 2, "--device", "cpu", "--out",
             tmp_path / "out"]
    assert call(train.main, capsys, *words, "--data", tmp_path / "one")[0] == 0
    code, _, err = call(train.main, capsys, *words, "--data", tmp_path / "two", "--resume")
    assert code == 2 and err.count("\n") == 1
    assert f"was trained on {tmp_path}/one/instances.json (fingerprint" in err
    assert f"this is {tmp_path}/two/instances.json (fingerprint" in err
    (tmp_path / "one").rename(tmp_path / "moved")
    assert call(train.main, capsys, *words, "--data", tmp_path / "moved", "--resume")[0] == 0
