"""Every reader on a small file of the field's exact form, and every way a record can be wrong."""

import json
import pickle

import pytest
from PIL import Image

from lion_min import BadInput
from lion_min.boxes import BoxText
from lion_min.datasets import FORMATS, main, read_samples
from lion_min.images import to_pixels
from lion_min.records import picture_size

W, H = 64, 32
COCO = {"info": {"year": 2014}, "licenses": [],
        "images": [{"id": 9, "file_name": "COCO_9.jpg", "width": W, "height": H, "license": 1}],
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
        "annotations": [
            {"id": 5, "image_id": 9, "category_id": 18, "bbox": [16, 8.0, 32, 16], "area": 512,
             "iscrowd": 0, "segmentation": [[16, 8, 48, 8, 48, 24]]},
            {"id": 6, "image_id": 9, "category_id": 18, "bbox": [0, 0, 9, 9], "iscrowd": 1}]}
CAPTIONS = {"images": COCO["images"], "annotations": [
    {"id": 1, "image_id": 9, "caption": "A dog. "}, {"id": 2, "image_id": 9, "caption": "Dogs"}]}
REFS = [{"ref_id": 3, "ann_id": 5, "image_id": 9, "category_id": 18, "split": "testA",
         "file_name": "COCO_9_16.jpg", "sent_ids": [7, 8], "sentences": [
             {"sent_id": 7, "sent": "big dog", "raw": "Big dog!", "tokens": ["big", "dog"]},
             {"sent_id": 8, "sent": "the left one", "raw": "the left one", "tokens": []}]}]
VG = [{"id": 1, "regions": [
    {"region_id": 1382, "image_id": 1, "x": 32, "y": 0, "width": 32, "height": 16,
     "phrase": "a red roof"}]}]
VSR = [{"image": "COCO_9.jpg", "image_link": "http://images.cocodataset.org/train2017/COCO_9.jpg",
        "caption": "The dog is left of the cat.", "label": 1, "relation": "left of",
        "annotator_id": 31, "vote_true_validator_id": [2], "vote_false_validator_id": []},
       {"image": "COCO_9.jpg", "caption": "The dog is on the cat.", "label": 0, "relation": "on"}]
POPE = [{"question_id": 1, "image": "COCO_9.jpg", "text": "Is there a dog in the image?",
         "label": "yes"},
        {"question_id": 2, "image": "COCO_9.jpg", "text": "Is there a cat in the image?",
         "label": "no"}]
LLAVA = [{"id": "0009", "image": "coco/COCO_9.jpg", "conversations": [
    {"from": "human", "value": "<image>\nWhat is it? [0.1, 0.1, 0.2, 0.2]"},
    {"from": "gpt", "value": "A dog."},
    {"from": "human", "value": "Its colour?\n<image>"}, {"from": "gpt", "value": "Red."}]}]
PVIT = [{"id": 1, "image": "COCO_9.jpg", "conversations": [
    {"from": "human", "value": "<image>\nWhat is <Region><L250><L500><L750><L1000></Region>?"},
    {"from": "gpt", "value": "A dog."},
    {"from": "human", "value": "And <Region>[0.0, 0.125, 0.5, 0.25]</Region>?"},
    {"from": "gpt", "value": "A cat."}]}]
OWN = [{"image": "COCO_9.jpg", "task": "rec", "prompt": "Where is the dog?",
        "answer": "[16, 8, 48, 24]", "boxes": [[0.25, 0.25, 0.75, 0.7504]], "split": "val"},
       {"id": 4, "image": "COCO_9.jpg", "task": "vqa", "prompt": "And [0.5,0,1,0.5]?",
        "answer": "A cat", "turns": [["What is in [0.25,0.25,0.75,0.75]?", "A dog"]]}]
FILES = {"coco": ("instances.json", COCO), "captions": ("captions.json", CAPTIONS),
         "refcoco": ("refs(unc).json", REFS), "vg": ("region_descriptions.json", VG),
         "vsr": ("dev.jsonl", VSR), "pope": ("coco_pope_random.json", POPE),
         "llava": ("llava.json", LLAVA), "pvit": ("pvit.json", PVIT), "samples": ("s.jsonl", OWN)}
BOX = (0.25, 0.25, 0.75, 0.75)


@pytest.fixture
def folder(tmp_path):
    """The pictures where each format keeps them, and the instances that RefCOCO looks up."""
    for name in ("images/COCO_9.jpg", "coco/COCO_9.jpg", "VG_100K_2/1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (W, H), "white").save(tmp_path / name)
    (tmp_path / "instances.json").write_text(json.dumps(COCO))
    return tmp_path


def written(folder, form, data=None):
    name, exact = FILES[form]
    data = exact if data is None else data
    lines = form in ("vsr", "pope", "samples")
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in data) if lines else json.dumps(data)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def read(folder, form, data=None):
    return list(read_samples(written(folder, form, data), form))


def test_coco(folder):
    """xywh taken for xyxy, pixels for fractions, a crowd's box for an object's."""
    (sample,) = read(folder, "coco")
    assert (sample.image, sample.task, sample.answer) == (
        folder / "images" / "COCO_9.jpg", "reg", "dog")
    assert sample.boxes == (BOX,) == tuple(BoxText().parse(sample.prompt)) and sample.region_level
    assert sample.draw().size == (W, H)


def test_captions(folder):
    """One caption of five was kept; spaces behind a caption were learned."""
    first, second = read(folder, "captions")
    assert (first.answer, second.answer, first.task) == ("A dog.", "Dogs", "caption")
    assert first.prompt != second.prompt and not first.boxes and not first.region_level


@pytest.mark.parametrize("how", [".json", 0, 2, 4])
def test_refcoco(folder, how):
    """Expressions of one object lost, splits mixed, the ref's own file_name opened."""
    path = written(folder, "refcoco")
    if how != ".json":
        path = folder / "refs(unc).p"
        path.write_bytes(pickle.dumps(REFS, how))
    first, second = read_samples(path, "refcoco", folder)
    assert "big dog" in first.prompt and "the left one" in second.prompt
    assert first.image.name == "COCO_9.jpg" and {first.split, second.split} == {"testA"}
    assert first.answer == second.answer == "[0.250,0.250,0.750,0.750]" and first.boxes == (BOX,)


def test_vg(folder):
    """The size of a Visual Genome picture stands in no record; its folder has two parts."""
    (sample,) = read(folder, "vg")
    assert sample.boxes == ((0.5, 0.0, 1.0, 0.5),) and sample.answer == "a red roof"
    assert "[0.500,0.000,1.000,0.500]" in sample.prompt and sample.image.parent.name == "VG_100K_2"


def test_vsr_and_pope(folder):
    """A label turned round, or read as the answer '1'."""
    assert [(s.task, s.prompt, s.answer) for s in read(folder, "vsr")] == [
        ("relation", "The dog is left of the cat. True or false?", "true"),
        ("relation", "The dog is on the cat. True or false?", "false")]
    assert [(s.task, s.prompt, s.answer) for s in read(folder, "pope")] == [
        ("existence", r["text"], r["label"]) for r in POPE]


def test_llava(folder):
    """Only a conversation's first answer was taught, or later ones without what came before."""
    first, second = read(folder, "llava")
    assert first.prompt == "What is it? [0.1, 0.1, 0.2, 0.2]" and first.turns == ()
    assert (second.prompt, second.answer) == ("Its colour?", "Red.")
    assert second.turns == ((first.prompt, "A dog."),) and second.boxes == ()
    late = [{**LLAVA[0], "conversations": [{"from": "gpt", "value": "Hi"},
                                           *LLAVA[0]["conversations"]]}]
    assert read(folder, "llava", late) == [first, second]


def test_pvit(folder):
    """Region tokens left in the text; boxes of earlier turns lost."""
    first, second = read(folder, "pvit")
    assert first.prompt == "What is [0.250,0.500,0.750,1.000]?"
    assert first.boxes == ((0.25, 0.5, 0.75, 1.0),)
    assert second.boxes == (*first.boxes, (0.0, 0.125, 0.5, 0.25)) and len(second.turns) == 1


def test_own(folder):
    """Pixels of a hand-written record taken for fractions; unrounded boxes lost."""
    first, second = read(folder, "samples")
    assert first.answer == "[0.250,0.250,0.750,0.750]" and first.split == "val"
    assert first.boxes == ((0.25, 0.25, 0.75, 0.7504),)
    assert second.turns == (("What is in [0.250,0.250,0.750,0.750]?", "A dog"),)
    assert second.boxes == (BOX, (0.5, 0.0, 1.0, 0.5)) and second.split == ""


def test_texts_of_a_line_with_odd_breaks(folder):
    """A line separator inside a text (U+2028) cut its JSON line in two."""
    odd = [{**POPE[0], "text": "Is there\u2028a dog?"}, POPE[1]]
    assert [s.prompt for s in read(folder, "pope", odd)][0] == "Is there\u2028a dog?"


def test_boxes_keep_to_their_picture(folder):
    """A crop or flip on the way to the encoder, with the boxes left behind (lion.md, C25)."""
    picture = Image.new("RGB", (W, H))
    picture.paste("white", (16, 8, 48, 24))
    picture.save(folder / "images" / "COCO_9.jpg", quality=100)
    (sample,) = read(folder, "coco")
    pixels = to_pixels([sample.draw()], 32, (0, 0, 0), (1, 1, 1))[0, 0]  # [32, 32]
    x1, y1, x2, y2 = (round(v * 32) for v in sample.boxes[0])
    inside = pixels[y1:y2, x1:x2].sum()
    assert inside > 0.95 * (x2 - x1) * (y2 - y1) and inside > 0.9 * pixels.sum()


def changed(form, *keys, **fields):
    """The format's data with fields of the record under `keys` replaced; None: taken out."""
    data = json.loads(json.dumps(FILES[form][1]))
    record = data
    for key in keys:
        record = record[key]
    record.update(fields)
    for name in [n for n, v in fields.items() if v is None]:
        del record[name]
    return form, data


def coco_box(*numbers):
    return changed("coco", "annotations", 0, bbox=list(numbers))


def said(*turns):
    return changed("pvit", 0, conversations=[{"from": a, "value": b} for a, b in turns])


def region(text):
    return said(("human", text), ("gpt", "x"))


BAD = [
    (changed("coco", "annotations", 0, bbox=None), "annotation 1: bbox is None"),
    (coco_box(1, 2, 3), "bbox has 3 numbers"), (coco_box(1, 2, "3", 4), "ordinary numbers"),
    (coco_box(float("nan"), 2, 3, 4), "ordinary"), (coco_box(10**400, 2, 3.0, 4), "ordinary"),
    (coco_box(10, 10, 0, 5), "reversed or empty"), (coco_box(10, 10, 60, 5), "leaves the image"),
    (coco_box(0, 0, 1, 1), "less than a pixel"), (coco_box(-5, 4, 20, 20), "leaves the image"),
    (changed("coco", "annotations", 0, image_id=8), "image_id 8 is not among the images"),
    (changed("coco", "annotations", 0, image_id=[9]), r"image_id is \[9\]"),
    (changed("coco", "annotations", 0, category_id=1), "category_id 1 is not among"),
    (changed("coco", "images", 0, file_name="no.jpg"), "image 1: picture 'no.jpg' is not in"),
    (changed("coco", "images", 0, file_name="a" * 999), "image 1: picture 'aaa"),
    (changed("coco", "images", 0, file_name="a\0b"), "image 1: picture"),
    (changed("coco", "images", 0, width=H, height=W), "its boxes are of another frame"),
    (changed("coco", "images", 0, width="64"), "image 1: width is '64'"),
    (changed("coco", "categories", 0, name=" "), "category|categorie.* has 0 characters"),
    (changed("coco", annotations={}), "annotations is {}; a list"),
    (("coco", []), "instances.json: a list, not a JSON object"),
    (changed("captions", "annotations", 0, caption=3), "annotation 1: caption is 3"),
    (changed("captions", "annotations", 0, caption="\ud800"), "not valid text"),
    (changed("captions", "annotations", 0, caption="a" * 30_000), "1 to 20000"),
    (changed("refcoco", 0, ann_id=77), "record 1: ann_id 77 is not among"),
    (changed("refcoco", 0, image_id=8), "record 1: image_id is another"),
    (changed("refcoco", 0, split=None), "split is None"),
    (changed("refcoco", 0, sentences=[]), "sentences is empty"),
    (changed("refcoco", 0, "sentences", 1, sent=""), "record 1, sentence 2: sent has 0"),
    (("refcoco", {"refs": []}), "a list is needed"),
    (changed("vg", 0, "regions", 0, width=0), "record 1, region 1: box .* reversed or empty"),
    (changed("vg", 0, "regions", 0, x=None), "ordinary numbers"),
    (changed("vg", 0, "regions", 0, phrase=""), "phrase has 0"),
    (changed("vg", 0, "regions", 0, image_id=2), "picture '2.jpg'"),
    (changed("vg", 0, regions=3), "record 1, regions: a int"), (("vg", [3]), "record 1"),
    (changed("vsr", 0, label=2), "line 1: label is 2"), (changed("vsr", 1, label=True), "line 2"),
    (changed("vsr", 0, caption=None), "line 1: caption is None"),
    (changed("pope", 1, label="maybe"), "line 2: label is 'maybe'"),
    (changed("pope", 0, image="../x.jpg"), "line 1: picture '../x.jpg'"),
    (("pope", [[]]), "line 1: a list, not a JSON object"),
    (changed("llava", 0, image=None), "record 1: image is None"),
    (changed("llava", 0, conversations=[]), "conversations is empty"),
    (changed("llava", 0, "conversations", 1, value=7), "conversation 2: value is 7"),
    (changed("llava", 0, "conversations", 2, value="<image>\n"), "conversation 3: value has 0"),
    (said(("human", "a")), "each of human"), (said(("gpt", "a")), "0 texts"),
    (said(("human", "a"), ("human", "b")), "conversation 2: from is 'human'; 'gpt'"),
    (said(("human", "a"), ("gpt", "b"), ("system", "c"), ("gpt", "d")), "conversation 3"),
    (region("<Region><L1><L2><L3></Region>"), "has no four numbers"),
    (region("<Region>[0.1,0.2,0.3]</Region>"), "3 numbers"),
    (region("<Region><L700><L200><L300><L400></Region>"), "reversed"),
    (region("<Region><L1><L1><L1500><L1900></Region>"), "not in fractions"),
    (region("<Region>[0.1,0.2,0.3,0.4]"), "without its </Region>"),
    (changed("samples", 0, task="dance"), "line 1: task 'dance' is none of"),
    (changed("samples", 0, anwser="x"), "unknown field 'anwser'"),
    (changed("samples", 0, answer="[48, 8, 16, 24]"), r"line 1: answer: box .* reversed"),
    (changed("samples", 0, answer="[1,2,3]"), "line 1: answer: box .* has 3 numbers"),
    (changed("samples", 0, boxes=[]), "boxes holds 0, but the texts name 1"),
    (changed("samples", 0, boxes=[3]), "must be a list of"),
    (changed("samples", 0, boxes=[[0.2, 0.25, 0.75, 0.75]]), "other ones than the texts"),
    (changed("samples", 0, boxes=[[16, 8, 48, 24]]), "not in fractions"),
    (changed("samples", 1, turns=[["a"]]), "line 2: turns must be"),
    (changed("samples", 1, turns="ab"), "line 2: turns is 'ab'"),
    (changed("samples", 1, prompt=" "), "line 2: prompt has 0"),
]


@pytest.mark.parametrize("data, told", BAD, ids=[f"{d[0]}-{t[:30]}" for d, t in BAD])
def test_bad_records_name_file_and_record(folder, data, told):
    """A record skipped in silence, a traceback, or a box quietly taken for another one."""
    with pytest.raises(BadInput, match=told) as caught:
        read(folder, *data)
    message = str(caught.value)
    assert FILES[data[0]][0] in message and "\n" not in message and len(message) < 600


@pytest.mark.parametrize("form", FORMATS)
def test_bad_files(folder, form):
    """A missing, damaged or empty file ended in a traceback, or in an empty list."""
    path = written(folder, form)
    for content, told in ((b"{", "not JSON"), (b"\xff\xfe{}", "UTF-8"), (b"[" * 99_999, "not JSON"),
                          (b"", "not JSON|no good record")):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=told) as caught:
            list(read_samples(path, form, folder))
        assert path.name in str(caught.value)
    path.unlink()
    with pytest.raises(BadInput, match="no such file"):
        list(read_samples(path, form, folder))


def test_hostile_refs_stop_at_the_door(folder):
    """RefCOCO's pickle was opened by the ordinary unpickler."""
    (folder / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'touch OWNED'\ntR.")
    with pytest.raises(BadInput, match=r"refs\(unc\).p: byte 0 asks for GLOBAL 'os system'"):
        list(read_samples(folder / "refs(unc).p", "refcoco"))


def test_on_bad_leaves_out_and_goes_on(folder):
    """One bad region of Visual Genome's five million stopped the training."""
    told = []
    data = [*changed("vg", 0, "regions", 0, width=0)[1], *VG]
    assert len(list(read_samples(written(folder, "vg", data), "vg", on_bad=told.append))) == 1
    assert len(told) == 1 and "record 1, region 1" in str(told[0])


def test_size_is_of_the_displayed_picture(tmp_path):
    """A phone's photo lies on its side in the file; its boxes are of the upright one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (W, H)).save(tmp_path / "phone.jpg", exif=exif)
    assert picture_size(tmp_path / "phone.jpg") == (H, W)


def test_check_counts(folder, capsys):
    """A good file that the command refused, or counted wrongly."""
    assert main(["check", str(written(folder, "samples"))]) == 0
    assert "2 samples of 1 pictures, 3 boxes" in (out := capsys.readouterr().out)
    assert "1  rec, val" in out and "1  vqa\n" in out
    assert main(["check", str(written(folder, "coco")), "--format", "coco"]) == 0


def test_check_lists_every_bad_record(folder, capsys):
    """The command stopped at the first bad record, or returned 0."""
    path = written(folder, "samples", [OWN[0], {**OWN[0], "task": "x"}, OWN[1], {"image": "no"}])
    path.write_bytes(path.read_bytes() + b"\n{\n")
    assert main(["check", str(path)]) == 2
    told = capsys.readouterr()
    assert [line.split(": ")[0][-6:] for line in told.out.splitlines()] == [
        "line 2", "line 4", "line 5"]
    assert "3 bad, 2 good" in told.err and told.err.count("\n") == 1
    (folder / "images" / "COCO_9.jpg").write_bytes(b"no picture")
    picture_size.cache_clear()
    assert main(["check", str(written(folder, "pope")), "--format", "pope"]) == 2
    assert "not a readable picture" in capsys.readouterr().out
    assert main(["check", str(written(folder, "coco"))]) == 2
    assert "--format" in capsys.readouterr().err
