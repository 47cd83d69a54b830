"""Stage 0's Q-Former: what it is taught, and that stage 1 can start from it."""

import random
from pathlib import Path

import pytest
import torch

from lion_min import checkpoints, launch
from lion_min.features import encode_images
from lion_min.lion.prompt import question_batch
from lion_min.parts import stage0_folder, tiny_parts
from lion_min.scenes import WORLDS, make_scene
from lion_min.studies.conditions import led
from lion_min.tasks import examples
from lion_min.tiny import questions, stage0
from lion_min.training import Plan

WORLD = WORLDS["medium"]


@pytest.fixture(scope="module")
def parts():
    return tiny_parts(Path("nowhere"))


def test_the_truth_is_the_first_word_of_each_answer(parts):
    """Guards: answers of another scene; words that start at random, as if unread."""
    torch.manual_seed(0)
    model = questions.QuestionTeacher(parts)
    words = parts.llm.model.get_input_embeddings().weight
    assert torch.corrcoef(torch.stack([model.qformer.words.weight[50], words[50]]))[0, 1] > 0.999
    scenes = [make_scene(WORLD, "train", 0, i) for i in range(2)]
    asked = [e for s in scenes for e in examples(s, random.Random(0), questions.TASKS)]
    logits, truth = model.first_words(scenes, asked)
    assert logits.shape == (16, len(parts.tokenizer))
    assert [parts.tokenizer.words[i] for i in truth] == [e.answer.split()[0] for e in asked]


def test_a_step_depends_on_its_number_alone():
    """Guards: a resumed run that draws other scenes; two seeds with the same ones."""
    drawn = [questions.lesson(WORLD, seed, step, 2) for seed, step in ((0, 3), (0, 4), (0, 3), (1, 3))]
    assert drawn[0] == drawn[2] and drawn[0] != drawn[1] and drawn[0] != drawn[3]
    assert all(len(scene.objects) <= 2 for scene in drawn[0][0])


def test_stage_1_starts_from_it(tmp_path, capsys):
    """Guards: a head that the model has no place for; weights that are left at random."""
    plan = Plan(steps=1, lr=1e-3, warmup=1)
    folder = stage0.train("qformer", tmp_path, plan=plan, batch=2, quiet=True)
    tensors = led().start(lambda name: checkpoints.load_run(tmp_path / "lion" / name)[0])
    assert folder == tmp_path / "lion/stage0/qformer"
    assert {name.split(".")[0] for name in tensors} == {"qformer", "ln_vision"}
    system = launch.module_of("lion", "system").SYSTEM(launch.parts_for(tmp_path), led())
    assert tensors.keys() <= dict(system.model.named_parameters()).keys()
    assert all(t.shape == dict(system.model.named_parameters())[n].shape
               for n, t in tensors.items())


def test_the_bundled_one_follows_the_question(parts):
    """Guards: queries that attend alike whatever is asked (correlation .999 of two questions' maps
    before the Q-Former was taught)."""
    model = questions.QuestionTeacher(parts)
    tensors = checkpoints.load_run(stage0_folder(Path("nowhere"), "qformer"))[0]
    model.load_state_dict({k: t.float() for k, t in tensors.items()} | {
        k: t for k, t in model.state_dict().items() if k.startswith("head.")})
    alike = []
    for i in range(20):
        scene = make_scene(WORLD, "heldout", 11, i)
        state = encode_images(parts.vision, [scene.draw()])[-1]
        asked = [f"What colour is the {t.kind}?" for t in scene.objects[:2]]
        if len(asked) == 2:
            maps = []
            for question in asked:
                ids, mask = question_batch(parts.tokenizer, [question], 64, state.device)
                seen = model.qformer(model.ln_vision(state), ids, mask, return_attention=True)[1]
                maps.append(seen[-1].mean((0, 1, 2)))
            alike.append(torch.corrcoef(torch.stack(maps))[0, 1].item())
    assert sum(alike) / len(alike) < 0.6
