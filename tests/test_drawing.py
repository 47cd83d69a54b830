"""Drawn pictures: where the ink goes, and what happens to the file."""

import resource

import pytest
import torch
from PIL import Image, ImageChops

from lion_min import BadInput
from lion_min.drawing import (COLOURS, SHORT_SIDE, draw_boxes, draw_outline, enlarge, frames,
                              heat_map, sampling_points, save_image, wrap, font_of)
from lion_min.explanation import AttentionMap, Detection, Explanation
from lion_min.panel import GAP, SIDE, draw_explanation, panel
from lion_min.system import Reply


def ink(before, after):
    """Bounding box of everything that changed, or None."""
    return ImageChops.difference(before, after).getbbox()


def test_box_lands_on_its_fractions():
    """Guards: boxes drawn in the small picture's pixels after it was enlarged; x, y exchanged."""
    image = Image.new("RGB", (64, 128), "grey")
    drawn = draw_boxes(image, [(0.25, 0.5, 0.75, 1)], [""])
    assert drawn.size == (SHORT_SIDE, 2 * SHORT_SIDE)
    assert ink(enlarge(image), drawn) == (96, 384, 288, 768)
    assert image.getpixel((16, 64)) == (128, 128, 128)  # the caller's picture is left alone


@pytest.mark.parametrize("labels", [["red circle"], ["first", "second", "third"],
                                    ["a label far too long for any picture of this size " * 3]])
def test_labels_cover_nothing(labels):
    """Guards: a label over an object, cut off by an edge, over another label, or lost."""
    image, boxes = Image.new("RGB", (64, 64), "grey"), [(0, 0, 1, 1), (.9, .9, 1, 1), (.3, .3, .7, .7)]
    boxes = boxes[:len(labels)]
    drawn = draw_boxes(image, boxes, labels)
    bare = draw_boxes(image, boxes, [""] * len(labels))
    assert bare.size == (SHORT_SIDE, SHORT_SIDE) and drawn.width == SHORT_SIDE
    assert ink(drawn.crop((0, 0, *bare.size)), bare) is None
    rows = [drawn.crop((0, top, SHORT_SIDE, top + 24)) for top in
            range(SHORT_SIDE + 8, drawn.height - 20, 24)]
    assert len(rows) >= len(labels)                             # a long one takes several
    for row, colour, _ in zip(rows, COLOURS, labels):           # its swatch, then whole letters
        assert row.getpixel((10, 8)) == tuple(bytes.fromhex(colour[1:]))
        left, _, right, _ = ink(row, Image.new("RGB", row.size, "white"))
        assert left < 10 and 40 < right < SHORT_SIDE - 2


def test_every_box_has_its_label():
    """Guards: zip() dropping the last box's label in silence."""
    with pytest.raises(ValueError):
        draw_boxes(Image.new("RGB", (64, 64)), [(.3, .3, .7, .7)], ["a", "b"])


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2000, 1500), (5, 300)])
def test_odd_sizes(size):
    """Guards: a crash, or gigabytes of enlarged picture, on a sliver."""
    image = Image.new("RGB", size, "grey")
    drawn = draw_boxes(image, [(0, 0, 1, 1), (.5, .5, .6, .6)], ["whole", "a 🦁\nnew line {}"])
    assert max(drawn.size) <= 4096 and min(drawn.size) >= 1
    assert heat_map(image, torch.rand(8, 8)).size == frames(image, [(0, 0, 1, 1)], ["red"]).size


def test_heat_is_where_the_weight_is():
    """Guards: rows and columns exchanged, a map that hides what it lies on, two maps on scales of
    their own, NaN from a flat map."""
    image, weights = Image.new("RGB", (64, 64), "grey"), torch.zeros(4, 8)
    weights[1, 6], weights[3, 0] = 0.4, 0.1

    def areas(picture):
        """Brightened pixels around the middle of each patch, which is 48 x 96 pixels."""
        return {(x, y): sum(picture.getpixel((48 * x + 4 + i, 96 * y + 48))[0] > 160
                            for i in range(40)) for x in range(8) for y in range(4)}
    seen = areas(heat_map(image, weights))
    assert [place for place, wide in seen.items() if wide] == [(0, 3), (6, 1)]
    assert 30 < seen[6, 1] <= 40 and abs(seen[0, 3] / seen[6, 1] - 0.5) < 0.1    # area: a quarter
    assert areas(heat_map(image, weights, most=1.6))[6, 1] == pytest.approx(seen[0, 3], abs=2)
    assert heat_map(image, weights).getpixel((288, 144)) < (255, 255, 255)       # half transparent
    assert len({*areas(heat_map(image, torch.ones(4, 8))).values()}) == 1
    assert not any(areas(heat_map(image, torch.full((4, 8), float("nan")))).values())


def test_outline_is_the_rim_alone():
    """Guards: a segment that hides its object, turned or mirrored."""
    picture, mask = Image.new("RGB", (384, 384), "grey"), torch.zeros(4, 4)
    mask[0, 2], mask[0, 3] = 1.0, 0.9
    plain = picture.copy()
    draw_outline(picture, mask, "red")
    left, top, right, bottom = ink(plain, picture)
    assert abs(left - 192) < 4 and top == 0 and right == 384 and abs(bottom - 96) < 4
    assert picture.getpixel((288, 48)) == (128, 128, 128) == picture.getpixel((240, 48))


def test_sampling_points_land_on_their_fractions():
    """Guards: rows and columns exchanged, dots in the small picture's pixels, a missing dot."""
    image = Image.new("RGB", (128, 64), "grey")
    drawn, grey = sampling_points(image, (0.0, 0.25, 1.0, 0.5), cells=4, bins=2), (128,) * 3
    assert drawn.size == (768, 384) and image.getpixel((64, 32)) == grey
    white = {(x, y) for x in range(768) for y in range(384)
             if drawn.getpixel((x, y)) == (255, 255, 255)}
    dots = {(x, y) for x in (96, 288, 480, 672) for y in (120, 168)}  # 2 and 1 samples a bin
    assert dots <= white and all(any(abs(x - u) + abs(y - v) < 8 for u, v in dots)
                                 for x, y in white)


def test_panel_has_every_tile():
    """Guards: a tile lost at the row's end, an empty one, words wider than the sheet."""
    red, step = Image.new("RGB", (64, 64), "red"), SIDE + GAP
    for count, columns in ((1, 1), (5, 3), (6, 3)):
        sheet = panel([(red, "a title much too long for the tile it stands above" * 2)] * count)
        colours = {c: n for n, c in sheet.getcolors(1 << 20)}
        assert colours[255, 0, 0] == count * SIDE**2 and sheet.width == columns * step + GAP
    assert panel([(red, "r")] * 4, columns=2).width == 2 * step + GAP
    assert panel([(red, "r")], side=100).width == 100 + 2 * GAP
    text = panel([(red, "r")], header=["many words " * 40])
    assert ink(text, Image.new("RGB", text.size, "white"))[2] <= SIDE + GAP
    assert wrap("one two three", font_of(18), 60) == ["one", "two", "three"]


MAPS = [AttentionMap("part", torch.rand(2, 1, 3, 16, generator=torch.Generator().manual_seed(0)),
                     ["a", "b", "c"], start=[1], moved=0.5),
        AttentionMap("other", torch.ones(1, 1, 1, 16), ["a"])]
FOUND = Explanation(4, [], MAPS, 3, {"region": [(.9, .1)] * 5, "image": [(0., -1.)] * 5}, "image",
                    ["red"], [Detection("red ring", .9, (.1, .1, .4, .4), torch.ones(4, 4))], "no")


@pytest.mark.parametrize("size", [(64, 64), (300, 90), (1, 1)])
@pytest.mark.parametrize("found, boxes, tiles, rows", [
    (FOUND, [(.1, .1, .5, .5), (.5, .5, 1, 1)], 5, 2), (FOUND, [], 4, 1),
    (Explanation(4, [], MAPS[:1]), [], 2, 1), (Explanation(4, [], [], detections=[]), [], 2, 1),
    (Explanation(4, [], MAPS, router={"region": [(1., 0.)] * 48, "image": [(0., 1.)] * 48},
                 route="region"), [], 3, 1)])
def test_a_sheet_shows_what_was_found(monkeypatch, size, found, boxes, tiles, rows):
    """Guards: a tile of what there is not, an empty tile, one map on its own scale; a map that is
    said to be led by the question though nothing is known of it; a sliver that stops all."""
    import lion_min.panel as module
    words, scales = [], []
    monkeypatch.setattr(module, "write_legend", lambda *a: words.extend(t for _, t in a[4]))
    monkeypatch.setattr(module, "heat_map", lambda image, share, most: scales.append(most) or image)
    image = Image.new("RGB", size, "grey")
    reply = Reply("Where?", "[0.1,0.1,0.2,0.2]", boxes, [], 0.0, {}, image, [])
    sheet = draw_explanation("LION", reply, found)
    assert (sheet.width - GAP) // (SIDE + GAP) == -(-tiles // rows) and len({*scales}) <= 1
    assert ("of the attention" in " ".join(words)) == bool(found.maps)
    assert ("image adapter" in words) == bool(found.router)
    assert ("50% of it moves with the question" in words) == bool(found.maps[:1] == MAPS[:1])
    assert not any("led by" in text for text in words)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpeg", "a.webp", "a.bmp"])
def test_saved_pictures_open_again(tmp_path, name):
    """Guards: a type that does not follow the extension; a transparent picture as JPEG."""
    save_image(Image.new("RGBA", (8, 6), "red"), tmp_path / name)
    assert Image.open(tmp_path / name).size == (8, 6)
    assert [p.name for p in tmp_path.iterdir()] == [name]  # no draft is left behind


def test_bad_outputs_and_a_failed_write(tmp_path):
    """Guards: a traceback after all the work is done, a folder or device replaced by a picture; a
    full disk turning yesterday's good picture into half of today's."""
    (tmp_path / "folder.png").mkdir()
    for name, word in (("a.xyz", "unknown"), ("a", "unknown"), ("no/a.png", "does not exist"),
                       ("folder.png", "not a file"), ("x" * 300 + ".png", "could not")):
        with pytest.raises(BadInput, match=f"^output [^\n]*{word}[^\n]*$"):
            save_image(Image.new("RGB", (4, 4)), tmp_path / name)
    path = tmp_path / "folder.png" / "good.bmp"
    save_image(Image.new("RGB", (8, 8), "red"), path)
    earlier, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # as a full disk would
    try:
        with pytest.raises(BadInput, match="could not be written"):
            save_image(Image.new("RGB", (400, 400)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == earlier and list(path.parent.iterdir()) == [path]
