"""A few steps of every real stage on random frozen parts, once a session, and what they moved."""

import contextlib
import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lion_min import checkpoints, launch, scores, trainable, training
from lion_min.language import LanguageModel
from lion_min.lion.model import tiny
from lion_min.lyrics import refiner_system as lyrics
from lion_min.scenes import WORLDS
from lion_min.stage import Stage, load_start
from lion_min.system import System
from lion_min.tokenizer import TinyTokenizer
from lion_min.qformer import QFormer
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

NUMBERS = {"lion": (1, 2, 3, 4, "joint"), "pvit": (1, 2), "lmeye": (1, 2), "lyrics": (0, 1, 2)}
STAGES = [(system, number) for system, numbers in NUMBERS.items() for number in numbers]
SCORES = dict.fromkeys(scores.ROWS, 0.5) | {"vqa_by_type": dict.fromkeys(scores.VQA, 0.5)}


def write_stage0(out: Path) -> None:
    """OUT/lion/stage0/{vision,llama,qformer}, with the names their teachers save."""
    torch.manual_seed(0)
    world = WORLDS["medium"]
    settings = tiny(VisionSettings.of(world.image), len(TinyTokenizer()))
    eyes = torch.nn.ModuleDict({
        "vision": VisionEncoder(settings.vision),
        "tagger": TagHead(settings.vision.width, (*world.colours, *world.kinds))})
    reader = torch.nn.ModuleDict({"llm": LanguageModel(settings.language)})
    queries = torch.nn.ModuleDict({"ln_vision": torch.nn.LayerNorm(settings.vision.width),
                                   "qformer": QFormer(settings.qformer)})
    for part, module in (("vision", eyes), ("llama", reader), ("qformer", queries)):
        checkpoints.save_run(out / "lion" / "stage0" / part, checkpoints.trainable_state(module),
                             {"system": "lion", "stage": 0, "part": part, "world": world.name,
                              "settings": {"vision": asdict(settings.vision),
                                           "language": asdict(settings.language)}})


@dataclass
class Moves:
    """Every parameter and buffer of a stage's model and its tagger, before and after the steps."""

    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    parameters: set[str]

    def moved(self) -> set[str]:
        return {n for n, t in self.before.items() if not torch.equal(t, self.after[n])}


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name.removeprefix("model."): t.detach().clone() for name, t in held.items()}


@contextlib.contextmanager
def finding_something():
    """Untrained tagger and detector of Lyrics find nothing at the thresholds of trained ones."""
    tiny, predict = lyrics.tiny, TagHead.predict

    def lenient(*arguments):
        s = tiny(*arguments)
        return s if s.refiner is None else replace(s, refiner=replace(
            s.refiner, threshold=0.0, text_threshold=0.0))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lyrics, "tiny", lenient)
        patch.setattr(TagHead, "predict", lambda tagger, state: predict(tagger, state, 0.0))
        yield


def settings_of(system: str):
    return finding_something() if system == "lyrics" else contextlib.nullcontext()


def train(system: str, stage: Stage, out: Path, resume: bool = False, **plan) -> Moves:
    """launch.train_stage with 16 scenes, batches of 4 and no question scored."""
    # Behind a layer of zeros a part learns a step late.
    plan = replace(stage.plan, **{"steps": max(4, len(stage.rounds)), "warmup": 0} | plan)
    whole, seen, run_stage, run = nn.ModuleDict(), [], launch.run_stage, training.run

    def starting(system, options):
        whole.update({"model": system.model, "tagger": system.tagger})
        return run_stage(system, options)

    def running(model, *arguments):
        seen.append(snapshot(whole))
        run(model, *arguments)
        seen.append(snapshot(whole))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "run_stage", starting)
        patch.setattr(training, "run", running)
        patch.setattr(scores, "evaluate", lambda *a, **k: SCORES)
        options = launch.Options(out, device="cpu", batch=4, resume=resume)
        launch.train_stage(system, stage.number, options, stage, plan=plan, checks=4, quiet=True,
                           pool=1 if stage.number == "joint" else 16)
    return Moves(*seen, {n.removeprefix("model.") for n, _ in whole.named_parameters()})


class Trained:
    """OUT with a random stage 0 and, once they are asked for, all stages of a system."""

    def __init__(self, out: Path):
        self.out = out
        write_stage0(out)

    @functools.cache
    def moves(self, system: str) -> dict[int | str, Moves]:
        with settings_of(system):
            return {number: train(system, launch.stage_of(system, number), self.out)
                    for number in NUMBERS[system]}

    def folder(self, system: str, number: int | str) -> Path:
        self.moves(system)
        return self.out / system / ("joint" if number == "joint" else f"stage{number}")

    def opened(self, system: str, number: int | str) -> System:
        with settings_of(system):
            return launch.load(system, self.folder(system, number), "cpu")


def trains(stage: Stage, names) -> set[str]:
    """The parameters that the stage trains."""
    return {n for n in names if any(trainable.matches(n, t) for t in stage.trains)}


def untrained(system: str, stage: Stage, out: Path) -> System:
    """The system of a stage around the frozen parts of OUT."""
    return launch.module_of(system, "system").SYSTEM(launch.parts_for(out), stage)


def begun(system: str, stage: Stage, out: Path, init: Path | None = None) -> System:
    """The same as its first step finds it."""
    made = untrained(system, stage, out)
    trainable.only_trainable(made.model, stage.trains)
    load_start(made, init)
    return made
