"""The frozen parts of every system, and the folders of runs that they are loaded from.

Stage 0 (tiny/stage0.py) trained an encoder with its tag head, and an LLM on text alone; every tiny
system starts from the same ones. launch.py makes `Parts` and hands them to a system.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from lion_min import BadInput, checkpoints
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.left_out import note
from lion_min.scenes import WORLDS
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

WEIGHTS = Path(__file__).with_name("weights")
STAGE0 = "lion/stage0"                     # below --out, and below the bundled weights
TINY = "tiny"                              # the preset whose frozen parts stage 0 trains


@dataclass
class Parts:
    """What is frozen around a system's own modules."""

    vision: VisionEncoder
    tagger: TagHead
    llm: LanguageModel
    tokenizer: TinyTokenizer               # or PretrainedTokenizer, which has the same methods
    out: Path = Path("runs")               # earlier stages lie here, or among the bundled weights
    preset: str = TINY
    source: dict | None = None             # pretrained: where vision and language came from
    published: object = None               # pretrained: the model's settings around these parts
    beside: dict[str, nn.Module] = field(default_factory=dict)   # frozen parts of one system alone:
                                           # PVIT's 'regions', Lyrics' 'refiner', LMEye's 'tower'

    @cached_property
    def fingerprint(self) -> str:
        """Which frozen parts these are; compute it before any of them trains. A tag head for
        photographs may be trained before or after a run, so it does not count there."""
        if self.preset == TINY:
            return fingerprint(self.vision, self.tagger, self.llm)
        more = (getattr(part, "detector", part) for part in self.beside.values())   # masks: for show
        return fingerprint(self.vision, self.llm, *more)

    def earlier(self, system: str, number: int | str, quiet: bool = False) -> dict[str, Tensor]:
        """The trained tensors of an earlier stage; one line says when they are the bundled ones.

        BadInput when that stage was trained on other frozen parts, or where it is not in --out
        and nothing is bundled for the preset.
        """
        if self.preset != TINY and str(number).startswith("stage0"):
            return {}                          # a tiny part: around pretrained ones it is random
        folder = run_folder(system, self.out, number)
        if self.preset != TINY and WEIGHTS in folder.parents:
            raise BadInput(f"no {system} stage {number} in {self.out}, and none is bundled for "
                           f"this preset; train it first: --stage {number}")
        if not quiet:
            say_if_bundled(system, self.out, number)
        tensors, config = checkpoints.load_run(folder)
        self.check(config, folder)
        return {k: v.float() for k, v in tensors.items()}

    def check(self, config: dict, folder: Path) -> None:
        """BadInput when a run was trained on other frozen parts: its answers would be nonsense."""
        if config.get("stage0", self.fingerprint) != self.fingerprint:
            raise BadInput(f"{folder}: was trained on another stage 0 (fingerprint "
                           f"{config['stage0']}, here {self.fingerprint}); train it again, go on from "
                           "it with --init, or use the stage 0 it was trained on")

    def compare(self, config: dict, folder: Path) -> None:
        """A note when a run to go on from was trained on other frozen parts: it learns these."""
        if config.get("stage0", self.fingerprint) != self.fingerprint:
            note(f"{folder}: was trained on another stage 0; it goes on around this one")


def fingerprint(*parts: nn.Module) -> str:
    """The hash of a half-precision safetensors file of the parts, so that bundling them changes
    nothing; one tensor at a time is copied."""
    named = sorted((f"{i}.{n}", p) for i, part in enumerate(parts)
                   for n, p in part.named_parameters())
    header, end = {}, 0
    for name, p in named:
        start, end = end, end + 2 * p.numel()
        header[name] = {"dtype": "F16", "shape": list(p.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256(len(text).to_bytes(8, "little") + text)
    for _, p in named:
        digest.update(p.detach().half().contiguous().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


# ---- folders ------------------------------------------------------------------------------------

def stage_name(stage: int | str) -> str:
    """What a stage's script and folder are called: 'stage2', or 'joint'."""
    return f"stage{stage}" if isinstance(stage, int) else stage


def run_folder(system: str, out: Path, stage: int | str) -> Path:
    """Where a stage lies: in --out when it was trained there, else among the bundled weights."""
    return _in_out_or_bundled(out, Path(system) / stage_name(stage))


def stage0_folder(out: Path, part: str) -> Path:
    """Where a part of stage 0 lies ('vision', 'llama', 't5'), likewise."""
    return _in_out_or_bundled(out, Path(STAGE0) / part)


def _in_out_or_bundled(out: Path, name: Path) -> Path:
    trained = Path(out) / name
    return trained if (trained / checkpoints.CONFIG).exists() else WEIGHTS / name


def say_if_bundled(system: str, out: Path, stage: int) -> None:
    """One line when what a stage starts from is not in --out (design section 5)."""
    _say(run_folder(system, out, stage), f"{system} stage {stage}".replace("stage0/", "0 "), out)


def say_if_stage0_bundled(out: Path, *parts: str) -> None:
    for part in parts:
        _say(stage0_folder(out, part), f"{STAGE0.replace('/stage', ' stage ')} {part}", out)


def _say(folder: Path, name: str, out: Path) -> None:
    if WEIGHTS in folder.parents:
        print(f"no {name} in {out}: starting from the bundled weights {folder}")


def load_init(init: Path, check: Callable[[dict, Path], None] = lambda config, folder: None,
              **wanted) -> dict[str, Tensor]:
    """The tensors of the run of --init, which must be what `wanted` says: system, stage, for stage
    0 part. BadInput for another one, or one that `check` refuses."""
    check_init(init, **wanted)
    tensors, config = checkpoints.load_run(init)
    check(config, init)
    return {k: v.float() for k, v in tensors.items()}


def check_init(init: Path, **wanted) -> None:
    """BadInput where the run of --init is another one than load_init's `wanted`."""
    config = checkpoints.load_json(Path(init) / checkpoints.CONFIG)
    actual = {key: config.get(key) for key in wanted}
    if actual != wanted:
        is_, needed = (" ".join(str(v) for v in (c["system"], "stage", c["stage"], c.get("part"))
                                if v is not None) for c in (actual, wanted))
        raise BadInput(f"{init}: is {is_}; --init goes on from a run of {needed}")


# ---- the tiny parts -----------------------------------------------------------------------------

def tiny_parts(out: Path, llm: str = "llama") -> Parts:
    """Stage 0's parts; the heads that only taught it stay behind. llm: 'llama' or 't5'."""
    vision, tagger = tiny_vision(stage0_folder(out, "vision"))
    folder = stage0_folder(out, llm)
    tensors, config = checkpoints.load_run(folder)
    language = LanguageModel(_settings(LanguageSettings, config, "language", folder))
    checkpoints.load_into(language, {k.removeprefix("llm."): v for k, v in
                                     _under(tensors, "llm.").items()}, folder)
    return Parts(vision, tagger, language, TinyTokenizer(), Path(out))


def tiny_vision(folder: Path) -> tuple[VisionEncoder, TagHead]:
    """The ViT and the tag head that a stage 0 trained on drawn scenes."""
    tensors, config = checkpoints.load_run(folder)
    settings = _settings(VisionSettings, config, "vision", folder)
    world = WORLDS[config["world"]]
    both = nn.ModuleDict({
        "vision": VisionEncoder(settings),
        "tagger": TagHead(settings.width, (*world.colours, *world.kinds))})
    checkpoints.load_into(both, _under(tensors, *(f"{name}." for name in both)), folder)
    return both["vision"], both["tagger"]


def _settings(kind: type, config: dict, part: str, folder: Path):
    """A settings dataclass out of a run's config; BadInput where it is of another version."""
    try:
        saved = config["settings"][part]
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()})
    except (KeyError, TypeError) as error:
        raise BadInput(f"{folder / checkpoints.CONFIG}: settings.{part} is of another version "
                       f"({error}); train stage 0 again") from error


def _under(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if name.startswith(prefixes)}
