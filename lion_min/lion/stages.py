"""What stages 1-4 share: starting weights, cached frozen features, batches, scores, the run.

A stage script says what is special about its stage in one `Stage`; this file carries it out with
the one loop of training.py. Every batch is a pure function of (seed, stage, step).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lion_min import checkpoints, evaluation, training
from lion_min.adapters import IMAGE, REGION
from lion_min.language import LanguageModel
from lion_min.lion.answering import LionSystem, look, make_inputs
from lion_min.lion.model import Lion, tiny
from lion_min.lion.textworld import noisy_tags
from lion_min.scenes import WORLDS, Scene, World, make_scene
from lion_min.tasks import examples
from lion_min.tokenizer import TinyTokenizer
from lion_min.training import Plan
from lion_min.vision import TagHead, VisionEncoder

WEIGHTS = Path(__file__).parents[1] / "weights" / "lion"
POOL = 4096                                # scenes whose frozen features are kept in memory
BATCH = 16                                 # scenes a step

# What one scene of a batch is asked. A batch is of one level: the router has one row a batch.
VQA = ("existence", "colour", "kind", "count", "count", "relation", "relation", "side")
ROUNDS = {"vqa": (IMAGE, VQA), "caption": (IMAGE, ("caption",) * 2),
          "region": (REGION, ("reg",) * 4 + ("rec",) * 4 + ("rec_relational",) * 3)}


@dataclass(frozen=True)
class Stage:
    """One stage of LION: what sees the image, what trains, on which rounds, how long."""

    number: int | str
    mode: str                              # LionSettings.mode
    trains: tuple[str, ...]                # parameter-name prefixes; everything else is frozen
    rounds: tuple[str, ...]                # one of ROUNDS a step, in turn
    plan: Plan
    start: Callable[[Callable[[int], dict[str, Tensor]]], dict[str, Tensor]]
    easy: int = 0                          # first steps on scenes of one or two objects
    box_as_text: float = 0.5               # share of boxes without a region token, as in the paper
    tags: bool = False                     # the tag preface behind the soft prompt
    tag_noise: float = 0.0                 # share of the tags made wrong in training


def folder(out: Path, stage: int | str, part: str = "") -> Path:
    """Where a stage lies: in --out when it was trained there, else among the bundled weights."""
    name = f"stage{stage}" if isinstance(stage, int) else stage
    own = Path(out) / "lion" / name / part
    return own if (own / checkpoints.CONFIG).exists() else WEIGHTS / name / part


def frozen_parts(out: Path, llm: str = "llama"):
    """(vision, tagger, LLM, tokenizer) of stage 0; the heads that taught them stay behind."""
    tokenizer = TinyTokenizer()
    where = folder(out, 0, "vision")
    tensors, config = checkpoints.load_run(where)
    world = WORLDS[config["world"]]                                   # the world it has seen
    settings = tiny(world, len(tokenizer), llm=llm)
    eyes = torch.nn.ModuleDict({
        "vision": VisionEncoder(settings.vision),
        "tagger": TagHead(settings.vision.width, (*world.colours, *world.kinds))})
    checkpoints.load_into(eyes, _under(tensors, *(f"{name}." for name in eyes)), where)
    language = LanguageModel(settings.language)
    where = folder(out, 0, llm)
    told = _under(checkpoints.load_run(where)[0], "llm.")
    checkpoints.load_into(language, {k.removeprefix("llm."): v for k, v in told.items()}, where)
    return eyes["vision"], eyes["tagger"], language, tokenizer


def _under(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if name.startswith(prefixes)}


def build(mode: str, out: Path, llm: str = "llama") -> tuple[Lion, TagHead, TinyTokenizer]:
    """An untrained LION of this mode around the frozen parts."""
    vision, tagger, language, tokenizer = frozen_parts(out, llm)
    settings = replace(tiny(WORLDS["medium"], len(tokenizer), mode, llm), vision=vision.settings)
    return Lion(settings, vision, language), tagger, tokenizer


class Pool:
    """Scenes with the frozen encoder's features, computed once and asked again and again."""

    def __init__(self, model: Lion, tagger: TagHead, scenes: list[Scene]):
        used = {*model.settings.depths, *model.settings.region_depths}
        self.scenes = scenes
        chunks, self.tags = [], []
        for start in range(0, len(scenes), 128):
            states = look(model.vision, [s.draw() for s in scenes[start:start + 128]])
            self.tags += tagger.predict(states[-1])
            chunks.append([s.half() if d in used else s[:, :0].half()
                           for d, s in enumerate(states)])
        self.states = [torch.cat(depth) for depth in zip(*chunks)]        # each [size, 1+N, Dv]

    def take(self, rows: list[int]) -> list[Tensor]:
        return [s[rows].float() for s in self.states]


class Live:
    """A pool whose encoder is not frozen: every batch is looked at anew."""

    def __init__(self, model: Lion, scenes: list[Scene]):
        self.vision, self.scenes = model.vision, scenes

    def take(self, rows: list[int]) -> list[Tensor]:
        return look(self.vision, [self.scenes[r].draw() for r in rows])


def step_loss(model: Lion, tokenizer: TinyTokenizer, pool: Pool, stage: Stage, seed: int,
              batch: int = BATCH):
    """step -> (loss, parts): scenes of the pool in a fresh order each epoch, fresh questions."""
    per_epoch = len(pool.scenes) // batch

    few = [i for i, scene in enumerate(pool.scenes) if len(scene.objects) <= 2]

    def loss(step: int):
        level, tasks = ROUNDS[stage.rounds[step % len(stage.rounds)]]
        epoch, place = divmod(step, per_epoch)
        order = list(range(len(pool.scenes)))
        random.Random(f"order/{seed}/{epoch}").shuffle(order)
        rows = order[place * batch:(place + 1) * batch]
        rng = random.Random(f"lion/{stage.number}/{seed}/{step}")
        if step < stage.easy and few:
            rows = rng.choices(few, k=batch)
        asked = [e for r in rows for e in examples(pool.scenes[r], rng, tasks)]
        tags = None
        if stage.tags:
            tags = [noisy_tags(pool.tags[r], pool.scenes[r].world, rng, stage.tag_noise)
                    for r in rows for _ in tasks]
        as_text = [rng.random() < stage.box_as_text for _ in asked]
        return model(make_inputs(model, tokenizer, pool.take(rows), [e.prompt for e in asked],
                                 level, [e.answer for e in asked], tags, as_text))

    return loss


def train(stage: Stage, out: Path, world: str = "medium", seed: int = 0, resume: bool = False,
          device="cpu", plan: Plan | None = None, batch: int = BATCH, pool: int = POOL,
          checks: int = 64, quiet: bool = False, scenes: list[Scene] | None = None) -> dict:
    """Run one stage and write its folder; returns {'before', 'after', 'folder'}.

    scenes: those of a folder (datasets.read_scenes) instead of `pool` new ones.
    """
    torch.manual_seed(seed)
    plan = plan or stage.plan
    place = WORLDS[world]
    model, tagger, tokenizer = build(stage.mode, out)
    say_if_bundled(out, 0, "vision")
    say_if_bundled(out, 0, "llama")
    model.to(device), tagger.to(device)
    names = training.only_trainable(model, stage.trains)
    begin = stage.start(lambda number: earlier(out, number))
    if begin:
        checkpoints.load_into(model, begin, f"the weights stage {stage.number} starts from",
                              names=[n for n in names if n in begin])
    print(training.count_parameters(dict(model.named_children())))
    system = LionSystem(model, tokenizer, tagger, stage.tags)
    before = evaluation.evaluate(system, place, checks, 2**20 + seed, shuffled=False)
    live = any(name.startswith("vision.") for name in names)
    scenes = scenes or [make_scene(place, "train", seed, i)
                        for i in range(16 * pool if live else pool)]
    source = Live(model, scenes) if live else Pool(model, tagger, scenes)
    where = Path(out) / "lion" / (f"stage{n}" if isinstance(n := stage.number, int) else n)
    config = {"system": "lion", "stage": stage.number, "preset": "tiny", "world": world,
              "seed": seed, "batch": batch, "pool": len(scenes), "tags": stage.tags,
              "settings": asdict(model.settings)}
    training.run(model, step_loss(model, tokenizer, source, stage, seed, batch), plan, where,
                 config, resume, device, quiet)
    model.eval()
    after = evaluation.evaluate(system, place, checks, 2**20 + seed, shuffled=False)
    print(evaluation.table(before, after))
    print(f"wrote {where}")
    return {"before": before, "after": after, "folder": where}


def earlier(out: Path, number: int) -> dict[str, Tensor]:
    """The trained tensors of an earlier stage, said aloud when they are the bundled ones."""
    say_if_bundled(out, number)
    return {k: v.float() for k, v in checkpoints.load_run(folder(out, number))[0].items()}


def say_if_bundled(out: Path, number: int, part: str = "") -> None:
    """One line when what a stage starts from is not in --out (design section 5)."""
    where = folder(out, number, part)
    if WEIGHTS in where.parents:
        print(f"no stage {number} {part and part + ' '}in {out}: starting from the bundled "
              f"weights {where}")
