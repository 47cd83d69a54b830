"""Every way a record of the field's data can be wrong."""

import json

import pytest
from field_files import FILES, H, OWN, VG, W, read, written

from lion_min import BadInput
from lion_min.datasets import FORMATS, read_samples
from lion_min.datasets.__main__ import main
from lion_min.datasets.records import picture_frame


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
    (changed("vg", 0, regions=3), "record 1: regions is 3"), (("vg", [3]), "record 1"),
    (changed("vsr", 0, label=2), "line 1: label is 2"), (changed("vsr", 1, label=True), "line 2"),
    (changed("vsr", 0, caption=None), "line 1: caption is None"),
    (changed("pope", 1, label="maybe"), "line 2: label is 'maybe'"),
    (changed("pope", 0, image="../x.jpg"), "line 1: picture '../x.jpg'"),
    (("pope", [[]]), "line 1: a list, not a JSON object"),
    (changed("llava", 0, image=7), "record 1: image is 7"),
    (changed("llava", 0, image=None), "no good record .*1 text-only conversation"),
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
    (changed("samples", 1, prompt=" "), "line 2: prompt has 0")]


@pytest.mark.parametrize("data, told", BAD, ids=[f"{d[0]}-{t[:30]}" for d, t in BAD])
def test_bad_records_name_file_and_record(field, data, told):
    """A record skipped in silence, a traceback, or a box quietly taken for another one."""
    with pytest.raises(BadInput, match=told) as caught:
        read(field, *data)
    message = str(caught.value)
    assert FILES[data[0]][0] in message and "\n" not in message and len(message) < 600


@pytest.mark.parametrize("form", FORMATS)
def test_bad_files(field, form):
    """A missing, damaged or empty file ended in a traceback, or in an empty list."""
    path = written(field, form)
    for content, told in ((b"{", "not JSON"), (b"\xff\xfe{}", "UTF-8"), (b"[" * 99_999, "not JSON"),
                          (b"", "the file is empty|not JSON|no good record")):
        path.write_bytes(content)
        with pytest.raises(BadInput, match=told) as caught:
            list(read_samples(path, form, field))
        assert path.name in str(caught.value)
    path.unlink()
    with pytest.raises(BadInput, match="no such file"):
        list(read_samples(path, form, field))


def test_hostile_refs_stop_at_the_door(field):
    """RefCOCO's pickle was opened by the ordinary unpickler."""
    (field / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'touch OWNED'\ntR.")
    with pytest.raises(BadInput, match=r"refs\(unc\).p: asks for GLOBAL"):
        list(read_samples(field / "refs(unc).p", "refcoco"))


def test_on_bad_leaves_out_and_goes_on(field):
    """One bad region of Visual Genome's five million stopped the training."""
    told = []
    data = [*changed("vg", 0, "regions", 0, width=0)[1], *VG]
    assert len(list(read_samples(written(field, "vg", data), "vg", on_bad=told.append))) == 1
    assert len(told) == 1 and "record 1, region 1" in str(told[0])


def test_check_lists_every_bad_record(field, capsys):
    """The command stopped at the first bad record, or returned 0."""
    path = written(field, "samples", [OWN[0], {**OWN[0], "task": "x"}, OWN[1], {"image": "no"}])
    path.write_bytes(path.read_bytes() + b"\n{\n")
    assert main(["check", str(path)]) == 2
    told = capsys.readouterr()
    assert [line.split(": ")[0][-6:] for line in told.out.splitlines()[:3]] == [
        "line 2", "line 4", "line 5"]
    assert "1  left out: task missing" in told.out and "1  left out: not JSON" in told.out
    assert "3 bad, 2 good" in told.err and told.err.count("\n") == 1
    (field / "images" / "COCO_9.jpg").write_bytes(b"no picture")
    picture_frame.cache_clear()
    assert main(["check", str(written(field, "pope")), "--format", "pope"]) == 2
    assert "not a readable picture" in capsys.readouterr().out
    assert main(["check", str(written(field, "vsr").rename(field / "x.json"))]) == 2
    assert "--format" in capsys.readouterr().err
