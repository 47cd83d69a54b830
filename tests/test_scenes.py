"""The embedded world: what is drawn is what is told, and training never meets the held-out."""

import json
from collections import Counter
from dataclasses import asdict

import pytest
from PIL import Image, ImageChops, ImageStat

from lion_min.scenes import KINDS, WORLDS, Scene, Thing, World, main, make_scene

worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def scenes(world: World, split: str = "train", seed: int = 3, count: int = 300,
           pairs: str = "train") -> list[Scene]:
    return [make_scene(world, split, seed, i, pairs) for i in range(count)]


@worlds
def test_a_scene_is_a_function_of_its_key(world):
    """Guards: a global random state that makes a resumed run see other scenes; held-out scores on
    scenes that were trained on."""
    first, again = scenes(world, count=30), scenes(world, count=30)
    assert first == again and first[5] == make_scene(world, "train", 3, 5)
    assert [s.draw().tobytes() for s in first] == [s.draw().tobytes() for s in reversed(again)][::-1]
    sets = [{(s.objects, s.draw().tobytes()) for s in scenes(world, split, seed, 200, pairs)}
            for split, seed, pairs in (("train", 0, "train"), ("train", 1, "train"),
                                       ("heldout", 0, "train"), ("heldout", 0, "heldout"))]
    assert len(set.union(*sets)) == sum(map(len, sets)) > 4 * 165
    assert len({s.seed for split in ("train", "heldout") for seed in (1, 11)
                for s in scenes(world, split, seed, 120)}) == 4 * 120  # no "1/11" for "11/1"


@worlds
def test_heldout_pairs_are_in_no_training_scene(world):
    """Guards: a composed score that remembers; a pair held out in one world, shown in another."""
    every = set.union(*(w.heldout_pairs() for w in WORLDS.values()))
    seen = Counter((t.colour, t.kind) for s in scenes(world, count=1500) for t in s.objects)
    assert not every & set(seen)
    allowed = {(c, k) for c in world.colours for k in world.kinds} - world.heldout_pairs()
    assert set(seen) == allowed, "every other pair is trained"
    strange = {(t.colour, t.kind) for s in scenes(world, pairs="heldout") for t in s.objects}
    assert strange == world.heldout_pairs() and len(strange) == len(world.kinds)
    assert {k for _, k in strange} == set(world.kinds)


@worlds
def test_scenes_keep_the_world_s_rules(world):
    """Guards: overlaps that hide objects, sizes of the wrong name, too few or too many objects."""
    numbers = Counter()
    for scene in scenes(world):
        numbers[len(scene.objects)] += 1
        keys = []
        for i, t in enumerate(scene.objects):
            x1, y1, x2, y2 = (v * world.image for v in t.box)
            low, high = world.sizes[t.size]
            assert x2 - x1 == y2 - y1 and low <= x2 - x1 <= high
            assert 0 <= x1 and 0 <= y1 and x2 <= world.image and y2 <= world.image
            assert t.kind in world.kinds and t.colour in world.colours
            assert t.texture in world.textures
            keys.append((int(t.centre[1] * 8), int(t.centre[0] * 8)))
            for other in scene.objects[:i]:
                a, b = t.box, other.box
                assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
        assert keys == sorted(keys), "objects stand in reading order"
    low, high = world.objects
    assert set(numbers) == set(range(low, high + 1)) and min(numbers.values()) > 20
    assert all(len(make_scene(world, "train", 4, i, most=2).objects) <= 2 for i in range(50))


@worlds
def test_boxes_touch_what_is_drawn(world):
    """Guards: a box beside its object, or larger or smaller than it, on any side."""
    for scene in scenes(world, "heldout", 8, 120):
        last = scene.objects[-1]                       # the others are drawn alike without it
        without = Scene(world, scene.objects[:-1], scene.seed).draw()
        changed = ImageChops.difference(scene.draw(), without).convert("L").point(
            lambda v: 255 * (v > 6)).getbbox()
        box = [v * world.image for v in last.box]
        inside = all(a >= b - 1e-6 for a, b in zip(changed[:2], box[:2]))
        assert inside and all(a <= b + 1e-6 for a, b in zip(changed[2:], box[2:]))
        # Slack of a pixel: a tip covers only a small part of its own.
        slack = 2 if last.kind in ("moon", "heart") else 1  # blunt tips, drawn very thin
        assert all(abs(a - b) <= slack for a, b in zip(changed, box)), (last, changed, box)


@worlds
def test_a_larger_drawing_is_the_same_picture(world):
    """Guards: a picture for people that a model, which squashes it, takes for another one."""
    for scene in scenes(world, "heldout", 9, 20):
        small, large = scene.draw(), scene.draw(5)
        assert large.size == (5 * world.image,) * 2
        back = large.resize(small.size, Image.Resampling.BICUBIC)
        assert max(ImageStat.Stat(ImageChops.difference(back, small)).mean) < 5


def test_kinds_and_textures_look_different():
    """Guards: two kinds that are drawn alike, which no model could tell apart."""
    world = WORLDS["rich"]
    pictures = {(kind, texture): Scene(world, (Thing(kind, "red", "large", texture,
                                                     (0.25, 0.25, 0.5625, 0.5625)),), "same").draw()
                for kind in KINDS for texture in world.textures}
    for a in pictures:
        for b in pictures:
            if a < b:
                grey = ImageChops.difference(pictures[a], pictures[b]).convert("L")
                assert sum(grey.histogram()[30:]) > 40, (a, b)


def test_captions_name_every_object_in_order():
    """Guards: a caption whose objects are in another order than the truth, or a missing 'and'."""
    things = [Thing("star", "red", "small", "plain", (0, 0, 0.2, 0.2)),
              Thing("ring", "blue", "large", "striped", (0.5, 0, 0.8, 0.3)),
              Thing("moon", "pink", "large", "plain", (0, 0.5, 0.3, 0.8))]
    captions = [Scene(WORLDS["rich"], tuple(things[:n]), "x").caption() for n in (1, 2, 3)]
    assert captions == [
        "a small red star.", "a small red star and a large blue striped ring.",
        "a small red star, a large blue striped ring and a large pink moon."]


def test_the_command_writes_what_it_promises(tmp_path, capsys):
    """Guards: the contract of scenes.jsonl, on which other tools rely; a training scene handed
    out as an unseen one; a traceback for a file that stands where the folder should be."""
    out = tmp_path / "a" / "b"
    assert main([str(out), "--count", "4", "--seed", "99001"]) == 0
    lines = [json.loads(s) for s in (out / "scenes.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and "wrote 4 scenes" in capsys.readouterr().out
    for i, line in enumerate(lines):
        scene = make_scene(WORLDS["medium"], "heldout", 99001, i)
        assert Image.open(out / line.pop("file")).tobytes() == scene.draw().tobytes()
        assert line == json.loads(json.dumps({
            "width": 64, "height": 64, "objects": [asdict(t) for t in scene.objects],
            "caption": scene.caption()}))
        assert set(line["objects"][0]) == {"kind", "colour", "size", "texture", "box"}
    (tmp_path / "file").write_text("mine")
    assert main([str(tmp_path / "file"), "--count", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine"
