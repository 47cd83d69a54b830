"""The stages of PVIT and LMEye on random parts, in seconds: what moves, loads and answers."""

import shutil
from dataclasses import replace

import pytest
import torch
from few_steps import few_steps, opened, trains, untrained
from random_lion import write_stage0

from lion_min import BadInput, checkpoints, trainable
from lion_min.launch import stage_of
from lion_min.lmeye.explain import attention_maps
from lion_min.pvit.stages import of_representation
from lion_min.scenes import WORLDS, make_scene

STAGES = [("pvit", 1), ("pvit", 2), ("lmeye", 1), ("lmeye", 2)]
QUESTIONS = ["What is in [0.1,0.1,0.5,0.5]?", "Describe the image.", "Is there a red circle?"]
# Never run, so never moved: CLIP's last norm comes after the raw states that are read.
IDLE = ("vision.model.post_layernorm.", "vision.model.vision_model.post_layernorm.")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(OUT with every stage of both systems after a few steps, {(system, stage): (parameters before,
    after)})."""
    out = tmp_path_factory.mktemp("systems")
    write_stage0(out)
    return out, {(s, n): few_steps(s, stage_of(s, n), out) for s, n in STAGES}


@pytest.mark.parametrize("system, number", STAGES)
def test_a_stage_moves_exactly_what_it_trains(trained, system, number):
    """Guards: a frozen part that a stray gradient or weight decay moves; a part left untrained;
    a trained part that the file lacks (the official LMEye loses its query tokens)."""
    before, after = trained[1][system, number]
    own = trains(stage_of(system, number), before)
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved == {n for n in own if not n.startswith(IDLE)}
    saved = checkpoints.load_run(trained[0] / system / f"stage{number}")[0]
    assert saved.keys() == own and all(torch.equal(saved[n], after[n]) for n in saved)


@pytest.mark.parametrize("system, number", STAGES)
def test_what_loads_is_what_was_trained(trained, system, number):
    """Guards: a part that is random again after loading, such as the static mapping of LMEye's
    stage 1 in its stage 2, or PVIT's untrained projection in its stage 1."""
    system_ = opened(trained[0] / system / f"stage{number}")
    after, loaded = trained[1][system, number][1], dict(system_.model.named_parameters())
    assert loaded.keys() == after.keys()
    scene = make_scene(WORLDS["medium"], "heldout", 0, 0)
    answers, here = [], {n: p.detach().clone() for n, p in loaded.items()}
    for tensors in (here, after):
        with torch.no_grad():
            for name, parameter in loaded.items():
                parameter.copy_(tensors[name])
        x = system_.encode([scene.draw()])
        answers.append([system_.answer(x, [q], max_new_tokens=6) for q in QUESTIONS])
    assert answers[0] == answers[1]


def test_stages_start_from_the_ones_before(trained):
    """Guards: a stage 2 that begins at random."""
    for system in ("pvit", "lmeye"):
        one, two = trained[1][system, 1], trained[1][system, 2]
        names = trains(stage_of(system, 1), one[1])
        assert names and all(torch.equal(one[1][n], two[0][n]) for n in names)


@pytest.mark.parametrize("representation", ["text", "location"])
def test_pvit_trains_with_other_representations(trained, tmp_path, representation):
    """Guards: an ablation row whose parts do not exist or never move."""
    stage = of_representation(stage_of("pvit", 2), representation)
    model = untrained("pvit", stage, trained[0]).model
    names = trainable.only_trainable(model, stage.trains)
    assert any(n.startswith("locations") for n in names) == (representation == "location")
    assert not any(n.startswith("prompt_projector") for n in names)


@pytest.mark.parametrize("control", ["static", "zeroed", "foreign"])
def test_lmeye_control_rows_train_the_same_parameters(trained, control):
    """Guards: a control row that differs by more than what fills the slots."""
    one, two = (dict(untrained("lmeye", replace(stage_of("lmeye", 2), control=c), trained[0])
                     .model.named_parameters()) for c in ("interactive", control))
    assert {n: p.shape for n, p in one.items()} == {n: p.shape for n, p in two.items()}


@pytest.mark.parametrize("system", ["pvit", "lmeye"])
def test_weights_of_another_stage_0_are_refused(trained, tmp_path, system):
    """Guards: a new stage 0 under old stages, which load and answer nonsense."""
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    where = out / "lion" / "stage0" / "llama"
    tensors, config = checkpoints.load_run(where)
    checkpoints.save_run(where, {n: t + 0.01 for n, t in tensors.items()}, config)
    with pytest.raises(BadInput, match="another stage 0"):
        opened(out / system / "stage2")
    with pytest.raises(BadInput, match="another stage 0"):
        few_steps(system, stage_of(system, 2), out)
    halved = {n: t.half() for n, t in tensors.items()}
    checkpoints.save_run(where, halved, config)                # as bundle.py writes them
    opened(out / system / "stage2")


def test_the_map_of_lmeye_is_of_the_question(trained):
    """Guards: a panel that shows the same map whatever was asked; maps that are no shares."""
    system = opened(trained[0] / "lmeye" / "stage2")
    picture = make_scene(WORLDS["medium"], "heldout", 0, 0).draw()
    features = system.encode([picture])
    with torch.no_grad():
        system.model.interaction.request.weight.mul_(30)       # a request that says something
    one, two = (attention_maps(system, features, q) for q in QUESTIONS[1:])
    assert one.shape == (2, 8, 8)
    torch.testing.assert_close(one.sum((1, 2)), torch.ones(2))
    assert (one - two).abs().max() > 1e-4
    maps, bars = system.explain(system.ask(picture, QUESTIONS[2]))
    assert bars is None and len(maps) == 4
    torch.testing.assert_close(maps[0][1], two.mean(0))


def test_foreign_answers_a_question_alone(trained):
    """Guards: the control row that fails on a batch's last, single question."""
    system = untrained("lmeye", replace(stage_of("lmeye", 2), control="foreign"), trained[0])
    features = system.encode([make_scene(WORLDS["medium"], "heldout", 0, 0).draw()])
    assert len(system.answer(features, QUESTIONS[2:], max_new_tokens=3)) == 1


def test_init_keeps_what_the_stage_does_not_train(trained, tmp_path):
    """Guards: --init of LMEye's stage 2 around a Q-Former of stage 1 that is random again."""
    shutil.copytree(trained[0], tmp_path / "out")
    end = trained[1]["lmeye", 2][1]
    begin, _ = few_steps("lmeye", stage_of("lmeye", 2), tmp_path / "out",
                         init=trained[0] / "lmeye" / "stage2")
    assert all(torch.equal(begin[name], end[name]) for name in end)
