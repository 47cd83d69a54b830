"""What a stage moves, what it starts from, how it resumes; on random frozen parts, in seconds."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from few_steps import opened, untrained
from stage_run import NUMBERS, copy, stage_of, train, trained  # noqa: F401 (two are fixtures)

from lion_min import checkpoints, launch, parts
from lion_min import stage as stage_module
from lion_min.adapters import IMAGE, REGION, set_task
from lion_min.features import encode_images
from lion_min.lion.model import Lion
from lion_min.lion.prompt import make_inputs
from lion_min.scenes import WORLDS, make_scene
from lion_min.tokenizer import TinyTokenizer

FROZEN = {1: ("vision", "llm"), 2: ("vision", "llm"), 3: ("vision", "llm"), 4: ("vision", "llm"),
          "joint": ()}
# Never run, so never moved: the last Q-Former layer's text half has no reader (qformer.py), and
# CLIP's last norm comes after the raw states that LION takes (vision.py).
IDLE = ("qformer.layers.1.text_ffn.", "vision.model.post_layernorm.",
        "vision.model.vision_model.post_layernorm.")


# ---- what moves --------------------------------------------------------------------------------

@pytest.mark.parametrize("number", NUMBERS)
def test_a_stage_moves_what_it_trains_and_nothing_else(trained, number):
    """Guards: a frozen part that a stray gradient or weight decay moves; a part left untrained."""
    out, moves = trained[0], trained[1][number]
    trains = tuple(f"{part}." for part in stage_of(number).trains)
    wanted = {n for n in moves.parameters if n.startswith(trains) and not n.startswith(IDLE)}
    assert moves.moved() == wanted
    parts = {name.split(".")[0] for name in moves.parameters - moves.moved()
             if not name.startswith(IDLE)}
    assert parts >= {*FROZEN[number], "tagger"} and parts.isdisjoint(stage_of(number).trains)
    name = f"stage{number}" if number != "joint" else number
    saved = checkpoints.load_run(out / "lion" / name)[0]
    assert saved.keys() == {n for n in moves.parameters if n.startswith(trains)}
    assert all(torch.equal(saved[n], moves.after[n]) for n in saved)


def test_the_idle_parameters_are_exactly_those_that_never_run(trained):
    """Guards: an exemption above that outlives its reason and hides a part that is dead."""
    model = untrained("lion", stage_of(3), trained[0]).model
    model.requires_grad_(True)
    lost = set()
    for task, prompt in ((IMAGE, "Is there a star?"), (REGION, "Describe box [0.1,0.1,0.5,0.5]")):
        scene = make_scene(WORLDS["medium"], "train", 0, 0)
        rows = make_inputs(model, TinyTokenizer(), encode_images(model.vision, [scene.draw()]), [prompt],
                           task, ["yes"], tags=[["red"]])
        model.zero_grad()
        model(rows)[0].backward()
        idle = {n for n, p in model.named_parameters() if p.grad is None}
        lost = lost & idle if lost else idle
    assert lost and lost == {n for n, _ in model.named_parameters() if n.startswith(IDLE)}


@pytest.mark.parametrize("rounds, task", [("region", REGION), ("vqa", IMAGE), ("caption", IMAGE)])
def test_only_the_rows_of_the_rounds_learn(copy, rounds, task):
    """Guards: a round on the wrong route: region batches that train the image row, or both."""
    moves = train(replace(stage_of(3), rounds=(rounds,)), copy, steps=2, weight_decay=0.0)
    routers = [n for n in moves.before if n.endswith(".router")]
    assert len(routers) == 5
    for name in routers:
        before, after = moves.before[name], moves.after[name]             # [K, task, D]
        assert torch.equal(before[:, 1 - task], after[:, 1 - task]), name
        assert (before[:, task] != after[:, task]).any(-1).all(), name    # both adapters' gates


def test_routers_are_of_two_levels_only_where_both_are_taught(trained):
    """Guards: a router in stage 1 or 2, whose single adapter it would scale; one row for both."""
    for number, moves in trained[1].items():
        routers = [n for n in moves.before if n.endswith(".router")]
        assert bool(routers) == (number not in (1, 2))
        for name in routers if number in (3, 4) else ():
            change = (moves.after[name] - moves.before[name]).abs().sum((0, 2))     # [task]
            assert (change > 0).all() and not torch.equal(*moves.after[name].unbind(1))


# ---- the merge of stage 3 ----------------------------------------------------------------------

@pytest.fixture
def merged(trained) -> Lion:
    """Stage 3 as its first step found it."""
    model = untrained("lion", stage_of(3), trained[0]).model
    names = {n for n, _ in model.named_parameters()}
    model.load_state_dict({n: t for n, t in trained[1][3].before.items() if n in names},
                          strict=False)
    return model.eval().requires_grad_(False)


def test_stage_3_holds_the_tensors_of_stages_1_and_2(trained):
    """Guards: a branch that starts at random in stage 3, or the adapters of two stages swapped."""
    out, before = trained[0], trained[1][3].before
    for number, place in ((2, REGION), (1, IMAGE)):
        tensors = checkpoints.load_run(out / "lion" / f"stage{number}")[0]
        assert any(t.abs().max() > 0 for n, t in tensors.items() if n.endswith("up.weight"))
        for name, tensor in tensors.items():
            name = name.replace(".adapters.0.", f".adapters.{place}.")
            assert torch.equal(before[name], tensor), name
    for name in before:
        if name.endswith(".router"):
            assert torch.equal(before[name], torch.eye(2)[:, :, None].expand_as(before[name]))


@pytest.mark.parametrize("number, task", [(2, REGION), (1, IMAGE)])
def test_the_merge_is_the_identity(trained, merged, number, task):
    """Guards: stage 3 whose first loss is not that of the stages it is made of."""
    alone, x = opened(trained[0] / "lion" / f"stage{number}").model, torch.randn(2, 3, 128)
    set_task(merged.adapters, task)
    for one, both in zip(alone.adapters, merged.adapters, strict=True):
        assert torch.equal(one(x), both(x)) and one(x).abs().max() > 0
    prompt = "Describe box [0.1,0.1,0.5,0.5]" if task == REGION else "Is there a red circle?"
    losses = []
    for model in (alone, merged):
        visual = model.visual
        model.visual = lambda x: (visual(x)[0], None) if task == REGION else (None, visual(x)[1])
        picture = make_scene(WORLDS["medium"], "train", 0, 1).draw()
        losses.append(model(make_inputs(model, TinyTokenizer(), encode_images(model.vision, [picture]),
                                        [prompt], task, ["a large red star"]))[0])
    assert torch.equal(*losses)
    set_task(merged.adapters, 1 - task)
    assert not torch.equal(one(x), both(x)), "the other route is the other stage's"


# ---- resume, bundled weights -------------------------------------------------------------------

def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def crash() -> None:
    raise SystemError("killed")


@pytest.mark.parametrize("number, end, error, kept", [
    (4, interrupt, KeyboardInterrupt, 4), (1, crash, SystemError, 2)])
def test_a_resumed_stage_is_the_uninterrupted_one(copy, monkeypatch, number, end, error, kept):
    """Guards: scenes, questions or tag noise drawn from the process's history, not the step."""
    stage, plan = stage_of(number), {"steps": 6, "save_every": 2}
    where, whole = copy / "lion" / f"stage{number}", copy / "whole"
    train(stage, copy, **plan)
    where.rename(whole)
    make = stage_module.step_loss

    def ending(*arguments):
        loss = make(*arguments)
        return lambda step: (end() if step == 3 else None, loss(step))[1]
    monkeypatch.setattr(stage_module, "step_loss", ending)
    with pytest.raises(error):
        train(stage, copy, **plan)
    assert checkpoints.read_state(where)[0] == kept
    monkeypatch.undo()
    train(stage, copy, resume=True, **plan)
    for name in (checkpoints.MODEL, checkpoints.STATE):
        one, two = (checkpoints.load_tensors(f / name) for f in (whole, where))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    logs = [[json.loads(line) | {"seconds": 0} for line in (f / "log.jsonl").open()]
            for f in (whole, where)]
    assert logs[0] == logs[1] and [line["step"] for line in logs[0]] == list(range(6))


@pytest.mark.parametrize("number, told", [(1, []), (3, ["1", "2"]), (4, ["3"])])
def test_bundled_weights_are_said_aloud(copy, tmp_path, monkeypatch, capsys, number, told):
    """Guards: a stage in an empty folder that goes on from the bundled weights in silence."""
    train(stage_of(number), copy, steps=1)
    assert "bundled weights" not in capsys.readouterr().out, "its own earlier stages were there"
    monkeypatch.setattr(parts, "WEIGHTS", copy)
    train(stage_of(number), tmp_path / "new", steps=1)
    lines = [s for s in capsys.readouterr().out.splitlines() if "bundled weights" in s]
    starts = [f"no lion stage {part} in {tmp_path / 'new'}:"
              for part in ("0 vision", "0 llama", *told)]
    assert [line[:len(start)] for line, start in zip(lines, starts, strict=True)] == starts
    assert all(str(copy) in line for line in lines)


def test_a_stage_tells_scores_parameters_and_folder(copy, capsys):
    """Guards: the report that design section 5 promises; scores taken only after the training."""
    stage = stage_of(1)
    done = launch.train_stage("lion", 1, launch.Options(copy, device="cpu", batch=2), pool=4,
                              plan=replace(stage.plan, steps=1, warmup=0), checks=2, quiet=True)
    assert done["folder"] == copy / "lion" / "stage1"
    assert done["before"]["n"] == done["after"]["n"] and done["before"]["n"]["reg"] == 2
    out = capsys.readouterr().out
    for words in ("trainable", "qformer", "before", "after", f"wrote {done['folder']}"):
        assert words in out
