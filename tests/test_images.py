"""Every odd and every broken picture a user may hand over; all made on the spot."""

import io
import os
import random
import struct
import zlib

import pytest
import torch
from PIL import Image, ImageDraw

from lion_min import BadInput
from lion_min.boxes import SIDEWAYS, turn_box
from lion_min.images import CLIP_MEAN, CLIP_STD, load_image, stored_frame, to_pixels, to_rgb

RED, BLUE = (220, 20, 30), (10, 40, 230)


def two_halves(width=40, height=20):
    """Red on the left, blue on the right: shows turning, mirroring and colour alike."""
    image = Image.new("RGB", (width, height), RED)
    ImageDraw.Draw(image).rectangle([width // 2, 0, width, height], fill=BLUE)
    return image


def near(pixel, colour, slack=12):
    return all(abs(a - b) <= slack for a, b in zip(pixel, colour))


def encoded(kind, **options):
    out = io.BytesIO()
    two_halves(200, 100).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("name, mode, options", [
    ("a.png", "RGB", {}), ("a.jpg", "RGB", {}), ("a.webp", "RGB", {"lossless": True}),
    ("a.bmp", "RGB", {}), ("a.gif", "P", {}), ("palette.png", "P", {}), ("clear.png", "RGBA", {}),
    ("cmyk.jpg", "CMYK", {"quality": 95}), ("no-extension", "RGB", {"format": "PNG"})])
def test_ordinary_files(tmp_path, name, mode, options):
    """Guards: a mode that arrives as anything but RGB, with its colours changed on the way."""
    two_halves().convert(mode).save(tmp_path / name, **options)
    image = load_image(tmp_path / name)
    assert image.mode == "RGB" and image.size == (40, 20)
    assert near(image.getpixel((5, 10)), RED, 40) and near(image.getpixel((35, 10)), BLUE, 40)


@pytest.mark.parametrize("size", [(40, 20), (40, 40)], ids=["wide", "square"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9])
def test_exif_rotation_is_obeyed(tmp_path, orientation, size):
    """Guards: phone photographs lying on their side, every box beside its object: a blue patch is
    where turn_box says, for each of the eight orientations and for numbers that are none."""
    exif, box = Image.Exif(), (0.25, 0.5, 0.5, 0.75)
    exif[0x0112] = orientation
    stored = Image.new("RGB", size, RED)
    stored.paste(BLUE, tuple(int(v * side) for v, side in zip(box, size * 2)))
    stored.save(tmp_path / "phone.png", exif=exif)
    assert stored_frame(tmp_path / "phone.png") == (size, orientation or 1 if orientation < 9 else 1)
    image = load_image(str(tmp_path / "phone.png"))
    assert image.size == (size[::-1] if orientation in SIDEWAYS else size)
    corners = [round(v * side) for v, side in zip(turn_box(box, orientation), image.size * 2)]
    assert image.crop(corners).getcolors() == [(size[0] * size[1] // 16, BLUE)]
    assert image.getexif().get(0x0112, 1) not in range(2, 9)  # or it would be turned again after saving


def test_transparency_lies_over_white(tmp_path):
    """Guards: clear pixels shown in whatever colour happened to be stored under them."""
    for name, mode, clear in (("rgba", "RGBA", (0, 0, 0, 0)), ("la", "LA", (0, 0))):
        Image.new(mode, (4, 4), clear).save(tmp_path / f"{name}.png")
    Image.new("P", (4, 4), 0).save(tmp_path / "p.png", transparency=0)
    Image.new("RGB", (4, 4), RED).save(tmp_path / "key.png", transparency=RED)
    for name in ("rgba", "la", "p", "key"):
        assert load_image(tmp_path / f"{name}.png").getpixel((1, 1)) == (255, 255, 255), name
    half = to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))
    assert near(half.getpixel((0, 0)), (127, 127, 127), 1)


def test_sixteen_bit_one_bit_and_float(tmp_path):
    """Guards: 16-bit greys cut off at 255 (nearly all white) instead of scaled."""
    levels = [0, 257, 128 * 257, 65535]
    deep = Image.frombytes("I;16", (4, 1), struct.pack("<4H", *levels))
    deep.save(tmp_path / "deep.png")
    assert Image.open(tmp_path / "deep.png").mode.startswith("I")
    read = load_image(tmp_path / "deep.png")
    assert [read.getpixel((x, 0)) for x in range(4)] == [(v,) * 3 for v in (0, 1, 128, 255)]
    Image.new("1", (4, 4), 1).save(tmp_path / "bit.png")
    assert load_image(tmp_path / "bit.png").getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.new("F", (2, 2), 0.5)).getpixel((0, 0)) == (128,) * 3
    assert to_rgb(Image.new("F", (2, 2), 200.0)).getpixel((0, 0)) == (200,) * 3


def test_animations_and_one_pixel(tmp_path):
    """Guards: the last frame, or a strip of all of them, standing for the picture; a division by
    zero on the smallest picture there is."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, BLUE)]
    for kind in ("GIF", "PNG", "WEBP"):
        frames[0].save(tmp_path / "moving", kind, save_all=True, append_images=frames[1:])
        image = load_image(tmp_path / "moving")
        assert image.size == (8, 8) and near(image.getpixel((4, 4)), RED), kind
    Image.new("RGB", (1, 1), RED).save(tmp_path / "dot.png")
    image = load_image(tmp_path / "dot.png")
    assert image.size == (1, 1) and to_pixels([image], 16).shape == (1, 3, 16, 16)


def bomb(side):
    """A valid one-bit PNG of side x side pixels in a few KB: zeros deflate a thousandfold."""
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    packer, row = zlib.compressobj(9), bytes(1 + (side + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)
            + chunk(b"IEND", b""))


def test_a_damaged_exif_block_turns_nothing(tmp_path):
    """Guards: a sound picture lost for its tag."""
    for seed in range(40):
        noise = random.Random(seed).randbytes(seed)
        Image.new("RGB", (3, 2), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + noise)
        assert load_image(tmp_path / "a.jpg").size == (3, 2)
        assert stored_frame(tmp_path / "a.jpg") == ((3, 2), 1)


@pytest.mark.parametrize("side", [7_100, 9_460, 20_000])
def test_bomb_is_refused_before_decoding(tmp_path, monkeypatch, recwarn, side):
    """Guards: an 11 KB file that fills the memory; Pillow itself only warns at this size."""
    (tmp_path / "bomb.png").write_bytes(bomb(side))
    assert os.path.getsize(tmp_path / "bomb.png") < 60_000  # 11 KB at a side of 9,460
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("the bomb was decoded"))
    with pytest.raises(BadInput, match="bomb.png.* 50 million"):
        load_image(tmp_path / "bomb.png")
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_damaged_files(tmp_path, kind):
    """Guards: a half-downloaded picture read as half grey, or a traceback from its decoder; the
    decoders' many exceptions (struct, zlib, syntax ...) reaching the user."""
    whole, path = encoded(kind), tmp_path / "cut"
    for share in (0.02, 0.5, 0.9):
        path.write_bytes(whole[:int(len(whole) * share)])
        with pytest.raises(BadInput, match="^image [^\n]*cut[^\n]*$"):
            load_image(path)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        data = bytearray(whole)
        for place in torch.randint(len(data), (6,), generator=generator).tolist():
            data[place] ^= 0x5a
        path.write_bytes(data)
        try:
            assert load_image(path).mode == "RGB"
        except BadInput as error:
            assert "\n" not in str(error)


def test_what_is_no_picture(tmp_path):
    """Guards: a traceback, or a hang on a pipe, for a path that holds no picture."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("RGB", (2, 2)).save(tmp_path / "old.tiff")
    os.mkfifo(tmp_path / "pipe.png")
    for name, word in (("missing.png", "no such file"), ("empty.png", "empty"),
                       ("text.png", "not a readable picture"), ("old.tiff", "give a PNG"),
                       ("", "not a file"), ("pipe.png", "not a file"), ("a\0b", "no such file"),
                       ("x" * 300, "no such file"), ("two\nlines.png", "no such file")):
        with pytest.raises(BadInput) as caught:
            load_image(str(tmp_path / name))
        message = str(caught.value)
        assert word in message and "\n" not in message
        assert repr(str(tmp_path / name)) in message


def test_to_pixels_frame_and_numbers():
    """Guards: channels last, rows and columns exchanged, crop for squash, mean and std mixed;
    resampling without antialias, which drops a line between two sampled points."""
    pixels = to_pixels([two_halves(), Image.new("RGB", (3, 9), (255, 0, 51))], 8)
    assert pixels.shape == (2, 3, 8, 8) and pixels.dtype == torch.float32
    expected = [(v / 255 - m) / s for v, m, s in zip((255, 0, 51), CLIP_MEAN, CLIP_STD)]
    torch.testing.assert_close(pixels[1].mean((1, 2)), torch.tensor(expected))
    raw = to_pixels([two_halves()], 8, (0, 0, 0), (1, 1, 1))[0] * 255
    assert near(raw[:, 4, 1].tolist(), RED, 3) and near(raw[:, 4, 6].tolist(), BLUE, 3)
    image = Image.new("RGB", (512, 512), "black")
    ImageDraw.Draw(image).line([101, 0, 101, 511], fill="white")
    raw = to_pixels([image], 64, (0, 0, 0), (1, 1, 1))
    assert 0.09 < raw.max() < 0.25  # one eighth of a cell is white
