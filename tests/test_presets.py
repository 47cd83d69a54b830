"""The matrix of RESULTS.md: each preset with each of its systems, trained, asked and scored; and
every imported checkpoint. Tiny random folders stand for the published ones, in their layouts."""

import copy
import json
from pathlib import Path

import official_files as official
import pytest
import torch
from commands import call, refused
from field_files import write_coco
from official_files import run
from random_backbones import (write_blip2, write_clip, write_dino, write_eva, write_llama,
                              write_plain_llama, write_sam, write_t5, write_words)
from safetensors.torch import load_file, save, save_file
from test_ask_imported import write_bert

import infer
import train
from lion_min import checkpoints, evaluate, launch
from lion_min.features import join
from lion_min.images import load_image, to_pixels
from lion_min.language import LanguageModel
from lion_min.lmeye.prompt import prompt_ids
from lion_min.lyrics.prompt import line
from lion_min.pretrained import backbones, crops, tagging
from lion_min.pretrained.backbones import load_language
from lion_min.pretrained.presets import PRESETS
from lion_min.published import layouts, lmeye, lyrics, lyrics_refiner, regionclip
from lion_min.pvit.prompt import make_inputs
from lion_min.schedule import Plan
from lion_min.scenes import WORLDS, make_scene

DINO = ["--detector", "dino", "--segmenter", "sam"]
CELLS = {                                  # (preset, system) -> its stages, its parts
    ("clip-smollm2", "lion"): ("01234", ["--vision", "clip", "--llm", "llama"]),
    ("clip-smollm2", "pvit"): ("12", ["--vision", "clip", "--llm", "llama"]),
    ("clip-smollm2", "lmeye"): ("12", ["--vision", "clip", "--llm", "llama"]),
    ("clip-smollm2", "lyrics"): ("012", ["--vision", "clip", "--llm", "llama", *DINO]),
    ("lion-flant5-xl", "lion"): ("01234", ["--vision", "blip", "--llm", "t5"]),
    ("lion-flant5-xxl", "lion"): ("01234", ["--vision", "blip", "--llm", "t5"]),
    ("pvit-7b", "pvit"): ("12", ["--vision", "clip", "--llm", "plain", "--regions", "rc.pth"]),
    ("lmeye-llama7b", "lmeye"): ("12", ["--vision", "clip", "--llm", "plain"]),
    ("lmeye-flant5-xl", "lmeye"): ("12", ["--vision", "blip2", "--llm", "t5", "--tower", "clip"]),
    ("lyrics-vicuna13b", "lyrics"): (["all"], ["--vision", "blip", "--llm", "plain", *DINO[:2]]),
}
TRAINED = {                                # CLIP's text tower, around which they lie, is frozen
    ("lmeye-llama7b", "1"): {"img_proj", "e_img"},
    ("lmeye-llama7b", "2"): {"interaction.request", "interaction.decompose", "interaction.transmit",
                             "e_imgd"}}
IMPORTS = {
    "lion": ["--vision", "blip", "--llm", "t5"], "pvit": ["--vision", "wide", "--llm", "w35"],
    "lmeye": ["--vision", "clip", "--llm", "w48"],
    "lyrics": ["--vision", "bert20", "--llm", "w21", *DINO]}


def shard(folder: Path) -> Path:
    """model.safetensors in two files and their index, as large folders of the Hub have it."""
    tensors = load_file(folder / "model.safetensors")
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {key: names[i % 2] for i, key in enumerate(sorted(tensors))}
    for name in names:
        own = {k: v for k, v in tensors.items() if places[k] == name}
        save_file(own, folder / name, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": 1}, "weight_map": places}))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory, reference) -> Path:
    """A folder of backbones, of imported checkpoints and of ten photographs with COCO's objects."""
    root = tmp_path_factory.mktemp("place")
    for name, write in (("blip", write_eva), ("blip2", write_blip2), ("llama", write_llama),
                        ("t5", write_t5), ("dino", write_dino), ("sam", write_sam)):
        shard(write(root / name))
    shard(write_clip(root / "clip", positions=77))
    shard(write_clip(root / "wide", width=1024))
    write_words(shard(write_plain_llama(root / "plain", 60)), 60)
    for name in ("w21", "w35", "w48"):
        write_words(root / name, int(name[1:]))
    write_bert(root / "blip")
    (root / "bert20").mkdir()
    write_bert(root / "bert20", 20)
    for system in IMPORTS:
        (root / f"{system}-files").mkdir()
        values, more = (None, {"objects": 36}) if system == "lyrics" else (reference(system), {})
        words = getattr(official, f"write_{system}")(root / f"{system}-files", values, **more)
        assert run(system, words, root / f"imported-{system}") == 0
    (root / "pvit-files" / "rc.pth").rename(root / "rc.pth")
    (root / "coco" / "images").mkdir(parents=True)
    scenes = [make_scene(WORLDS["medium"], "train", 9, i) for i in range(10)]
    write_coco(root / "coco", scenes, (60, 40), lambda thing: thing.kind, "images/{}.jpg")
    return root


def read_once(kind: str, source, *rest, read=backbones._weights, known={}):
    """A copy of the model that backbones._weights reads."""
    key = kind, Path(source).absolute()
    known[key] = known.get(key) or read(kind, source, *rest)
    return copy.deepcopy(known[key])


@pytest.fixture(autouse=True)
def small(monkeypatch, place):
    """Few questions, short answers, pictures of their own size for RegionCLIP, Q-Formers of one
    layer instead of twelve; a folder's weights are read once."""
    bert, generate = {"q": 24, "g": 24, "K": 1}, LanguageModel.generate
    monkeypatch.setattr(LanguageModel, "generate", lambda self, *x, **options: generate(
        self, *x, **options | {"max_new_tokens": 3}))
    monkeypatch.setattr(regionclip, "region_size", lambda width, height, *_: (width, height))
    monkeypatch.setattr(backbones, "_weights", read_once)
    monkeypatch.chdir(place)
    monkeypatch.setattr(launch, "CHECKS", 2)
    monkeypatch.setattr(tagging, "PLAN", Plan(steps=1, lr=1e-3, warmup=1))
    monkeypatch.setattr(layouts, "BERT", layouts.BERT | bert)
    monkeypatch.setitem(lyrics.SIZES, "lyrics-vicuna13b", lyrics.SIZES["lyrics-vicuna13b"] | bert)


def stage(out: Path, preset: str, system: str, number: str, parts: list[str]) -> list:
    return ["--system", system, "--stage", number, "--preset", preset, *parts, "--data", "coco",
            "--steps", 1, "--batch-size", 2, "--precision", "fp32", "--device", "cpu", "--out", out]


def asked(capsys, system: str, weights: Path, parts: list[str], tmp_path: Path) -> str:
    """What infer.py answers, with a panel, and what evaluate says of the held-out photographs."""
    code, out, err = call(infer.main, capsys, "coco/images/0.jpg", "What is in [9,6,50,30]?",
                          "--system", system, "--weights", weights, *parts, "--json", "--show",
                          tmp_path / "panel.png")
    assert code == 0 and isinstance(json.loads(out)["answer"], str), err
    code, scores, err = call(evaluate.main, capsys, "--system", system, "--weights", weights,
                             *parts, "--data", "coco", "--held-out", "--count", 4, "--json")
    assert code == 0 and json.loads(scores)["pictures"] == 2 and "shuffled" in scores, err
    return json.loads(out)["preset"]


@pytest.mark.slow
@pytest.mark.parametrize("preset, system", CELLS)
def test_a_preset_trains_and_is_asked(place, tmp_path, capsys, monkeypatch, preset, system):
    """Guards: a stage that needs the drawn world; a run that is trained and then cannot be asked,
    or only with flags; a picture that the detector sees twice."""
    stages, parts = CELLS[preset, system]
    for number in stages:
        with monkeypatch.context() as patch:
            if (system, number) == ("lyrics", "2"):        # stage 1 has kept what was found
                patch.setattr(lyrics_refiner.PublishedRefiner, "detect", None)
            code, out, err = call(train.main, capsys,
                                  *stage(tmp_path, preset, system, number, parts))
            assert code == 0 and "wrote" in out, err
        if names := TRAINED.get((preset, number)):
            saved = checkpoints.load_run(tmp_path / system / f"stage{number}")[0]
            assert {n.removesuffix(".weight").removesuffix(".bias") for n in saved} == names
    last = "stage4" if system == "lion" else "stage2"
    assert asked(capsys, system, tmp_path / system / last, [], tmp_path) == preset


def test_the_matrix_is_whole():
    """Guards: a preset or a system without its row."""
    tiny = {("tiny", system) for system in PRESETS["tiny"].systems}
    assert {(p.name, s) for p in PRESETS.values() for s in p.systems} == CELLS.keys() | tiny


@pytest.mark.parametrize("system", IMPORTS)
def test_an_import_is_asked(place, tmp_path, capsys, system):
    """Guards: an imported checkpoint that nothing on the command line can use; missing parts told
    one after another."""
    weights = place / f"imported-{system}"
    assert asked(capsys, system, weights, IMPORTS[system], tmp_path) == "own"
    other = "--tower" if system == "pvit" else "--regions"
    refused(call(infer.main, capsys, "coco/images/0.jpg", "What?", "--system", system, other, "x"),
            "belongs to")
    needs = " ".join(f"--{name} DIR" for name in launch.published(system).NEEDS)
    refused(call(infer.main, capsys, "coco/images/0.jpg", "What?", "--system", system, "--weights",
                 weights), needs)


# ---- what the parts say --------------------------------------------------------------------------

def opened(place: Path, system: str):
    """An imported checkpoint, its flags given as keywords."""
    words = iter(IMPORTS[system])
    return launch.load(system, place / f"imported-{system}", "cpu", None,
                       **{flag[2:]: str(place / next(words)) for flag in words})


@torch.no_grad()
def test_lmeye_sees_clips_own_image_feature(place):
    """Guards: the feature before CLIP's last norm or projection; a text tower left at random."""
    clip = lmeye.load_clip(str(place / "clip"))
    pixels = to_pixels([load_image(place / "coco/images/0.jpg")], 32)
    states = lmeye.PooledClip(clip)(pixels)
    theirs = clip.get_image_features(pixel_values=pixels)
    theirs = getattr(theirs, "pooler_output", theirs)
    torch.testing.assert_close(states[-1][:, 0], theirs)
    own = lmeye.text_tower(clip).state_dict()
    assert own["text_projection.weight"].equal(clip.text_projection.weight)
    assert set(own) <= {k for k in clip.state_dict()}


def test_imported_prompts_are_the_official_ones(place):
    """Guards: an image that the text does not hold, marks of a region with other ids, a question
    outside of the words that the LLM was trained with."""
    one, two = opened(place, "lmeye"), opened(place, "pvit")
    ids, s = prompt_ids(one.model, one.tokenizer, "cat?"), one.model.settings
    before, after = one.tokenizer.encode("Image:"), one.tokenizer.encode("\nAnswer:")
    assert ids == [1, *before, s.img_id, *one.tokenizer.encode("\ncat?"), *[s.slot_id] * 5, *after]
    features = two.encode([load_image(place / "coco/images/0.jpg")])
    x = make_inputs(two.model, two.tokenizer, features["states"], ["a [0.1,0.1,0.5,0.5]"],
                    maps=features["maps"])
    row, patch = x.prompts[0], two.model.settings.image_id
    start = row.index(patch)
    assert row[start - 1:start] == [patch + 1] and row[start:start + 16] == [patch] * 16
    assert row[start + 16] == patch + 2 and row[-1] not in (patch, patch + 4)
    at = row.index(patch + 3)
    assert row[at:at + 3] == [patch + 3, patch, patch + 4] and row[0] == 1


def test_numbers_of_a_box_are_hidden_whole(place):
    """Guards: half a coordinate hidden, which the other half gives away; brackets hidden."""
    _, tokenizer = load_language(place / "llama")
    ids, units = line(tokenizer, "dog", (0.1, 0.25, 0.5, 0.75))
    hidden = {u: "".join(tokenizer.piece(i) for i, own in zip(ids, units) if own == u)
              for u in {*units}}
    assert hidden == {1: "dog", 2: "0.100", 3: "0.250", 4: "0.500", 5: "0.750", 0: "[,,,]"}


@torch.no_grad()
def test_region_maps_of_different_pictures_join(place):
    """Guards: a picture's region features that depend on the sizes of those beside it, at its
    border above all."""
    system = opened(place, "pvit")
    picture = load_image(place / "coco/images/0.jpg")
    wide, tall = (picture.resize(size) for size in ((90, 40), (40, 90)))
    alone, both = system.encode([tall]), join([system.encode([wide]), system.encode([tall])])
    box, pool = torch.tensor([[0.2, 0.3, 1.0, 1.0]]), system.model.regions.pool
    torch.testing.assert_close(pool(both["maps"], box, torch.tensor([1])),
                               pool(alone["maps"], box, torch.tensor([0])))


@torch.no_grad()
def test_kept_detections_are_those_detected(place, tmp_path):
    """Guards: other boxes, labels or masks on the disk than the detector's own."""
    refiner = lyrics_refiner.load(place / "dino", place / "sam")
    images = [load_image(place / f"coco/images/{i}.jpg") for i in (0, 1)]
    tags = [["circle", "star"], []]
    fresh, refiner.keep = refiner.refine(images, tags), tmp_path
    for kept in (refiner.refine(images, tags), refiner.refine(images, tags)):
        assert kept.labels == fresh.labels and kept.tags == tags and kept.mask.equal(fresh.mask)
        torch.testing.assert_close(kept.features, fresh.features, atol=2e-3, rtol=2e-3)
        assert kept.boxes.equal(fresh.boxes)
        assert (kept.segments > 0).equal(fresh.segments > 0)
    assert len([*tmp_path.iterdir()]) == 2


def test_a_broken_file_of_detections_is_made_anew(place, tmp_path):
    """Guards: a run of days that a file cut off by a full disk ends; one of another form read."""
    refiner = lyrics_refiner.load(place / "dino", place / "sam")
    refiner.keep, images, tags = tmp_path, [load_image(place / "coco/images/0.jpg")], [["circle"]]
    fresh = refiner.refine(images, tags)
    path, = tmp_path.iterdir()
    whole = path.read_bytes()
    for broken in (whole[:-9], save({"boxes": torch.zeros(1, 900, 4)})):
        path.write_bytes(broken)
        assert refiner.refine(images, tags).boxes.equal(fresh.boxes) and path.read_bytes() == whole


@pytest.mark.slow
def test_kept_crops_change_no_loss(place, tmp_path, capsys, monkeypatch):
    """Guards: a second run that sees a box again, or trains on another feature than the first's."""
    losses = []
    for _ in range(2):
        code, out, err = call(train.main, capsys, *stage(
            tmp_path, "clip-smollm2", "pvit", "1", CELLS["clip-smollm2", "pvit"][1]))
        assert code == 0, err
        log = (tmp_path / "pvit/stage1/log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in log])
        monkeypatch.setattr(crops, "crop", None)               # every box is known
    assert losses[0] == losses[1] and [*(tmp_path / "pvit/crops").iterdir()]


def test_lyrics_without_tags_says_how_to_get_them(place, tmp_path, capsys):
    """Guards: a detector that is prompted by nothing, and hours of training on no boxes."""
    code, _, err = call(train.main, capsys, *stage(tmp_path, "clip-smollm2", "lyrics", "1",
                                                   CELLS["clip-smollm2", "lyrics"][1]))
    assert code == 2 and err.count("\n") == 1 and "--stage 0" in err


def test_lyrics_takes_tags_from_outside(place, tmp_path, capsys):
    """Guards: the detector led by no tags where the user has RAM's; tags that training alone reads."""
    file = tmp_path / "tags.jsonl"
    file.write_text("\n".join(json.dumps({"image": f"{i}.jpg", "tags": ["star"]}) for i in range(10)))
    parts = [*CELLS["clip-smollm2", "lyrics"][1], "--tags", file]
    code, _, err = call(train.main, capsys, *stage(tmp_path, "clip-smollm2", "lyrics", "1", parts))
    assert code == 0, err
    kept = [lyrics_refiner.read(path).tags for path in (tmp_path / "lyrics/refined").iterdir()]
    assert len(kept) == 10 and all(tags == [["star"]] for tags in kept)
    code, _, err = call(infer.main, capsys, "coco/images/0.jpg", "What?", "--system", "lyrics",
                        "--weights", place / "imported-lyrics", *IMPORTS["lyrics"], "--tags", file)
    assert code == 0, err
