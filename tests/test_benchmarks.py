"""Systems on annotated pictures: what they are asked, beside which picture, and their scores."""

import json
import shutil
from dataclasses import replace

import pytest
from commands import call, refused
from field_files import write_coco
from oracle import SEED, WORLD, Knowing

from lion_min import BadInput, evaluate, launch
from lion_min.datasets import FORMATS, benchmarks, read_samples
from lion_min.datasets.records import Sample
from lion_min.scenes import Thing, make_scene
from lion_min.tasks import BOX

SCENES = [make_scene(WORLD, "heldout", SEED, i) for i in range(6)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of six drawn pictures, instances.json (REG), samples.jsonl (the other tasks)."""
    folder = tmp_path_factory.mktemp("field")
    write_coco(folder, SCENES, (WORLD.image,) * 2, Thing.words, "{}.png")
    lines = []
    for i, scene in enumerate(SCENES):
        first = scene.objects[0]
        lines += [{"image": f"{i}.png", "task": task, "prompt": prompt, "answer": answer,
                   "split": "val" if i else "train"} for task, prompt, answer in (
            ("rec", f"Where is the {first.words()}?", BOX.format(first.box)),
            ("existence", f"Is there a {first.words()}?", "yes"),
            ("vqa", "How many objects are there?", str(len(scene.objects))),
            ("caption", "Describe the image.", scene.caption()),
            ("caption", "What is in the image?", "some things of several colours"))]
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_the_bundled_lion_on_coco(drawn, capsys):
    """Guards: boxes, pictures or names that are lost between COCO's file and the score."""
    code, out, err = call(evaluate.main, capsys, "--data", drawn / "instances.json", "--format",
                          "coco", "--json", "--device", "cpu")
    result = json.loads(out)
    assert code == 0 and err == "" and out.count("\n") == 1
    assert result["n"] == {"reg": sum(len(s.objects) for s in SCENES)} and result["pictures"] == 6
    assert result["reg_exact"] > 0.7 and result["reg_nearest"] >= result["reg_exact"]
    assert result["shuffled"]["reg_exact"] < 0.3 and result["vqa_acc"] is None
    assert result.keys() >= {*benchmarks.SCORES, "seed", "seconds", "system", "weights", "format"}


def test_an_oracle_on_every_task(drawn):
    """Guards: answers at others' questions; the floor with the right pictures."""
    samples = [*read_samples(drawn / "instances.json", "coco"), *read_samples(drawn / "samples.jsonl")]
    samples = [replace(s, answer="a " + s.answer) if s.task == "reg" else s for s in samples
               if s.task != "vqa"]
    for batch in (1, 4, 100):
        result = benchmarks.score_samples(Knowing(), samples, batch)
        assert [result[name] for name in ("rec_acc50", "reg_exact", "reg_nearest", "exist_acc",
                                          "exist_f1", "exist_yes_rate")] == [1.0] * 6
        floor = result["shuffled"]
        assert floor["rec_acc50"] < 0.5 and floor["reg_exact"] < 0.3 and floor["exist_acc"] < 0.5
        assert floor["caption_cider"] < result["caption_cider"]
        assert 4 < result["caption_cider"] < 6, "a perfect one of two references"


class Echo(Knowing):
    """Answers with the picture's number and the prompt; counts what it sees."""

    def __init__(self):
        super().__init__()
        self.sizes, self.turns = {"pictures": [], "prompts": []}, []

    def encode(self, images):
        self.sizes["pictures"].append(len(images))
        return super().encode(images)

    def answer(self, features, prompts):
        self.sizes["prompts"].append(len(prompts))
        return [f"{scene.seed} {prompt}" for scene, prompt in zip(features, prompts)]


class Chatty(Echo):
    def answer(self, features, prompts, turns=None):
        self.turns += turns
        return super().answer(features, prompts)


@pytest.mark.parametrize("batch", [1, 2, 4, 50])
def test_each_question_beside_its_picture_and_the_next(drawn, batch):
    """Guards: chunks whose edges lose a question or its next picture; pictures seen twice."""
    asked = benchmarks.questions(read_samples(drawn / "instances.json", "coco"))[::-1]
    asked = asked[1::2] + asked[::2]
    order = list(dict.fromkeys(q[0].image for q in asked))
    system = Echo()
    right, floor = benchmarks.ask_all(system, asked, batch, (0, 1))
    for (sample, *_), *answers in zip(asked, right, floor, strict=True):
        row = order.index(sample.image)
        shown = [SCENES[int(order[r % 6].stem)].seed for r in (row, row + 1)]
        assert answers == [f"{seed} {sample.prompt}" for seed in shown]
    assert sum(system.sizes["pictures"]) == 6 and max(sum(system.sizes.values(), [])) <= batch


@pytest.mark.parametrize("kind", [Chatty, Echo])
def test_turns_go_to_systems_that_take_them(drawn, kind):
    """Guards: a follow-up question without what it follows; a keyword that a system lacks."""
    said, system = (("What is this?", "A star."),), kind()
    samples = [Sample(drawn / f"{i}.png", "chat", "Which colour?", "red", turns=said * i)
               for i in range(2)]
    assert benchmarks.score_samples(system, samples, shuffled=False)["n"] == {"chat": 2}
    assert system.turns == ([[], list(said)] if kind is Chatty else [])


def test_humans_and_captions_are_one_question(drawn, monkeypatch):
    """Guards: ten humans as ten questions; captions of other pictures as references; hours of
    comparing every answer with every phrase of Visual Genome."""
    a, b = drawn / "0.png", drawn / "1.png"
    samples = [Sample(a, "caption", "Describe it.", "x"), Sample(b, "caption", "What?", "y"),
               Sample(a, "vqa", "Why?", "so"), Sample(a, "caption", "What?", "z"),
               Sample(a, "vqa", "Why?", "thus"), Sample(b, "vqa", "Why?", "thus"),
               Sample(a, "reg", "Why?", "dog"), Sample(a, "reg", "Why?", "dog"),
               Sample(a, "vqa", "Why?", "no", turns=(("Who?", "I"),))]
    asked = benchmarks.questions(samples)
    assert [[s.answer for s in q] for q in asked] == [
        ["x", "z"], ["y"], ["so", "thus"], ["thus"], ["dog"], ["dog"], ["no"]]
    result = benchmarks.scores(asked, ["q", "q", "thus", "so", "dog", "cat", "No."])
    assert result["vqa_acc"] == pytest.approx(2 / 3, abs=1e-4) and result["reg_exact"] == 0.5
    assert result["reg_nearest"] == 0.5
    monkeypatch.setattr(benchmarks, "MAX_CLASSES", 0)      # more names are phrases, no classes
    assert benchmarks.scores(asked, ["q"] * 7)["reg_nearest"] is None


def test_drawing_some(drawn):
    """Guards: a caption that loses its references; draws that ignore the seed or the count."""
    samples = [replace(s, answer=str(i)) for i, s in
               enumerate(read_samples(drawn / "samples.jsonl"))]
    few = benchmarks.some(samples, 5, 1)
    assert len(benchmarks.questions(few)) == 5 and few == benchmarks.some(samples, 5, 1)
    assert any(few != benchmarks.some(samples, 5, seed) for seed in (2, 3))
    for question in benchmarks.questions(few):
        assert len(question) == (2 if question[0].task == "caption" else 1)
    assert len(benchmarks.some(samples, 999, 1)) == len(samples)


def test_bad_data_is_told_before_asking(drawn):
    """Guards: an hour of answers lost to a record without a box, or to a floor of one picture."""
    system = Echo()
    samples = [Sample(drawn / "0.png", "rec", "Where is it?", "on the left")]
    with pytest.raises(BadInput, match="holds no box"):
        benchmarks.score_samples(system, samples, shuffled=False)
    with pytest.raises(BadInput, match="--no-shuffled"):
        benchmarks.score_samples(system, samples)
    assert not system.sizes["pictures"]
    two = Sample(drawn / "0.png", "rec", "Where beside [0.100,0.100,0.200,0.200]?",
                 "[0.500,0.500,0.600,0.600]", ((0.1, 0.1, 0.2, 0.2), (0.5004, 0.5, 0.6, 0.6)))
    assert benchmarks.true_box(two) == (0.5004, 0.5, 0.6, 0.6)


@pytest.fixture
def knowing(monkeypatch):
    monkeypatch.setattr(launch, "load", lambda *_: Knowing())


def test_the_table_and_its_options(drawn, capsys, knowing):
    """Guards: --split, --count or --no-shuffled that change nothing; None in a table."""
    words = ["--data", drawn / "samples.jsonl", "--format", "samples"]
    code, out, _ = call(evaluate.main, capsys, *words)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and lines[0] == ["score", "right", "image", "shuffled"]
    assert lines[1][:2] == ["rec_acc50", "1.000"] and float(lines[1][2]) < 1
    assert lines[-2][:6] == ["24", "questions", "on", "6", "pictures", "of"]
    assert "reg_exact" not in out and "None" not in out
    _, out, _ = call(evaluate.main, capsys, *words, "--split", "val", "--no-shuffled")
    assert "20 questions on 5 pictures" in out and "shuffled" not in out
    result = json.loads(call(evaluate.main, capsys, *words, "--count", 7, "--json")[1])
    assert sum(result["n"].values()) == 7 and result["format"] == "samples"
    refused(call(evaluate.main, capsys, *words, "--split", "test"), "'test'", "'train', 'val'")


def test_bad_data_stops_or_is_told(drawn, tmp_path, capsys, knowing):
    """Guards: a record left out in silence; --skip-bad that hides why nothing is left; a traceback
    from the middle of the pictures."""
    good = (drawn / "samples.jsonl").read_text().splitlines()
    file = tmp_path / "own.jsonl"
    file.write_text("\n".join([good[0], "{", *good[1:], *["7"] * 6]))
    words = ["--data", file, "--format", "samples", "--images", drawn]
    refused(call(evaluate.main, capsys, *words), "own.jsonl line 2", "not JSON", "--max-bad")
    for allowed in (["--skip-bad"], ["--max-bad", 0.2]):
        code, out, err = call(evaluate.main, capsys, *words, *allowed)
        assert code == 0 and "24 questions" in out and err.count("\n") == 1
        assert "7 of 37 records left out (6 not an object, 1 not JSON)" in err and "line 2" in err
    file.write_text("{")
    code, out, err = call(evaluate.main, capsys, *words, "--skip-bad")
    assert code == 2 and out == "" and "line 1" in err and "no good record" in err
    shutil.copytree(drawn, tmp_path / "copy")
    (tmp_path / "copy" / "3.png").write_bytes((drawn / "3.png").read_bytes()[:-99])
    code, out, err = call(evaluate.main, capsys, "--data", tmp_path / "copy" / "samples.jsonl")
    assert code == 0 and "20 questions on 5 pictures" in out and err.count("\n") == 1
    assert "5 of 30 records left out (5 picture unreadable)" in err and "3.png" in err


@pytest.mark.parametrize("words, told", [
    ("--format coco", "--data"), ("--format voc", "voc"), ("--data . --format vg", "region_descriptions"),
    ("--data 0.png", "--format"), ("--data no.json --format vg", "no.json"),
    ("--data . --split val", "no sample of the split 'val'"), ("--images x", "annotation file"),
    ("--skip-bad", "annotation file"), ("--held-out", "--held-out"),
    ("--data . --held-out --split val", "--split"), ("--data . --max-bad 2", "from 0 to 1")])
def test_options_that_do_not_fit(drawn, capsys, monkeypatch, words, told):
    """Guards: an option that is read and ignored; a list of formats that fell behind."""
    assert evaluate.FORMATS == tuple(FORMATS)
    monkeypatch.chdir(drawn)
    refused(call(evaluate.main, capsys, *words.split()), told)
