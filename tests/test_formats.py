"""Every reader on a small file of the field's exact form."""

import json
import pickle

import pytest
from field_files import BOX, COCO, H, LLAVA, OWN, POPE, PVIT, REFS, W, read, written
from PIL import Image

from lion_min.boxes import SIDEWAYS, BoxText, turn_box
from lion_min.datasets import read_samples
from lion_min.datasets.__main__ import main
from lion_min.images import to_pixels
from lion_min.datasets.records import picture_frame


def test_coco(field):
    """xywh taken for xyxy, pixels for fractions, a crowd's box for an object's."""
    (sample,) = read(field, "coco")
    assert (sample.image, sample.task, sample.answer) == (
        field / "images" / "COCO_9.jpg", "reg", "dog")
    assert sample.boxes == (BOX,) == tuple(BoxText().parse(sample.prompt)) and sample.region_level
    assert sample.draw().size == (W, H)


def test_captions(field):
    """One caption of five was kept; spaces behind a caption were learned."""
    first, second = read(field, "captions")
    assert (first.answer, second.answer, first.task) == ("A dog.", "Dogs", "caption")
    assert first.prompt != second.prompt and not first.boxes and not first.region_level


@pytest.mark.parametrize("how", [".json", 0, 2, 4])
def test_refcoco(field, how):
    """Expressions of one object lost, splits mixed, the ref's own file_name opened."""
    path = written(field, "refcoco")
    if how != ".json":
        path = field / "refs(unc).p"
        path.write_bytes(pickle.dumps(REFS, how))
    first, second = read_samples(path, "refcoco", field)
    assert "big dog" in first.prompt and "the left one" in second.prompt
    assert first.image.name == "COCO_9.jpg" and {first.split, second.split} == {"testA"}
    assert first.answer == second.answer == "[0.250,0.250,0.750,0.750]" and first.boxes == (BOX,)


def test_vg(field):
    """The size of a Visual Genome picture stands in no record; its folder has two parts."""
    (sample,) = read(field, "vg")
    assert sample.boxes == ((0.5, 0.0, 1.0, 0.5),) and sample.answer == "a red roof"
    assert "[0.500,0.000,1.000,0.500]" in sample.prompt and sample.image.parent.name == "VG_100K_2"


def test_vsr_and_pope(field):
    """A label turned round, or read as the answer '1'."""
    assert [(s.task, s.prompt, s.answer) for s in read(field, "vsr")] == [
        ("relation", "The dog is left of the cat. True or false?", "true"),
        ("relation", "The dog is on the cat. True or false?", "false")]
    assert [(s.task, s.prompt, s.answer) for s in read(field, "pope")] == [
        ("existence", r["text"], r["label"]) for r in POPE]


def test_llava(field):
    """Only a conversation's first answer was taught, or later ones without what came before."""
    first, second = read(field, "llava")
    assert first.prompt == "What is it? [0.1, 0.1, 0.2, 0.2]" and first.turns == ()
    assert (second.prompt, second.answer) == ("Its colour?", "Red.")
    assert second.turns == ((first.prompt, "A dog."),) and second.boxes == ()
    late = [{**LLAVA[0], "conversations": [{"from": "gpt", "value": "Hi"},
                                           *LLAVA[0]["conversations"]]}]
    assert read(field, "llava", late) == [first, second]


def test_pvit(field):
    """Region tokens left in the text; boxes of earlier turns lost."""
    first, second = read(field, "pvit")
    assert first.prompt == "What is [0.250,0.500,0.750,1.000]?"
    assert first.boxes == ((0.25, 0.5, 0.75, 1.0),)
    assert second.boxes == (*first.boxes, (0.0, 0.125, 0.5, 0.25)) and len(second.turns) == 1


def test_own(field):
    """Pixels of a hand-written record taken for fractions; unrounded boxes lost."""
    first, second = read(field, "samples")
    assert first.answer == "[0.250,0.250,0.750,0.750]" and first.split == "val"
    assert first.boxes == ((0.25, 0.25, 0.75, 0.7504),)
    assert second.turns == (("What is in [0.250,0.250,0.750,0.750]?", "A dog"),)
    assert second.boxes == (BOX, (0.5, 0.0, 1.0, 0.5)) and second.split == ""


def test_texts_of_a_line_with_odd_breaks(field):
    """A line separator inside a text (U+2028) cut its JSON line in two."""
    odd = [{**POPE[0], "text": "Is there\u2028a dog?"}, POPE[1]]
    assert [s.prompt for s in read(field, "pope", odd)][0] == "Is there\u2028a dog?"


def test_boxes_keep_to_their_picture(field):
    """A crop or flip on the way to the encoder, with the boxes left behind (lion.md, C25)."""
    picture = Image.new("RGB", (W, H))
    picture.paste("white", (16, 8, 48, 24))
    picture.save(field / "images" / "COCO_9.jpg", quality=100)
    (sample,) = read(field, "coco")
    pixels = to_pixels([sample.draw()], 32, (0, 0, 0), (1, 1, 1))[0, 0]  # [32, 32]
    x1, y1, x2, y2 = (round(v * 32) for v in sample.boxes[0])
    inside = pixels[y1:y2, x1:x2].sum()
    assert inside > 0.95 * (x2 - x1) * (y2 - y1) and inside > 0.9 * pixels.sum()


@pytest.mark.parametrize("form, width, upright", [
    ("coco", W, False), ("coco", H, False), ("coco", W, True), ("refcoco", W, False),
    ("refcoco", W, True), ("vg", W, False), ("pvit", W, False), ("samples", W, True)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_picture(field, form, width, upright, orientation):
    """Guards: a box that stays where the camera stored its object, while the picture turns; one
    turned although its set counts in the upright picture, as its width and height say."""
    exif, box = Image.Exif(), (0.25, 0.5, 0.5, 0.75)
    exif[0x0112] = orientation
    picture = Image.new("RGB", (width, H), "white")
    picture.paste("blue", [round(v * side) for v, side in zip(box, picture.size * 2)])
    for path in field.glob("*/*.jpg"):
        picture.save(path, "PNG", exif=exif)
    size = picture.size
    if upright and (form == "samples" or orientation in SIDEWAYS):
        box, size = turn_box(box, orientation), size[::-1] if orientation in SIDEWAYS else size
    x1, y1, x2, y2 = (round(v * side) for v, side in zip(box, size * 2))
    image = {**COCO["images"][0], "width": size[0], "height": size[1]}
    coco = COCO | {"images": [image], "annotations": [
        {**COCO["annotations"][0], "bbox": [x1, y1, x2 - x1, y2 - y1]}]}
    (field / "instances.json").write_text(json.dumps(coco))
    data = {"coco": coco, "refcoco": REFS, "vg": [{"regions": [
                {"image_id": 1, "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1,
                 "phrase": "a patch"}]}],
            "pvit": [{**PVIT[0], "conversations": [
                {"from": "human", "value": f"What is <Region>{list(box)}</Region>?"},
                {"from": "gpt", "value": "A patch."}]}],
            "samples": [{**OWN[0], "answer": str([x1, y1, x2, y2]), "boxes": [list(box)]}]}[form]
    picture_frame.cache_clear()
    sample = read(field, form, data)[0]
    shown = sample.draw()
    corners = [round(v * side) for v, side in zip(sample.boxes[0], shown.size * 2)]
    assert shown.crop(corners).getcolors() == [(width * H // 16, (0, 0, 255))]
    assert sample.boxes == tuple(BoxText().parse(sample.prompt) or BoxText().parse(sample.answer))


def test_check_counts(field, capsys):
    """A good file that the command refused, or counted wrongly."""
    assert main(["check", str(written(field, "samples"))]) == 0
    assert "2 samples of 1 pictures, 3 boxes" in (out := capsys.readouterr().out)
    assert "1  rec, val" in out and "1  vqa\n" in out
    assert main(["check", str(written(field, "coco")), "--format", "coco"]) == 0
