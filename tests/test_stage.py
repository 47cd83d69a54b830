"""Which scenes a step takes, and where a stage's weights come from."""

import hashlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save

from lion_min import BadInput, checkpoints
from lion_min.parts import Parts, fingerprint, load_init
from lion_min.lion.stage4 import STAGE
from lion_min.scenes import WORLDS, make_scene
from lion_min.stage import has_lookalikes, row_sampler, step_loss

WORLD = WORLDS["medium"]


class Noting:
    """A system without a model, and features that are their rows: it notes what it is taught."""

    name = "lion"

    def __init__(self, stage):
        self.stage, self.taught = stage, []

    def unreadable(self, rows):
        return set()

    def batch_loss(self, round_, scenes, features, rng):
        self.taught.append((round_.level, features))

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
    none = dict(enumerate(taken(replace(STAGE, lookalike_share=0.0))))
    for step, (level, rows) in enumerate(taken(STAGE)):
        if level == "region":
            share = round(STAGE.lookalike_share * len(rows))
            assert share and all(has_lookalikes(scenes[r]) for r in rows[:share])
            assert rows[share:] == none[step][1][share:]
        else:
            assert rows == none[step][1]


def test_init_takes_the_same_stage_alone(tmp_path):
    """Guards: weights of another stage or another stage 0 taken in silence."""
    checkpoints.save_run(tmp_path, {"a": torch.ones(2).half()},
                         {"system": "lion", "stage": 4, "stage0": "abc"})
    def check(fingerprint):
        own = Parts(None, None, None, None)
        own.__dict__["fingerprint"] = fingerprint
        return own.check

    begun = load_init(tmp_path, check("abc"), system="lion", stage=4)
    assert begun["a"].dtype == torch.float32
    with pytest.raises(BadInput, match="is lion stage 4; --init goes on from a run of lion stage 3"):
        load_init(tmp_path, check("abc"), system="lion", stage=3)
    with pytest.raises(BadInput, match="another stage 0"):
        load_init(tmp_path, check("abd"), system="lion", stage=4)
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
