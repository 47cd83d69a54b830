"""What every stage moves, starts from, saves and resumes; on random frozen parts, in seconds."""

import hashlib
import json
import os
import random
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from few_steps import NUMBERS, STAGES, begun, finding_something, train, trains, untrained
from safetensors.torch import save

from lion_min import BadInput, checkpoints, launch, parts
from lion_min import stage as stage_module
from lion_min.adapters import IMAGE, REGION, set_task
from lion_min.features import encode_images
from lion_min.launch import stage_of
from lion_min.lion.prompt import make_inputs
from lion_min.lmeye.explain import attention_maps
from lion_min.parts import Parts, fingerprint, load_init
from lion_min.scenes import WORLDS, make_scene
from lion_min.draws import has_lookalikes
from lion_min.stage import ROUNDS, row_sampler, step_loss
from lion_min.tokenizer import TinyTokenizer

WORLD = WORLDS["medium"]
SCENES = [make_scene(WORLD, "train", 0, i) for i in range(8)]
STAGE4 = stage_of("lion", 4)
QUESTIONS = ["What is in [0.1,0.1,0.5,0.5]?", "Describe the image.", "Is there a red circle?"]
# Never run, so never moved: CLIP's last norm comes after the raw states that are read (vision.py), and
# the last Q-Former layer's text half has no reader (qformer.py), but in Lyrics' stage 1.
IDLE = ("vision.model.post_layernorm.", "vision.model.vision_model.post_layernorm.")
NO_READER = {("lion", n): ("qformer.layers.1.text_ffn.",) for n in NUMBERS["lion"]} | {
    ("lyrics", 2): ("mqformer.layers.2.text_ffn.",)}


# ---- what moves --------------------------------------------------------------------------------

@pytest.mark.parametrize("system, number", STAGES)
def test_a_stage_moves_exactly_what_it_trains(trained, system, number):
    """Guards: a frozen part that a stray gradient or weight decay moves; a part left untrained; a
    trained part that the file lacks (the official LMEye loses its query tokens)."""
    moves = trained.moves(system)[number]
    own = trains(stage_of(system, number), moves.parameters)
    idle = (*IDLE, *NO_READER.get((system, number), ()))
    assert own and moves.moved() == {n for n in own if not n.startswith(idle)}
    saved = checkpoints.load_run(trained.folder(system, number))[0]
    assert saved.keys() == own and all(torch.equal(saved[n], moves.after[n]) for n in saved)


def learning(system, rounds) -> dict[str, torch.Tensor]:
    """The gradients of one step of the rounds named."""
    scenes = SCENES[:3]
    features = system.encode([scene.draw() for scene in scenes])
    for name in set(rounds):
        system.batch_loss(ROUNDS[name], scenes, features, random.Random(0))[0].backward()
    return {n: p.grad for n, p in system.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("round_, task", [("region", REGION), ("vqa", IMAGE), ("caption", IMAGE)])
def test_only_the_rows_of_the_round_learn(trained, round_, task):
    """Guards: a round on the wrong route: region batches that train the image row, or both."""
    trained.moves("lion")
    found = learning(begun("lion", stage_of("lion", 3), trained.out), (round_,))
    routers = [grad for name, grad in found.items() if name.endswith(".router")]   # [K, task, D]
    assert len(routers) == 5
    for grad in routers:
        assert not grad[:, 1 - task].any() and grad[:, task].any(-1).all()   # both adapters' gates


def test_routers_are_of_two_levels_only_where_both_are_taught(trained):
    """Guards: a router in stage 1 or 2, whose single adapter it would scale; one row for both."""
    for number, moves in trained.moves("lion").items():
        routers = [n for n in moves.before if n.endswith(".router")]
        assert bool(routers) == (number not in (1, 2))
        for name in routers if number in (3, 4) else ():
            assert (moves.after[name] != moves.before[name]).any(-1).any(0).all()       # [task]


# ---- what it starts from -----------------------------------------------------------------------

@pytest.mark.parametrize("system, number, earlier, prefix", [
    ("lion", 4, 3, ""), ("pvit", 2, 1, ""), ("lmeye", 2, 1, ""), ("lyrics", 1, 0, "refiner."),
    ("lyrics", 2, 0, "refiner."), ("lyrics", 2, 1, "")])
def test_stages_start_from_the_ones_before(trained, system, number, earlier, prefix):
    """Guards: a stage that begins at random; heads that Lyrics' stage 2 cannot hold."""
    moves = trained.moves(system)
    names = trains(stage_of(system, earlier), moves[earlier].parameters)
    shared = [n for n in names if not n.startswith("heads.")]
    assert shared and (len(shared) < len(names)) == ((number, earlier) == (2, 1) and system == "lyrics")
    assert all(torch.equal(moves[number].before[prefix + n], moves[earlier].after[n]) for n in shared)


def test_stage_3_holds_the_tensors_of_stages_1_and_2(trained):
    """Guards: a branch that starts at random in stage 3, or the adapters of two stages swapped."""
    before = trained.moves("lion")[3].before
    for number, place in ((2, REGION), (1, IMAGE)):
        tensors = checkpoints.load_run(trained.folder("lion", number))[0]
        assert any(t.abs().max() > 0 for n, t in tensors.items() if n.endswith("up.weight"))
        for name, tensor in tensors.items():
            name = name.replace(".adapters.0.", f".adapters.{place}.")
            assert torch.equal(before[name], tensor), name
    for name in before:
        if name.endswith(".router"):
            assert torch.equal(before[name], torch.eye(2)[:, :, None].expand_as(before[name]))


@pytest.mark.parametrize("number, task", [(2, REGION), (1, IMAGE)])
@torch.no_grad()
def test_the_merge_is_the_identity(trained, number, task):
    """Guards: stage 3 whose first loss is not that of the stages it is made of."""
    alone = trained.opened("lion", number).model
    merged = begun("lion", stage_of("lion", 3), trained.out).model
    prompt = "Describe box [0.1,0.1,0.5,0.5]" if task == REGION else "Is there a red circle?"
    losses, states = [], encode_images(merged.vision, [SCENES[1].draw()])
    for model in (alone, merged):
        visual = model.visual
        model.visual = lambda x: (visual(x)[0], None) if task == REGION else (None, visual(x)[1])
        losses.append(model(make_inputs(model, TinyTokenizer(), states, [prompt], task,
                                        ["a large red star"]))[0])
    assert torch.equal(*losses)
    set_task(merged.adapters, 1 - task)
    x = torch.randn(2, 3, 128)
    assert not torch.equal(alone.adapters[-1](x), merged.adapters[-1](x)), "the other stage's route"


@pytest.mark.parametrize("system, number", [("lmeye", 2), ("lyrics", 0), ("lyrics", 1)])
def test_init_goes_on_from_the_same_stage(trained, system, number):
    """Guards: --init that a stage does not know, or that leaves a part at random: LMEye's stage 2
    around a Q-Former of stage 1 that is new."""
    after, folder = trained.moves(system)[number].after, trained.folder(system, number)
    held = dict(begun(system, stage_of(system, number), trained.out, folder).model.named_parameters())
    names = held if system == "lmeye" else trains(stage_of(system, number), held)
    assert names and all(torch.equal(held[n], after[n]) for n in names)


@pytest.mark.parametrize("number, told", [(1, ["0 qformer"]), (3, ["1", "2"]), (4, ["3"])])
def test_bundled_weights_are_said_aloud(trained, tmp_path, monkeypatch, capsys, number, told):
    """Guards: a stage in an empty folder that goes on from the bundled weights in silence."""
    trained.moves("lion")
    lines = []
    for out in (trained.out, tmp_path):
        monkeypatch.setattr(parts, "WEIGHTS", trained.out if out == tmp_path else parts.WEIGHTS)
        system = untrained("lion", stage_of("lion", number), out)
        system.announce()
        stage_module.load_start(system, None)
        lines = [s for s in capsys.readouterr().out.splitlines() if "bundled weights" in s]
        assert out == tmp_path or not lines, "its own earlier stages were there"
    starts = [f"no lion stage {part} in {tmp_path}:" for part in ("0 vision", "0 llama", *told)]
    assert [line[:len(start)] for line, start in zip(lines, starts, strict=True)] == starts
    assert all(str(trained.out) in line for line in lines)


# ---- what is saved -----------------------------------------------------------------------------

@pytest.mark.parametrize("system, number", [s for s in STAGES if s not in (
    ("lion", "joint"), ("lyrics", 0), ("lyrics", 1))])
def test_what_loads_is_what_was_trained(trained, system, number):
    """Guards: a part that is random again after loading and that an answer needs, such as the
    static mapping of LMEye's stage 1 in its stage 2; a part that still trains or drops out."""
    opened, after = trained.opened(system, number), trained.moves(system)[number].after
    held = dict(opened.model.named_parameters())
    assert held.keys() <= after.keys() and not opened.model.training
    assert not any(p.requires_grad for p in held.values())
    x = opened.encode([SCENES[0].draw()])
    answers = [opened.answer(x, [q], max_new_tokens=6) for q in QUESTIONS]
    for name, parameter in held.items():
        parameter.copy_(after[name])
    assert answers == [opened.answer(x, [q], max_new_tokens=6) for q in QUESTIONS]


def test_lyrics_reports_its_earlier_stages(trained):
    """Guards: an evaluate that says nothing of refiner and retrieval, or asks the latter of stage
    2's MQ-Former; a stage without LLM that is asked."""
    with finding_something():
        system, after = trained.opened("lyrics", 2), trained.moves("lyrics")[1].after
        held = dict(system.open_stage(1).model.named_parameters())
        assert all(torch.equal(held[n], after[n]) for n in held)
        report = system.report(WORLD, 5, 0)
    assert {"ap50", "labelled_ap50", "mask_iou"} <= report["refiner"].keys()
    assert report["retrieval"].keys() == {"image_to_text", "text_to_image", "image_to_text_itm",
                                          "text_to_image_itm", "count"}
    assert report["retrieval"].pop("count") == 5
    assert all(0 <= v <= 1 for v in report["retrieval"].values())
    with pytest.raises(BadInput, match="stage is 1, not one of 2"):
        trained.opened("lyrics", 1)


def test_weights_of_another_stage_0_are_refused(trained, tmp_path):
    """Guards: a new stage 0 under old stages, which load and answer nonsense."""
    trained.moves("pvit")
    out = shutil.copytree(trained.out, tmp_path / "out")
    folder, llama = out / "pvit" / "stage2", out / "lion" / "stage0" / "llama"
    tensors, config = checkpoints.load_run(llama)
    checkpoints.save_run(llama, {n: t + 0.01 for n, t in tensors.items()}, config)
    for use in (lambda: launch.load("pvit", folder, "cpu"),
                lambda: begun("pvit", stage_of("pvit", 2), out)):
        with pytest.raises(BadInput, match="another stage 0"):
            use()
    checkpoints.save_run(llama, {n: t.half() for n, t in tensors.items()}, config)
    launch.load("pvit", folder, "cpu")                         # as bundle.py writes them


def test_a_resumed_stage_is_the_uninterrupted_one(trained, tmp_path, monkeypatch):
    """Guards: scenes, questions or tag noise drawn from the process's history, not the step."""
    whole = trained.folder("lion", 4)
    out = shutil.copytree(trained.out, tmp_path / "out")
    cut, make = out / "lion" / "stage4", stage_module.step_loss
    shutil.rmtree(cut)

    def ending(*arguments):
        loss = make(*arguments)
        return lambda step: (os.kill(os.getpid(), signal.SIGINT) if step == 2 else 0, loss(step))[1]

    monkeypatch.setattr(stage_module, "step_loss", ending)
    with pytest.raises(KeyboardInterrupt):
        train("lion", STAGE4, out)
    assert checkpoints.read_state(cut)[0] == 3
    monkeypatch.undo()
    train("lion", STAGE4, out, resume=True)
    for name in (checkpoints.MODEL, checkpoints.STATE):
        one, two = (checkpoints.load_tensors(f / name) for f in (whole, cut))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    logs = [[json.loads(line) | {"seconds": 0} for line in (f / "log.jsonl").open()] for f in (whole, cut)]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == list(range(len(STAGE4.rounds)))


def test_a_stage_tells_scores_parameters_and_folder(trained, tmp_path, capsys):
    """Guards: the report that design section 5 promises; scores taken only after the training."""
    out, plan = tmp_path / "out", replace(stage_of("lion", 1).plan, steps=1, warmup=0)
    shutil.copytree(trained.out / "lion" / "stage0", out / "lion" / "stage0")
    done = launch.train_stage("lion", 1, launch.Options(out, device="cpu", batch=2), pool=4,
                              plan=plan, checks=2, quiet=True)
    assert done["folder"] == out / "lion" / "stage1"
    assert done["before"]["n"] == done["after"]["n"] and done["before"]["n"]["reg"] == 2
    saved = checkpoints.load_json(done["folder"] / checkpoints.SCORES)
    assert saved == {"steps": 1, "before": done["before"], "after": done["after"]}
    out = capsys.readouterr().out
    for words in ("trainable", "qformer", "before", "after", f"wrote {done['folder']}"):
        assert words in out


# ---- LMEye's questions, Lyrics' batches ----------------------------------------------------------

def test_the_map_of_lmeye_is_of_the_question(trained):
    """Guards: a panel that shows the same map whatever was asked; maps that are no shares; the
    control row that fails on a batch's last, single question."""
    system, picture = trained.opened("lmeye", 2), SCENES[0].draw()
    features = system.encode([picture])
    system.model.interaction.request.weight.data.mul_(30)      # a request that says something
    one, two = (attention_maps(system, features, q) for q in QUESTIONS[1:])
    assert one.shape == (2, 8, 8)
    torch.testing.assert_close(one.sum((1, 2)), torch.ones(2))
    assert (one - two).abs().max() > 1e-4
    found = system.explain(system.ask(picture, QUESTIONS[2]))
    assert [one.part for one in found.maps] == ["requests", "static queries"]
    torch.testing.assert_close(found.maps[0].weights[0, 0].view(2, 8, 8), two)
    assert found.maps[0].moved > 1e-4 and found.maps[1].moved is None
    assert system.model.settings.control == "interactive" and isinstance(found.before, str)
    assert [t.text for t in found.tokens if t.kind == "request"] == ["<img-q>", "<img-d>", "<img-d>"]
    system.model.settings.control = "foreign"
    assert len(system.answer(features, QUESTIONS[2:], max_new_tokens=3)) == 1


def test_no_caption_twice_in_a_batch():
    """Guards: a true pair that counts as a wrong one; a step whose batch depends on the last."""
    scenes, stage = SCENES[:5] * 8, stage_of("lyrics", 1)
    rows = row_sampler(stage, scenes, 8)
    drawn = [rows(None, step, random.Random(step)) for step in (3, 4, 3)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert all(len({scenes[r].caption() for r in d}) == len(d) for d in drawn)
    assert len(row_sampler(stage, scenes[:5], 8)(None, 0, random.Random(0))) == 5
    for few, batch in ((scenes[:1], 8), ([scenes[0], scenes[5]], 8), (scenes, 1)):
        with pytest.raises(BadInput, match="two scenes of different captions.*--batch-size"):
            row_sampler(stage, few, batch)


# ---- the scenes of a step, weights by name ------------------------------------------------------

class Noting:
    """A system without a model, and features that are their rows: it notes what it is taught."""

    name = "lion"

    def __init__(self, stage):
        self.stage, self.taught = stage, []

    def batch_loss(self, round_, scenes, features, rng):
        self.taught.append((round_.level, features))

    def unreadable(self, rows):
        return {}

    def take(self, rows):
        return rows


def taken(stage, steps: int = 5) -> list[tuple[str, list[int]]]:
    """(level, rows) of the first steps."""
    system = Noting(stage)
    scenes = [make_scene(WORLD, "train", 0, i) for i in range(200)]
    loss = step_loss(system, scenes, system, 0, row_sampler(stage, scenes, 16))
    for step in range(steps):
        loss(step)
    return system.taught


def test_twins_are_alike_but_for_their_size():
    """Guards: scenes that are easy taken for hard ones."""
    scene = next(s for s in (make_scene(WORLD, "train", 1, i) for i in range(99))
                 if len(s.objects) > 1 and not has_lookalikes(s))
    first, second = scene.objects[:2]
    other = next(size for size in WORLD.sizes if size != first.size)
    like = replace(second, colour=first.colour, kind=first.kind, texture=first.texture, size=other)
    assert has_lookalikes(replace(scene, objects=(first, like)))
    assert not has_lookalikes(replace(scene, objects=(first, replace(like, texture={
        "plain": "striped", "striped": "plain"}[first.texture]))))


def test_region_rounds_take_their_share_of_twins():
    """Guards: twins in image rounds, too, or none; other batches for a stage without them."""
    scenes = [make_scene(WORLD, "train", 0, i) for i in range(200)]
    none = dict(enumerate(taken(replace(STAGE4, lookalike_share=0.0))))
    for step, (level, rows) in enumerate(taken(STAGE4)):
        if level == "region":
            share = round(STAGE4.lookalike_share * len(rows))
            assert share and all(has_lookalikes(scenes[r]) for r in rows[:share])
            assert rows[share:] == none[step][1][share:]
        else:
            assert rows == none[step][1]


def test_init_takes_the_same_stage_alone(tmp_path, capsys):
    """Guards: weights of another stage or another stage 0 taken in silence."""
    checkpoints.save_run(tmp_path, {"a": torch.ones(2).half()},
                         {"system": "lion", "stage": 4, "stage0": "abc"})
    def compare(fingerprint):
        own = Parts(None, None, None, None)
        own.__dict__["fingerprint"] = fingerprint
        return own.compare

    begun = load_init(tmp_path, compare("abc"), system="lion", stage=4)
    assert begun["a"].dtype == torch.float32 and not capsys.readouterr().err
    with pytest.raises(BadInput, match="is lion stage 4; --init goes on from a run of lion stage 3"):
        load_init(tmp_path, compare("abc"), system="lion", stage=3)
    assert torch.equal(load_init(tmp_path, compare("abd"), system="lion", stage=4)["a"], begun["a"])
    assert "was trained on another stage 0" in capsys.readouterr().err
    with pytest.raises(BadInput, match="is lion stage 4; --init goes on .* stage 0 vision"):
        load_init(tmp_path, system="lion", stage=0, part="vision")


def test_a_fingerprint_is_the_hash_of_a_file_that_is_never_made():
    """Guards: a 7B LLM copied only to hash it; runs refused that grew on the same parts."""
    parts = [torch.nn.Linear(3, 5), torch.nn.ModuleDict({"b": torch.nn.LayerNorm(2),
                                                         "a": torch.nn.Linear(2, 2).bfloat16()})]
    parts[0].scalar = torch.nn.Parameter(torch.tensor(0.5))
    tensors = {f"{i}.{name}": p.detach().half() for i, part in enumerate(parts)
               for name, p in part.named_parameters()}
    assert fingerprint(*parts) == hashlib.sha256(save(tensors)).hexdigest()[:16]
    before = fingerprint(*parts)
    parts[1]["a"].weight.data[0, 0] += 1
    assert fingerprint(*parts) != before
