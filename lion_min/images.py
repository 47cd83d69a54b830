"""Pictures in: any file a user may hand over -> an upright RGB picture -> the encoder's pixels.

Symbols: B batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ExifTags, Image, ImageOps

from lion_min import BadInput, check_file

if TYPE_CHECKING:                          # torch would make --help of the readers slow
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
# What the first bytes of other files say: a name that ends in .jpg proves nothing.
OTHERS = {b"ftypavi": "AVIF", b"ftyphei": "HEIC", b"ftyphev": "HEIC", b"ftypmif1": "HEIF",
          b"ftyp": "a video", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"8BPS": "PSD", b"%PDF": "PDF",
          b"<svg": "SVG", b"<?xml": "XML", b"<!DOCTYPE html": "a web page", b"<html": "a web page"}
MAX_PIXELS = 50_000_000  # a 50-megapixel camera; 150 MB once decoded

# The statistics CLIP was trained with (openai/CLIP, clip.py); LION's and PVIT's encoders use them.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)    # DINOv2's


def load_image(path: str | Path) -> Image.Image:
    """Read a PNG, JPEG, WEBP, BMP or GIF (first frame) as an upright RGB picture.

    Upright: a phone may store a photograph rotated, with a tag for its orientation; boxes refer to
    the displayed picture, so the tag is applied before anything else uses the size. Boxes of
    annotation files, which are of the stored picture, are turned alike (boxes.turn_box). Its
    `filename` is the path, by which datasets/tags.py knows it.
    Raises BadInput, one line, for whatever is not such a picture of at most 50 million pixels.
    """
    check_file(path, f"image {str(path)!r}")
    image = decode(path, repr(str(path)))
    image.filename = str(path)
    return image


def decode(source: str | Path | BytesIO, name: str) -> Image.Image:
    """`load_image` for a file that is there, or for bytes in memory; name: what a refusal names."""
    with _open(source, name) as image:
        # 11 KB of PNG can hold 268 MB of pixels: check the size before decoding any of them.
        if image.width * image.height > MAX_PIXELS:
            raise BadInput(f"image {name}: {image.width}x{image.height} pixels; "
                           f"shrink it below {MAX_PIXELS // 10**6} million pixels")
        try:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image) if orientation(image) != 1 else image)
        except Exception as error:  # decoders raise nearly anything on damaged bytes
            raise _damaged(name, error) from None


def stored_frame(path: str | Path) -> tuple[tuple[int, int], int]:
    """((width, height) as stored, EXIF orientation) of a picture; only its header is read.

    The upright picture exchanges the sides for the orientations boxes.SIDEWAYS. BadInput for a
    file that is no picture.
    """
    name = repr(str(path))
    check_file(path, f"image {name}")
    with _open(path, name) as image:
        try:
            return image.size, orientation(image)
        except OSError as error:    # a PNG is read to its end for its tag
            raise _damaged(name, error) from None


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (as stored) where there is none or it cannot be read: a sound
    picture is not lost for its tag."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except OSError:                 # the picture itself is cut off
        raise
    except Exception:               # header parsers raise nearly anything on damaged bytes
        return 1
    return value if value in range(1, 9) else 1


def _damaged(name: str, error: Exception) -> BadInput:
    return BadInput(f"image {name}: truncated or damaged ({_first_line(error)}); "
                    "save or download it again")


def _open(source: str | Path | BytesIO, name: str) -> Image.Image:
    """Read the header only; BadInput where it is not one of FORMATS."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ours is stricter
            warnings.simplefilter("ignore", UserWarning)          # of a damaged EXIF block
            return Image.open(source, formats=FORMATS)
    except Image.DecompressionBombError:  # Pillow's own refusal, above 179 million pixels
        raise BadInput(f"image {name}: far too many pixels; "
                       f"shrink it below {MAX_PIXELS // 10**6} million pixels") from None
    except Exception:
        with source if isinstance(source, BytesIO) else open(source, "rb") as file:
            file.seek(0)
            start = file.read(32)
        other = next((f", but {kind}" for sign, kind in OTHERS.items() if sign in start), "")
        raise BadInput(f"image {name}: not a readable picture{other}; "
                       f"give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode -> RGB: transparency over white, deep greys scaled down to 8 bits."""
    if image.mode.startswith("I"):  # 16-bit grey; plain convert() would cut it off at 255
        # 65535 / 257 = 255. Pillow allows only scale and offset here; +0.5 rounds.
        image = image.convert("I").point(lambda v: v * (1 / 257) + 0.5).convert("L")
    elif image.mode == "F":  # fractions when none exceeds 1, else already 0..255
        scale = 255 if image.getextrema()[1] <= 1 else 1
        image = image.point(lambda v: v * scale + 0.5).convert("L")
    elif image.has_transparency_data:  # RGBA, LA, and palettes or greys with one clear colour
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    return image.convert("RGB")


def to_pixels(images: Sequence[Image.Image], size: int, mean: Sequence[float] = CLIP_MEAN,
              std: Sequence[float] = CLIP_STD) -> Tensor:
    """RGB pictures of any sizes -> one normalised batch [B, 3, size, size], float32.

    Squashed to the square, not cropped, so that box fractions stay true (LION and PVIT do the
    same). Bicubic; Pillow widens the filter when it shrinks, which keeps thin things visible.
    """
    import torch
    pixels = torch.stack([_bytes(image.resize((size, size), Image.Resampling.BICUBIC))
                          for image in images])  # [B, size, size, 3]
    scaled = pixels.permute(0, 3, 1, 2).float() / 255  # [B, 3, size, size]
    return (scaled - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def _bytes(image: Image.Image) -> Tensor:
    """An RGB picture -> uint8 [height, width, 3], without NumPy."""
    import torch
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3)
