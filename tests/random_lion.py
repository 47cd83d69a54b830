"""An untrained LION on disk: every folder of a run, filled with random weights in a second."""

from dataclasses import asdict
from pathlib import Path

import torch

from lion_min import checkpoints, launch, trainable
from lion_min.language import LanguageModel
from lion_min.lion.model import tiny
from lion_min.scenes import WORLDS
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

WORLD = "medium"


def write_stage0(out: Path) -> None:
    """OUT/lion/stage0/{vision,llama}, with the names their teachers save."""
    torch.manual_seed(0)
    world = WORLDS[WORLD]
    settings = tiny(VisionSettings.of(world.image), len(TinyTokenizer()))
    eyes = torch.nn.ModuleDict({
        "vision": VisionEncoder(settings.vision),
        "tagger": TagHead(settings.vision.width, (*world.colours, *world.kinds))})
    reader = torch.nn.ModuleDict({"llm": LanguageModel(settings.language)})
    for part, module in (("vision", eyes), ("llama", reader)):
        checkpoints.save_run(out / "lion" / "stage0" / part, checkpoints.trainable_state(module),
                             {"system": "lion", "stage": 0, "part": part, "world": WORLD,
                              "settings": {"vision": asdict(settings.vision),
                                           "language": asdict(settings.language)}})


def write_stage(out: Path, number: int) -> Path:
    """OUT/lion/stageN, over the stage 0 beside it."""
    stage = launch.stage_of("lion", number)
    model = launch.module_of("lion", "system").SYSTEM(launch.parts_for(out), stage).model
    trainable.only_trainable(model, stage.trains)
    where = out / "lion" / f"stage{number}"
    checkpoints.save_run(where, checkpoints.trainable_state(model), {
        "system": "lion", "stage": number, "preset": "tiny", "world": WORLD,
        "settings": asdict(model.settings)})
    return where
