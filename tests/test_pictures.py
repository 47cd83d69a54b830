"""The class's pictures and the example picture are of the bundled weights, and of the code."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from commands import call, refused
from PIL import Image, ImageChops, ImageStat

from lion_min import launch
from lion_min.images import load_image
from lion_min.parts import WEIGHTS, tiny_parts
from lion_min.studies import example, pictures
from lion_min.studies.sheets import FULL
from lion_min.studies.trace import trace


def test_the_pictures_are_what_the_command_draws(tmp_path, capsys):
    """Guards: a picture of last month's weights or code; one that is not in the list, or too large
    to be shown in a page or to be cloned."""
    code, _, err = call(pictures.main, capsys, "--out", tmp_path)
    assert code == 0, err
    assert {path.name for path in pictures.FOLDER.iterdir()} == {f"{n}.png" for n in pictures.PICTURES}
    for name in pictures.PICTURES:
        drawn, kept = (Image.open(folder / f"{name}.png").convert("RGB")
                       for folder in (tmp_path, pictures.FOLDER))
        again = f"{name}.png: draw it again: python -m lion_min.studies.pictures"
        assert drawn.width == kept.width <= FULL, name
        assert abs(drawn.height - kept.height) < 0.1 * kept.height, again
        apart = ImageStat.Stat(ImageChops.difference(drawn, kept.resize(drawn.size))).mean
        assert max(apart) < 8, again
    assert sum(path.stat().st_size for path in pictures.FOLDER.iterdir()) < 2_000_000


def test_all_systems_know_the_example():
    """Guards: an example picture that the first command of README gets wrong; one too small."""
    scene, image = example.example_scene(), load_image(example.EXAMPLE)
    asked = example.questions(scene)
    assert min(image.size) >= 256 and {"reg", "rec", "colour", "count", "relation"} <= {
        one.task for one in asked}
    assert example.mistakes(image, asked) == []
    for name in ("README.md", ".ci/run"):
        text = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
        named = re.findall(r'example\.png"?,? "([^"]+)"', text)
        assert named and {*named} <= {one.prompt for one in asked}, name


def test_the_example_stays_while_it_fits(tmp_path, monkeypatch, capsys):
    """Guards: another picture, and other boxes in the documents, after every training."""
    monkeypatch.setattr(example, "EXAMPLE", tmp_path / "example.png")
    monkeypatch.setattr(example, "SCENES", 3000)
    known = [s for s in (example.make_scene(example.WORLD, "heldout", 1, i) for i in range(3000))
             if example.clear(s)]
    wrong = {known[0].seed, known[1].seed}
    monkeypatch.setattr(example, "mistakes", lambda image, asked: [("lion", "?", "!")] * (
        asked[0] in {a for s in known[:2] if s.seed in wrong for a in example.questions(s)[:1]}))
    example.choose()
    assert example.example_scene() == known[2]
    wrong.clear()                                          # the first ones would fit now, too
    example.choose()
    assert example.example_scene() == known[2]
    Image.new("RGB", (8, 8)).save(example.EXAMPLE)
    with pytest.raises(example.BadInput, match="names no scene"):
        example.example_scene()


@pytest.mark.parametrize("name, stage, changed, shape", [
    ("lion", 4, "qformer", "[1, {}, 128]"), ("lion", 4, "bottleneck", "5 x (128 -> {} -> 128)"),
    ("pvit", 2, "depths", "[1, 64, {}] -> [1, 64, 128]")])
def test_the_diagram_shows_the_models_shapes(name, stage, changed, shape):
    """Guards: shapes written by hand, which stay when a model changes; a missing module."""
    image, stage = load_image(example.EXAMPLE), launch.stage_of(name, stage)
    value = {"qformer": lambda s: replace(s.qformer, queries=7), "bottleneck": lambda s: 20,
             "depths": lambda s: (0, 1, 4)}[changed]
    shown = {"qformer": (4, 7), "bottleneck": (32, 20), "depths": (256, 384)}[changed]
    known = example.opened(name)
    other = type(known)(tiny_parts(WEIGHTS), replace(stage, changes={
        changed: value(known.model.settings)}))
    before, after = (trace(s, image, "describe box [0.1,0.1,0.5,0.5]") for s in (known, other))
    for column, number, absent in zip((before, after), shown, shown[::-1]):
        labels = " | ".join(column.labels())
        assert shape.format(number) in labels and shape.format(absent) not in labels
        assert all(part.file and part.shapes for part in (column.vision, *column.parts, *column.llm))
        assert [part.trained for part in (column.vision, column.llm[0])] == [False, name == "pvit"]


def test_an_unknown_picture_is_refused(capsys):
    """Guards: a picture's name mistyped, and nothing is drawn in silence."""
    refused(call(pictures.main, capsys, "--only", "ruoter"), "ruoter", "router")


def test_a_place_is_refused_before_the_drawing(tmp_path, monkeypatch, capsys):
    """Guards: half a minute of drawing, or a new example picture, that nothing comes of."""
    monkeypatch.setattr(pictures, "picture", lambda name: pytest.fail("was drawn"))
    monkeypatch.setattr(example, "choose", lambda: pytest.fail("was chosen"))
    refused(call(pictures.main, capsys, "--out", tmp_path / "none", "--example"), "create it first")
