"""--tags FILE: LION's tags of another tagger; its bad lines, and pictures that it lacks."""

import json

import pytest
from commands import call, refused

import infer
import train
from lion_min import BadInput, evaluate, launch
from lion_min.datasets.tags import TagFile
from lion_min.images import load_image
from lion_min.scenes import write_scenes

GOOD = {"image": "train2017/a.jpg", "tags": ["red", "hot dog"]}
BAD = {
    "line 2: not JSON": "{",
    "line 2: tags is None; a list is needed": {"image": "b.jpg"},
    "line 2: tag 2 is 'a, b'; words without commas": {"image": "b.jpg", "tags": ["a", "a, b"]},
    "line 2: scores is [0.5]; 2 numbers from 0 to 1": {"image": "b.jpg", "tags": ["a", "b"], "scores": [.5]},
    "line 2: unknown field 'tag'": {"image": "b.jpg", "tag": "a"},
    "line 2: image 'a.jpg' stands twice": {"image": "a.jpg", "tags": []},
}


def written(folder, *lines):
    file = folder / "tags.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


@pytest.mark.parametrize("told", BAD)
def test_bad_line(tmp_path, told, capsys):
    """A bad line without its number; one that ends the run, or passes unseen, or takes others along."""
    file = written(tmp_path, GOOD, BAD[told])
    assert TagFile(file).tags == {"a.jpg": ["red", "hot dog"]}
    assert "1 of 2 lines left out" in (line := capsys.readouterr().err) and told in line
    written(tmp_path, GOOD, *[BAD[told]] * 6)
    with pytest.raises(BadInput, match="6 of 7 lines"):
        TagFile(file)
    with pytest.raises(BadInput, match="is empty"):
        TagFile(written(tmp_path))


def test_low_scores_are_dropped(tmp_path):
    """A list of every class with its score taken for what is there."""
    file = written(tmp_path, {"image": "a.jpg", "tags": ["cat", "dog", "cow"], "scores": [.9, .2, .5]})
    assert TagFile(file).tags == {"a.jpg": ["cat", "cow"]}


@pytest.mark.slow
def test_train_evaluate_and_ask(tmp_path, capsys):
    """The tag head's words in spite of the file, or noise on top of it; a picture that the file lacks
    ends the run; other systems and stages that read the file without a word."""
    write_scenes(tmp_path / "data", 4, 3, "medium")
    pictures = sorted((tmp_path / "data").glob("*.png"))
    lines = [{"image": p.name, "tags": [f"word{i}"]} for i, p in enumerate(pictures)]
    file = written(tmp_path, *lines[:3])
    out, data = tmp_path / "out", ("--data", tmp_path / "data", "--tags", file)
    steps = ("--out", out, "--steps", 1, "--batch-size", 2)
    code, _, err = call(train.main, capsys, "--stage", 4, *steps, *data)
    assert code == 0, err
    assert "1 of 4 pictures left out (1 without tags); the first:" in err
    assert str(file) in (out / "lion/stage4/config.json").read_text()
    weights = ("--weights", out / "lion/stage4")
    code, _, err = call(evaluate.main, capsys, *weights, *data, "--no-shuffled")
    assert code == 0 and f"no line is about the picture '{pictures[3].name}'" in err

    system = launch.load("lion", out / "lion/stage4", "cpu")
    TagFile(file).give(system)
    images = [load_image(p) for p in pictures[:2]]
    features = system.encode(images)
    assert features["tags"] == [["word0"], ["word1"]]
    expected = system.answer(features, ["Describe the image."] * 2)
    assert system.ask(images[1], "Describe the image.").answer == expected[1]
    assert system.encode([images[0].convert("RGB")])["tags"] != [["word0"]]     # of no file

    ask = (pictures[0], "What is in the image?", "--tags", file)
    assert call(infer.main, capsys, *ask, *weights)[0] == 0
    refused(call(infer.main, capsys, pictures[3], *ask[1:]), "no line is about the picture", pictures[3].name)
    refused(call(infer.main, capsys, *ask, "--system", "pvit"), "reads no tags")
    refused(call(train.main, capsys, "--stage", 3, *steps, *data), "stage 4")
    refused(call(train.main, capsys, "--stage", 4, *steps, *data[2:]), "--data")
    refused(call(evaluate.main, capsys, *data[2:]), "--data")
