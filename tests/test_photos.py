"""Photographs: read, split, asked, trained on around pretrained backbones, and asked about."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import call, refused
from field_files import write_coco
from random_backbones import LLMS, TOWERS

import infer
import train
from lion_min import BadInput, evaluate
from lion_min.datasets import photos
from lion_min.datasets.records import Sample
from lion_min.boxes import BoxText
from lion_min.parts import WEIGHTS, Parts
from lion_min.published import lion
from lion_min.lyrics.stage1 import STAGE as STAGE1
from lion_min.scenes import WORLDS, Thing, make_scene
from lion_min.stage import row_sampler

BOX = BoxText()
COUNT = 10


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    """A COCO folder of ten pictures, none of them square; kinds are their categories."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    scenes = [make_scene(WORLDS["medium"], "train", 9, i) for i in range(COUNT)]
    write_coco(folder, scenes, (120, 80), lambda thing: thing.kind, "images/{}.jpg")
    return folder


@pytest.fixture(scope="module")
def backbones(tmp_path_factory) -> Path:
    """Tiny random ones in the published layouts."""
    folder = tmp_path_factory.mktemp("backbones")
    for name, write in (TOWERS | LLMS).items():
        write(folder / name)
    return folder


def stage(coco, backbones, out, system, number, vision="clip", llm="llama") -> list[str]:
    """The command line of one short stage."""
    return ["--system", system, "--stage", str(number), "--preset", "clip-smollm2", "--data",
            str(coco), "--vision", str(backbones / vision), "--llm", str(backbones / llm),
            "--steps", "2", "--batch-size", "2", "--out", str(out)]


# ---- reading and asking --------------------------------------------------------------------------

def test_reads_a_coco_folder_and_holds_a_fifth_back(coco):
    """Guards: a held-out picture among those trained on, or boxes of another frame."""
    learnt, held = photos.split(photos.read_photos(coco))
    assert len(learnt) == 8 and len(held) == 2
    assert not {p.path for p in learnt} & {p.path for p in held}
    scene = make_scene(WORLDS["medium"], "train", 9, 0)
    first = next(p for p in learnt if p.path.name == "0.jpg")
    assert [t.kind for t in first.objects] == [t.kind for t in scene.objects]
    for told, thing in zip(first.objects, scene.objects):
        assert told.box == pytest.approx(thing.box, abs=1e-4)
    assert first.draw().size == (120, 80)


def test_the_datas_own_splits_come_first(coco, tmp_path):
    """Guards: a validation picture trained on because its place in the file is not a fifth one."""
    lines = [{"image": f"{i}.jpg", "task": "vqa", "prompt": "What?", "answer": "it",
              "split": "val" if i < 3 else "train"} for i in range(COUNT)]
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "images").symlink_to(coco / "images")
    learnt, held = photos.split(photos.read_photos(file, "samples"))
    assert [p.path.name for p in held] == ["0.jpg", "1.jpg", "2.jpg"] and len(learnt) == 7
    asked = learnt[0].examples(random.Random(0), ("vqa", "reg"))
    assert [e.answer for e in asked] == ["it", "it"]


def photo_of(*objects: tuple[str, tuple]) -> photos.Photo:
    things = tuple(Thing(name, None, None, None, box) for name, box in objects)
    names = ("bird", "cat", "dog", "hot dog", "traffic light")
    return photos.Photo(Path("x.jpg"), (), things, names)


CROWD = photo_of(*[("traffic light", (i / 9, 0.1, i / 9 + 0.05, 0.3)) for i in range(4)],
                 ("hot dog", (0.7, 0.4, 0.9, 0.6)), ("cat", (0.0, 0.4, 0.2, 0.6)))


def test_every_question_is_true_of_its_picture(coco):
    """Guards: wrong answers made from right annotations; "dog" found in "hot dog"; a question of
    the drawn world, with colours, sizes or shapes, about a photograph."""
    rng, tasks = random.Random(1), tuple(photos.MAKERS)
    for photo in [*photos.read_photos(coco), CROWD]:
        names = [t.kind for t in photo.objects]
        named = {BOX.format(t.box): t.kind for t in photo.objects}
        for e in (e for _ in range(20) for e in photo.examples(rng, tasks)):
            assert list(e.boxes) == BOX.parse(e.prompt) + BOX.parse(e.answer)
            assert not re.search("colour|shape|small|large|None|object is", e.prompt), e
            asked = max((n for n in photo.names if n in e.prompt), key=len, default=None)
            if e.task == "existence" and not e.boxes:
                assert e.answer == ("yes" if asked in names else "no"), e
            elif e.task == "existence":
                assert e.answer == ("yes" if asked == named[BOX.format(e.boxes[0])] else "no"), e
            elif e.task == "count":
                assert int(e.answer) == names.count(asked) > 0
            elif e.task == "reg":
                assert named[BOX.format(e.boxes[0])] == e.answer
            elif e.task == "rec":
                assert names.count(named[e.answer]) == 1 and f"the {named[e.answer]}" in e.prompt
            elif e.task == "caption":
                assert all(name in e.answer for name in names)
    assert CROWD.caption() == "a hot dog, a cat and a traffic light."


def test_photographs_are_asked_as_often_yes_as_no():
    """Guards: a yes-bias that pays; a question that cannot be asked and is not replaced."""
    rng = random.Random(2)
    said = [e.answer for _ in range(400) for e in CROWD.examples(rng, ("existence",))]
    assert 0.42 < said.count("yes") / 400 < 0.58
    crowd = photo_of(("cat", (0, 0, 0.1, 0.1)), ("cat", (0.5, 0.5, 0.6, 0.6)))
    tasks = ("relation", "rec", "rec_relational", "colour", "kind", "side", "count")
    assert [e.task for e in crowd.examples(rng, tasks)] == [
        "existence", "reg", "reg", "existence", "existence", "existence", "count"]


def test_relations_stand_as_the_boxes_do():
    """Guards: left and right, or above and below, exchanged."""
    photo = photo_of(("cat", (0.0, 0.4, 0.2, 0.6)), ("dog", (0.7, 0.4, 0.9, 0.6)))
    rng, told = random.Random(0), set()
    for e in (e for _ in range(200) for e in photo.examples(rng, ("relation",))):
        words = e.prompt.lower()
        cat_first, left = words.index("cat") < words.index("dog"), "left of" in words
        assert (e.answer == "true") == (cat_first == left), e
        assert "above" not in words and "below" not in words
        told.add((e.answer, left, cat_first))
    assert len(told) == 4                  # nothing can be guessed from the wording


def test_what_is_no_data_is_told(coco, tmp_path, capsys):
    """Guards: a traceback, or training begun, for a folder without annotations or too few."""
    common = ["--system", "pvit", "--stage", "1", "--out", tmp_path / "out"]
    refused(call(train.main, capsys, *common, "--data", tmp_path), "holds none of scenes.jsonl")
    refused(call(train.main, capsys, *common, "--data", coco / "instances.json", "--format",
                 "vsr"), "instances.json")
    refused(call(train.main, capsys, *common, "--data", coco), "--preset clip-smollm2")
    with pytest.raises(BadInput, match="4 pictures; at least 5"):
        photos.split(photos.read_photos(coco)[:4])


def test_options_that_mean_nothing_are_refused(coco, tmp_path, capsys):
    """Guards: a preset's option read by nobody, a system under another's preset."""
    for words, told in (
            (["--preset", "pvit-7b", "--system", "lmeye"], "belongs to pvit"),
            (["--vision", "x"], "the tiny preset has its own"), (["--format", "coco"], "--data"),
            (["--regions", "", "--system", "pvit"], "--regions '': is empty"),
            (["--preset", "lmeye-llama7b", "--system", "lmeye", "--tower", "x"], "no second CLIP"),
            (["--tags", "x", "--data", coco, "--system", "lyrics"], "--tags x: is for LION's"),
            (["--init", WEIGHTS / "pvit/stage1"], "is pvit stage 1; --init goes on"),
            (["--preset", "clip-smollm2", "--part", "llama", "--stage", "0"], "leave --part")):
        refused(call(train.main, capsys, "--stage", "1", "--out", tmp_path, *words), told)
    code, _, err = call(train.main, capsys, "--stage", "1", "--preset", "clip-smollm2", "--out",
                        tmp_path, "--data", coco)
    assert code == 2 and err.count("\n") == 1 and "clip-vit-base-patch16" in err, err
    assert "--vision FOLDER" in err        # the mend, without a network
    refused(call(infer.main, capsys, coco / "images" / "0.jpg", "What?", "--preset",
                 "clip-smollm2"), "nothing is bundled", "--weights")


# ---- training ------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("vision, llm", [("clip", "llama"), ("siglip", "qwen2"), ("registers", "gemma3")])
def test_pvit_trains_and_answers(coco, backbones, tmp_path, capsys, vision, llm):
    """Guards: PVIT's stages tied to the tiny tokenizer, or a run that infer.py cannot open."""
    for number in (1, 2):
        code, out, err = call(train.main, capsys, *stage(coco, backbones, tmp_path, "pvit",
                                                         number, vision, llm))
        assert code == 0 and "reg_nearest" in out and "8 photographs" in out, err
        code, out, err = call(infer.main, capsys, coco / "images" / "0.jpg",
                              "What is in [12,8,60,40]?", "--system", "pvit", "--weights",
                              tmp_path / "pvit" / f"stage{number}", "--json", "--show", tmp_path / "s.png")
    assert code == 0 and json.loads(out)["preset"] == "clip-smollm2", err
    assert "photograph" not in err and (tmp_path / "s.png").stat().st_size
    refused(call(infer.main, capsys, coco / "images" / "0.jpg", "What?", "--system", "pvit",
                 "--weights", tmp_path / "pvit" / "stage2", "--preset", "tiny"), "clip-smollm2")
    code, _, err = call(train.main, capsys, *stage(coco, backbones, tmp_path / "new", "pvit", 2,
                                                   vision, llm))
    assert code == 2 and "no pvit stage 1" in err and "train it first" in err


def test_held_out_photographs_are_scored(coco, capsys):
    """Guards: figures on photographs that were trained on."""
    code, out, err = call(evaluate.main, capsys, "--data", coco, "--format", "coco", "--held-out",
                          "--system", "pvit", "--json")
    result = json.loads(out)
    assert code == 0 and result["pictures"] == 2 and result["reg_exact"] is not None, err
    assert result["n"]["existence"] >= 4 and "shuffled" in result


@pytest.mark.slow
def test_lion_trains_through_its_stages(coco, backbones, tmp_path, capsys):
    """Guards: a stage of LION that needs the drawn world: tags, routes, the T5's order; a run made
    before the tag head refused after it."""
    for number in (1, 0, 2, 3, 4):
        code, out, err = call(train.main, capsys, *stage(coco, backbones, tmp_path, "lion", number,
                                                         llm="t5"))
        assert code == 0 and "wrote" in out, err
    code, out, err = call(infer.main, capsys, coco / "images" / "0.jpg", "Where is the circle?",
                          "--weights", tmp_path / "lion" / "stage4", "--show", tmp_path / "s.png")
    assert code == 0 and (tmp_path / "s.png").stat().st_size, err


def test_published_sizes_around_the_published_vit():
    """Guards: LION-FlanT5-XL trained with a small model's bridge."""
    whole = lion.settings_by_name("lion-flant5-xl")
    vision, llm = (SimpleNamespace(settings=s) for s in (whole.vision, whole.language))
    parts = Parts(vision, None, llm, range(32128), preset="lion-flant5-xl")
    lion.complete(parts)
    s = parts.published
    assert s.depths == (39, 29, 19) and s.qformer.width == 768 and s.qformer.vocab == 32128
    assert s.region_id > 32128 and s.mlp == whole.mlp
    vision.settings = replace(whole.vision, blocks=12)
    lion.complete(parts)
    assert parts.published.depths[0] == 12


def test_a_caption_is_the_data_sets_own():
    """Guards: Lyrics aligned with a list of kinds where people wrote a caption; an error, or an
    empty caption learnt, for a picture that has none."""
    told = photos.Photo(Path("x.jpg"), (Sample(Path("x.jpg"), "caption", "What?", "A cat."),))
    assert told.caption() == "A cat." and photo_of().caption() == ""
    draw = row_sampler(STAGE1, [told, photo_of(), CROWD], 3)
    assert {row for step in range(9) for row in draw(None, step, random.Random(step))} == {0, 2}
