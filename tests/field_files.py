"""A small file of every format of the field, in its exact form, and how the tests read it."""

import json
from pathlib import Path

from PIL import Image

from lion_min.datasets import read_samples

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


def pictures(folder: Path) -> Path:
    """The pictures where each format keeps them, and the instances that RefCOCO looks up."""
    for name in ("images/COCO_9.jpg", "coco/COCO_9.jpg", "VG_100K_2/1.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (W, H), "white").save(folder / name)
    (folder / "instances.json").write_text(json.dumps(COCO))
    return folder


def write_coco(folder: Path, scenes: list, size: tuple[int, int], name_of, file: str) -> None:
    """instances.json of drawn scenes whose pictures are of that size; their files as `file` says."""
    names = sorted({name_of(t) for s in scenes for t in s.objects})
    data = {"images": [], "annotations": [],
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)]}
    for i, scene in enumerate(scenes):
        scene.draw().resize(size).save(folder / file.format(i))
        data["images"].append({"id": i, "file_name": Path(file.format(i)).name,
                               "width": size[0], "height": size[1]})
        for x1, y1, x2, y2, name in ((*t.box, name_of(t)) for t in scene.objects):
            data["annotations"].append({
                "image_id": i, "category_id": 1 + names.index(name), "iscrowd": 0, "bbox": [
                    x1 * size[0], y1 * size[1], (x2 - x1) * size[0], (y2 - y1) * size[1]]})
    (folder / "instances.json").write_text(json.dumps(data))


def written(folder, form, data=None):
    name, exact = FILES[form]
    data = exact if data is None else data
    lines = form in ("vsr", "pope", "samples")
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in data) if lines else json.dumps(data)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def read(folder, form, data=None):
    return list(read_samples(written(folder, form, data), form))
