"""Drawn pictures: where the ink goes, and what happens to the file."""

import resource

import pytest
import torch
from PIL import Image, ImageChops

from lion_min import BadInput
from lion_min.drawing import (COLOURS, SHORT_SIDE, draw_boxes, enlarge, heat_map, panel,
                              sampling_points, save_image)


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


@pytest.mark.parametrize("box", [(0, 0, .1, .1), (.9, 0, 1, .05), (0, .95, .1, 1), (.9, .9, 1, 1),
                                 (0, 0, 1, 1), (.5, .5, .5001, .5001)])
def test_labels_stay_inside_and_are_legible(box):
    """Guards: a label cut off by the picture's edge, the commonest fault of such drawings."""
    image = Image.new("RGB", (64, 64), "grey")
    for label in ("red circle", "a label far too long for any picture of this size " * 3):
        bare = draw_boxes(image, [box], [""], ["#e69f00"])
        drawn = draw_boxes(image, [box], [label], ["#e69f00"])
        left, top, right, bottom = ink(bare, drawn)
        assert 0 <= left < right <= SHORT_SIDE and bottom - top >= 15
        # The patch is whole: its own colour stands on all four rims, so no letter was cut.
        patch = drawn.crop((left + 1, top + 1, right - 1, bottom - 1))
        w, h = patch.size
        for rim in (patch.crop((0, 0, 1, h)), patch.crop((w - 1, 0, w, h))):
            assert rim.getcolors() == [(h, (230, 159, 0))]


def test_two_labels_do_not_hide_each_other():
    """Guards: the prompt's box and the answer's box on one object, one label over the other; zip()
    dropping the last box's label in silence."""
    image, box = Image.new("RGB", (64, 64), "grey"), (.3, .3, .7, .7)
    one = draw_boxes(image, [box, box], ["first", ""], ["red", "blue"])
    two = draw_boxes(image, [box, box], ["first", "second"], ["red", "blue"])
    bare = draw_boxes(image, [box, box], ["", ""], ["red", "blue"])
    x1, y1, x2, y2 = ink(bare, one)
    assert ink(one.crop((x1, y1, x2, y2)), two.crop((x1, y1, x2, y2))) is None
    assert ink(one, two) is not None
    with pytest.raises(ValueError):
        draw_boxes(image, [box], ["a", "b"])


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2000, 1500), (5, 300)])
def test_odd_sizes(size):
    """Guards: a crash, or gigabytes of enlarged picture, on a sliver."""
    image = Image.new("RGB", size, "grey")
    drawn = draw_boxes(image, [(0, 0, 1, 1), (.5, .5, .6, .6)], ["whole", "a 🦁\nnew line {}"])
    assert max(drawn.size) <= 4096 and min(drawn.size) >= 1
    assert heat_map(image, torch.rand(8, 8)).size == drawn.size


def test_heat_is_where_the_weight_is():
    """Guards: rows and columns exchanged, hot and cold exchanged, NaN from a flat map."""
    image, weights = Image.new("RGB", (64, 64), "grey"), torch.zeros(4, 8)
    weights[1, 6] = 0.3
    warm = heat_map(image, weights)
    red = {(x, y): warm.getpixel((24 + 48 * x, 48 + 96 * y))[0] for x in range(8) for y in range(4)}
    assert max(red, key=red.get) == (6, 1) and red[6, 1] - red[1, 2] > 80
    flat, cold = heat_map(image, torch.ones(4, 8)), warm.getpixel((24, 336))
    assert flat.getextrema() == tuple((v, v) for v in cold)
    assert heat_map(image, torch.full((2, 2), float("nan"))).size == warm.size


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


def test_panel_has_every_tile_and_bar():
    """Guards: a tile lost at the row's end; bars of the two adapters exchanged."""
    red, wide = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (900, 300), "red")
    for count in (1, 3, 4):
        sheet = panel([(red, "a title much too long for the tile it stands above" * 2)] * count)
        colours = {c: n for n, c in sheet.getcolors(1 << 20)}
        assert colours[255, 0, 0] >= count * SHORT_SIDE**2
    region, image = ((230, 159, 0), (86, 180, 233))
    assert COLOURS[:2] == ("#e69f00", "#56b4e9")
    seen = {c: n for n, c in panel([(wide, "w")], [(0.9, 0.1), (0.8, -0.2)]).getcolors(1 << 20)}
    assert seen[region] > 5 * seen[image] > 0
    assert panel([(red, "r")] * 4, columns=4).size == (4 * 396 + 12, 438)  # one row
    many = panel([(red, "m")], [(1.0, 0.0)] * 48)  # FlanT5-XL: 24 encoder and 24 decoder layers
    assert many.size == panel([(red, "m")], [(1.0, 0.0)]).size


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
