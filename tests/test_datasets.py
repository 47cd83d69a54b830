"""Scenes read back from a folder, and every way in which a record can be wrong."""

import json

import pytest
from PIL import Image

from lion_min import BadInput
from lion_min.datasets import SCENES, read_scenes
from lion_min.scenes import WORLDS, make_scene, write_scenes

SMALL = WORLDS["small"]


@pytest.fixture
def folder(tmp_path):
    write_scenes(tmp_path, 5, 11, "small")
    return tmp_path


def rewrite(folder, change, line=1):
    """Change the record of one line of scenes.jsonl."""
    lines = (folder / SCENES).read_text().splitlines()
    record = json.loads(lines[line])
    changed = change(record)
    lines[line] = json.dumps(record) if changed is None else changed
    (folder / SCENES).write_text("\n".join(lines))


def test_what_was_written_is_read(folder):
    """Guards: objects reordered, boxes or words lost between the disk and the tasks; a drawing of
    the annotation in the place of the user's own picture."""
    stored = read_scenes(folder, SMALL)
    made = [make_scene(SMALL, "heldout", 11, i) for i in range(5)]
    for give in (lambda s: s.objects, lambda s: s.caption(), lambda s: s.draw().tobytes()):
        assert list(map(give, stored)) == list(map(give, made))
    Image.new("RGB", (30, 20), "red").save(folder / "scene_11_0002.png")
    assert read_scenes(folder, SMALL)[2].draw().getpixel((5, 5)) == (255, 0, 0)


def thing(**changed):
    return lambda record: record["objects"][0].update(changed)


@pytest.mark.parametrize("change, told", [
    (lambda r: "{", "not JSON"), (lambda r: "[" * 100_000, "not JSON"),
    (lambda r: "7", "not a JSON object"), (lambda r: r.pop("file") and None, "file is None"),
    (lambda r: r.update(file="gone.png"), "'gone.png' is not in"),
    (lambda r: r.update(width="64"), "width is '64'"), (lambda r: r.update(height=0), "no size"),
    (lambda r: r.update(objects=[]), "no object"), (lambda r: r.update(objects=[3]), "object 1"),
    (thing(kind="hexagon"), "'hexagon' is not of the world"), (thing(colour=None), "colour is"),
    (thing(size="huge"), "'huge'"), (thing(texture="striped"), "'striped'"),
    (thing(box=[0.1, 0.1, 0.5]), "3 numbers"), (thing(box=[0.5, 0.1, 0.2, 0.5]), "reversed"),
    (thing(box=[10, 10, 30, 30]), "not in fractions"), (thing(box=[0, 0, "a", 1]), "not made of"),
    (thing(box=[0, 0, float("nan"), 1]), "not finite"), (thing(box=None), "box is None")])
def test_bad_records_name_file_and_line(folder, change, told):
    """Guards: a record that is skipped in silence, or a traceback that names no line."""
    rewrite(folder, change)
    with pytest.raises(BadInput, match=r"scenes\.jsonl line 2") as caught:
        read_scenes(folder, SMALL)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("content, told", [
    (None, "holds no scenes.jsonl"), (b"\n\n", "holds no scene;"), (b"\xff\xfe", "UTF-8")])
def test_bad_folders(tmp_path, content, told):
    """Guards: an empty list of scenes that fails much later."""
    if content is not None:
        (tmp_path / SCENES).write_bytes(content)
    with pytest.raises(BadInput, match=told):
        read_scenes(tmp_path, SMALL)
