"""PVIT's region encoders beside test_parity_pvit.py: the resize, the frozen norm, one image at a time."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from lion_min.features import encode_images
from lion_min.images import CLIP_MEAN, CLIP_STD
from lion_min.pretrained.crops import CropRegions, CropSettings
from lion_min.published.regionclip import (FrozenBatchNorm, RegionCLIP, RegionCLIPSettings,
                                           region_pixels, region_size)
from lion_min.pvit.region_encoder import TinyRegions, TinyRegionSettings
from lion_min.vision import VisionEncoder, VisionSettings

SMALL = RegionCLIPSettings(layers=(1, 1, 1, 1), width=8, heads=4, output=12, resolution=64,
                           shortest=64, longest=107)


@pytest.fixture(scope="module")
def encoder() -> RegionCLIP:
    torch.manual_seed(0)
    encoder = RegionCLIP(SMALL).eval().requires_grad_(False)
    for norm in (m for m in encoder.modules() if isinstance(m, FrozenBatchNorm)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    return encoder


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (12 * 16 * 3,), generator=generator, dtype=torch.uint8)
    return Image.frombytes("RGB", (16, 12), bytes(noise.tolist())).resize((width, height))


def test_the_norm_is_frozen_and_a_batch_norm_in_eval():
    """Guards: statistics that follow the batch in training, eps outside the root."""
    torch.manual_seed(2)
    norm, x = FrozenBatchNorm(4).train(), torch.randn(2, 4, 3, 3)
    for buffer in norm.buffers():
        buffer.uniform_(0.1, 2)
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    for _ in range(2):
        torch.testing.assert_close(norm(x), expected)
    assert list(norm.parameters()) == [] and len(norm.state_dict()) == 4


@pytest.mark.parametrize("size, resized", [
    ((640, 480), (1067, 800)), ((480, 640), (800, 1067)), ((2000, 600), (1333, 400)),
    ((101, 100), (808, 800)), ((1333, 800), (1333, 800)), ((64, 64), (800, 800))])
def test_shortest_edge(size, resized):
    """Guards: width and height exchanged, the limit of the long side forgotten or applied first."""
    assert region_size(*size, 800, 1333) == resized


def test_resize_is_bilinear_and_normalised_with_clips_statistics():
    """Guards: bicubic, which overshoots at an edge; BGR or ImageNet statistics (spec 2.2)."""
    edge = Image.new("RGB", (8, 8), (100, 110, 120))
    edge.paste((150, 160, 170), (4, 0, 8, 8))
    pixels, _ = region_pixels([edge], 64, 64)
    for channel, low, mean, std in zip(pixels[0], (100, 110, 120), CLIP_MEAN, CLIP_STD):
        values = (channel * std + mean) * 255
        assert values.min().item() == pytest.approx(low, abs=0.01)
        assert values.max().item() == pytest.approx(low + 50, abs=0.01)
        assert values.round().unique().numel() > 4                        # a slope, not a step


def test_padding_is_the_mean_colour():
    """Guards: padding before the normalisation (black borders) or on the wrong side."""
    pixels, sizes = region_pixels([picture(60, 40), picture(40, 60)], 40, 100)
    assert pixels.shape == (2, 3, 60, 60) and sizes.tolist() == [[60, 40], [40, 60]]
    assert pixels[0, :, 40:].eq(0).all() and pixels[1, :, :, 40:].eq(0).all()
    assert pixels[0, :, :40].ne(0).all() and pixels[1, :, :, :40].ne(0).all()
    alone = region_pixels([picture(40, 60)], 40, 100)[0]
    assert torch.equal(pixels[1:, :, :, :40], alone)


def test_a_feature_does_not_depend_on_its_neighbours(encoder):
    """Guards: a region pooled from another image of the batch; padding seen inside a box."""
    images = [picture(96, 64, 1), picture(80, 80, 2)]
    boxes = torch.tensor([[.1, .1, .4, .5], [.2, .2, .6, .7], [.3, .1, .5, .4]])
    index = torch.tensor([0, 1, 0])
    both = encoder.pool(encoder.encode_images(images), boxes, index)
    assert both.shape == (3, 12) and (both[0] - both[2]).abs().max() > 1e-4
    for i, image in enumerate(images):
        maps, mine = encoder.encode_images([image]), index == i
        alone = encoder.pool(maps, boxes[mine], torch.zeros_like(index[mine]))
        torch.testing.assert_close(both[mine], alone, rtol=0, atol=1e-6)


def test_no_regions(encoder):
    """Guards: a batch in which nobody asks about a box crashing in a convolution."""
    tiny = TinyRegions(TinyRegionSettings(vision_width=6))
    for regions, maps in ((encoder, encoder.encode_images([picture(64, 64)])),
                          (tiny, [torch.ones(1, 17, 6)] * 5)):
        none = regions.pool(maps, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
        assert none.shape == (0, regions.width)


def test_autocast_changes_no_feature(encoder):
    """Guards: features cached in float32 and trained on in bfloat16."""
    def feature():
        return encoder.pool(encoder.encode_images([picture(64, 64)]),
                            torch.tensor([[.1, .2, .8, .9]]), torch.tensor([0]))
    exact = feature()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(feature(), exact)


def test_tiny_regions_read_their_depths_without_cls():
    """Guards: CLS taken for the first patch, depths in another order, features not flattened."""
    tiny = TinyRegions(TinyRegionSettings(vision_width=2, depths=(0, 4), bins=1))
    states = [torch.full((1, 17, 2), float(d)) for d in range(5)]
    for state in states:
        state[:, 0] = 100
    pooled = tiny.pool(states, torch.tensor([[0., 0, 1, 1]]), torch.tensor([0]))
    assert pooled.tolist() == [[0, 0, 4, 4]] and tiny.width == 4


@torch.no_grad()
def test_crop_regions_see_each_box_alone():
    """The box of another picture or with x for y, the whole picture; the patches' mean before CLS; a
    feature that is kept under the box alone, and given for another picture."""
    vision = VisionEncoder(VisionSettings(image=16)).eval()
    crops, size = CropRegions(CropSettings(128, depth=3), vision), (40, 20)
    pictures = [picture(*size, seed=i) for i in range(2)]
    for i, image in enumerate(pictures):
        image.filename = f"{i}.png"
    boxes = torch.tensor([[.25, .5, .75, 1], [.25, .5, .75, 1], [0, 0, .001, .001]])
    found = crops.pool(pictures, boxes, torch.tensor([0, 1, 1]))
    cut = [pictures[0].crop((10, 10, 30, 20)), pictures[1].crop((10, 10, 30, 20)),
           pictures[1].crop((0, 0, 2, 2))]
    state = encode_images(vision, cut)[3]
    torch.testing.assert_close(found, torch.cat([state[:, 0], state[:, 1:].mean(1)], 1))
    assert crops.width == 256 and not [*crops.parameters()]
    crops.kept.look = None                         # every crop is known
    assert torch.equal(crops.pool(pictures, boxes[1:2], torch.tensor([1])), found[1:2])
    assert crops.pool(pictures, boxes[:0], torch.tensor([])).shape == (0, 256)


# ---- features of crops on the disk ---------------------------------------------------------------

BOXES = torch.tensor([[.25, .5, .75, 1], [0, .1, .5, .6], [.1, .1, .9, .9]])
ROWS = torch.tensor([0, 0, 1])             # of the pictures


@pytest.fixture
def vision() -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(VisionSettings(image=16)).eval().requires_grad_(False)


def kept_in(folder, vision: VisionEncoder, depth: int = 3) -> tuple[CropRegions, list[int]]:
    """(crops whose features are kept in the folder, how many boxes were encoded each time)."""
    crops, counts = CropRegions(CropSettings(128, depth), vision), []
    crops.kept.folder, look = folder, crops.kept.look

    def counted(cuts):
        counts.append(len(cuts))
        return look(cuts)

    crops.kept.look = counted
    return crops, counts


def test_kept_crops_are_those_encoded(vision, tmp_path):
    """Guards: another feature on the disk than the ViT's, in fewer digits, of another box; a run
    that encodes boxes of an earlier one again, or forgets those when it adds one."""
    pictures = [picture(40, 20, 0), picture(40, 20, 1)]
    fresh = CropRegions(CropSettings(128, 3), vision).pool(pictures, BOXES, ROWS)
    crops, counts = kept_in(tmp_path, vision)
    assert torch.equal(crops.pool(pictures, BOXES, ROWS), fresh) and counts == [3]
    assert len([*tmp_path.iterdir()]) == 2         # a file a picture, no temporary one
    crops, counts = kept_in(tmp_path, vision)
    assert torch.equal(crops.pool(pictures, BOXES, ROWS), fresh) and counts == []
    crops.pool(pictures, BOXES, 1 - ROWS)
    assert counts == [3]
    crops, counts = kept_in(tmp_path, vision)
    assert torch.equal(crops.pool(pictures, BOXES, ROWS), fresh) and counts == []


def test_kept_crops_know_picture_and_encoder(vision, tmp_path):
    """Guards: a feature of another picture under the same name, or without one; of another ViT, of
    another depth, input size or precision of the same ViT."""
    def pooled(image, vision=vision, depth=3):
        crops, counts = kept_in(tmp_path, vision, depth)
        found = crops.pool([image], BOXES[:1], torch.tensor([0]))
        return found, sum(counts)

    one, other = picture(40, 20, 0), picture(40, 20, 1)
    one.filename = other.filename = "a.png"
    first, count = pooled(one)
    second, another = pooled(other)
    assert count == another == 1 and not torch.allclose(first, second)
    other.filename = ""
    assert pooled(other)[1] == 0 and torch.equal(pooled(other)[0], second)
    assert pooled(one.resize((20, 40)))[1] == 1
    assert pooled(one, depth=2)[1] == 1
    torch.manual_seed(1)
    assert pooled(one, VisionEncoder(VisionSettings(image=16)).eval())[1] == 1
    vision.settings.ln_eps = 0.1                   # what no parameter tells
    assert len([*tmp_path.iterdir()]) == 5 and pooled(one)[1] == 1
    vision.settings.ln_eps = 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert pooled(one)[1] == 0 and pooled(one, vision.bfloat16())[1] == 1


def test_a_picture_in_memory_is_known_by_its_pixels(vision):
    """Guards: a feature given for another picture in memory, whose name is '' or whose id was used
    before; a folder that nobody asked for."""
    crops, found = CropRegions(CropSettings(128, depth=3), vision), []
    for i in range(2):
        image = picture(40, 20, seed=i)
        image.filename = ""
        found.append(crops.pool([image], BOXES[:1], ROWS[:1]))
    assert not torch.allclose(*found) and crops.kept.folder is None


@pytest.mark.parametrize("damage", [
    lambda path: path.write_bytes(path.read_bytes()[:-40]), lambda path: path.write_bytes(b""),
    lambda path: save_file({"boxes": BOXES[:2]}, path),
    lambda path: save_file({"boxes": BOXES[:2], "features": torch.zeros(2, 7)}, path),
    lambda path: save_file({"boxes": BOXES[:2], "features": torch.zeros(1, 256)}, path),
    lambda path: save_file({"boxes": BOXES[:2], "features": torch.full((2, 256), torch.nan)}, path)])
def test_a_broken_file_of_crops_is_made_anew(vision, tmp_path, damage):
    """Guards: features of a file that was cut off, or of another form; a run that ends there."""
    image, rows = picture(40, 20), torch.tensor([0, 0])
    fresh = kept_in(tmp_path, vision)[0].pool([image], BOXES[:2], rows)
    path, = tmp_path.iterdir()
    whole = path.read_bytes()
    damage(path)
    crops, counts = kept_in(tmp_path, vision)
    assert torch.equal(crops.pool([image], BOXES[:2], rows), fresh) and counts == [2]
    assert path.read_bytes() == whole
