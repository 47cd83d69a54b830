"""The tiny preset's frozen parts, and what they see: computed once, asked often.

Stage 0 made an encoder with its tag head and an LLM that only ever read text (lion/stage0.py);
every system starts from the same ones. Symbols: B images, N patches, Dv encoder width.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from lion_min import BadInput, checkpoints
from lion_min.images import to_pixels
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.pretrained.presets import PRESETS
from lion_min.scenes import WORLDS, Scene
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import TagHead, VisionEncoder, VisionSettings

WEIGHTS = Path(__file__).with_name("weights")


def stage_name(stage: int | str) -> str:
    """What a stage's script and folder are called: 'stage2', or 'joint'."""
    return f"stage{stage}" if isinstance(stage, int) else stage


def folder(system: str, out: Path, stage: int | str, part: str = "") -> Path:
    """Where a stage lies: in --out when it was trained there, else among the bundled weights."""
    name = Path(system) / stage_name(stage) / part
    own = Path(out) / name
    return own if (own / checkpoints.CONFIG).exists() else WEIGHTS / name


def say_if_bundled(system: str, out: Path, stage: int, part: str = "") -> None:
    """One line when what a stage starts from is not in --out (design section 5)."""
    where = folder(system, out, stage, part)
    if WEIGHTS in where.parents:
        print(f"no {system} stage {stage} {part and part + ' '}in {out}: starting from the "
              f"bundled weights {where}")


def earlier(system: str, out: Path, number: int, stage0: str | None = None,
            bundled: bool = True) -> dict[str, Tensor]:
    """The trained tensors of an earlier stage, said aloud when they are the bundled ones.

    stage0: the fingerprint of the frozen parts in use; BadInput when the stage grew on others,
    or where it is not in --out and nothing is bundled for the preset.
    """
    where = folder(system, out, number)
    if not bundled and WEIGHTS in where.parents:
        raise BadInput(f"no {system} stage {number} in {out}, and none is bundled for this "
                       f"preset; train it first: --stage {number}")
    say_if_bundled(system, out, number)
    tensors, config = checkpoints.load_run(where)
    check_stage0(config, where, stage0)
    return {k: v.float() for k, v in tensors.items()}


def fingerprint(*parts: nn.Module) -> str:
    """What the frozen parts are, at half precision, so that bundling them changes nothing: the
    hash of a safetensors file of them, of which one tensor at a time exists."""
    named = sorted((f"{i}.{n}", p) for i, part in enumerate(parts)
                   for n, p in part.named_parameters())
    header, end = {}, 0
    for name, p in named:
        start, end = end, end + 2 * p.numel()
        header[name] = {"dtype": "F16", "shape": list(p.shape), "data_offsets": [start, end]}
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)
    digest = hashlib.sha256(len(told).to_bytes(8, "little") + told)
    for _, p in named:
        digest.update(p.detach().half().contiguous().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def frozen_of(model: nn.Module, tagger: nn.Module, preset: str) -> tuple[nn.Module, ...]:
    """What a run has grown on. A tag head for photographs may be trained before or after it."""
    return (model.vision, tagger, model.llm) if preset == "tiny" else (model.vision, model.llm)


def check_stage0(config: dict, where: Path, stage0: str | None) -> None:
    """BadInput when a run was trained on another stage 0: every answer would be nonsense."""
    if stage0 and config.get("stage0", stage0) != stage0:
        raise BadInput(f"{where}: was trained on another stage 0 (fingerprint {config['stage0']}, "
                       f"here {stage0}); train it again, or use the stage 0 it grew on")


@dataclass(frozen=True)
class Source:
    """Where the frozen parts come from: the tiny stage 0, or a preset's pretrained backbones."""

    preset: str = "tiny"
    vision: str | None = None              # a folder or name in the place of the preset's own;
    language: str | None = None            # vision: also a stage 0 of ours, which saw drawings


def frozen_parts(out: Path, llm: str = "llama", source: Source = Source()
                 ) -> tuple[VisionEncoder, TagHead, LanguageModel, TinyTokenizer]:
    """(vision, tagger, LLM, tokenizer); the heads that taught stage 0's stay behind."""
    if source.preset != "tiny":
        return pretrained_parts(out, source)
    vision, tagger = drawn_eyes(folder("lion", out, 0, "vision"))
    where = folder("lion", out, 0, llm)
    tensors, config = checkpoints.load_run(where)
    language = LanguageModel(_settings(LanguageSettings, config, "language", where))
    told = {k.removeprefix("llm."): v for k, v in _under(tensors, "llm.").items()}
    checkpoints.load_into(language, told, where)
    return vision, tagger, language, TinyTokenizer()


def drawn_eyes(where: Path) -> tuple[VisionEncoder, TagHead]:
    """The ViT and the tag head that a stage 0 trained on drawn scenes."""
    tensors, config = checkpoints.load_run(where)
    settings = _settings(VisionSettings, config, "vision", where)
    world = WORLDS[config["world"]]                                   # the world it has seen
    eyes = nn.ModuleDict({
        "vision": VisionEncoder(settings),
        "tagger": TagHead(settings.width, (*world.colours, *world.kinds))})
    checkpoints.load_into(eyes, _under(tensors, *(f"{name}." for name in eyes)), where)
    return eyes["vision"], eyes["tagger"]


def pretrained_parts(out: Path, source: Source):
    """The backbones of a preset; the tag head is OUT's own, trained on the data's names, if any."""
    from lion_min.pretrained.backbones import load_language, load_vision
    preset = PRESETS[source.preset]
    drawn = source.vision and Path(source.vision, checkpoints.CONFIG)
    if drawn and drawn.is_file() and checkpoints.load_json(drawn).get("part") == "vision":
        vision = drawn_eyes(drawn.parent)[0]
    else:
        vision = load_vision(source.vision or preset.vision)
    language, tokenizer = load_language(source.language or preset.language)
    return vision, photo_tagger(out, vision.settings.width), language, tokenizer


def photo_tagger(out: Path, width: int) -> TagHead:
    """OUT/lion/stage0/tags, or a head that knows no tag."""
    where = Path(out) / "lion" / "stage0" / "tags"
    if not (where / checkpoints.CONFIG).exists():
        return TagHead(width, ())
    tensors, config = checkpoints.load_run(where)
    tagger = TagHead(width, tuple(config["tags"]))
    checkpoints.load_into(tagger, tensors, where)
    return tagger


def _settings(kind: type, config: dict, part: str, where: Path):
    """A settings dataclass out of a run's config; BadInput where it is of another version."""
    try:
        found = config["settings"][part]
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})
    except (KeyError, TypeError) as error:
        raise BadInput(f"{where / checkpoints.CONFIG}: settings.{part} is of another version "
                       f"({error}); train stage 0 again") from error


def _under(tensors: dict[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if name.startswith(prefixes)}


# ---- what the encoder sees ------------------------------------------------------------------

def look(vision: VisionEncoder, images: list[Image.Image]) -> list[Tensor]:
    """Every state of the encoder, each [B, 1+N, Dv]; no gradient unless its parameters train."""
    s = vision.settings
    pixels = to_pixels(images, s.image, s.mean, s.std)
    return vision(pixels.to(next(vision.parameters()).device))


class Pool:
    """Scenes with the frozen encoder's features and tags, computed once."""

    def __init__(self, vision: VisionEncoder, tagger: TagHead, scenes: list[Scene],
                 depths: set[int]):
        self.scenes, self.words, self.tags, chunks = scenes, tagger.tags, [], []
        for start in range(0, len(scenes), 128):
            with torch.no_grad():
                states = look(vision, [s.draw() for s in scenes[start:start + 128]])
            self.tags += tagger.predict(states[-1])
            chunks.append([s.half() if d in depths else s[:, :0].half()
                           for d, s in enumerate(states)])
        with torch.autocast(states[0].device.type, enabled=False):        # knows no float16
            self.states = [torch.cat(depth) for depth in zip(*chunks)]    # each [size, 1+N, Dv]

    def take(self, rows: list[int]) -> list[Tensor]:
        """The states of some scenes, each [len(rows), 1+N, Dv]; empty at depths nobody reads."""
        return [s[rows].float() for s in self.states]


class Live:
    """A pool without memory: every batch is looked at anew, because the encoder trains or the
    pictures are too many. Tags are those of the tagger, or the scenes' own."""

    def __init__(self, vision: VisionEncoder, scenes: list[Scene], tagger: TagHead | None = None):
        self.vision, self.scenes, self.tagger = vision, scenes, tagger
        self.words, self.tags = tagger.tags if tagger else (), {}

    def take(self, rows: list[int]) -> list[Tensor]:
        states = look(self.vision, [self.scenes[r].draw() for r in rows])
        if self.tagger is not None:
            self.tags = dict(zip(rows, self.tagger.predict(states[-1])))
        return states


class Seen:
    """`see` and `select` of evaluation.py for systems around the frozen encoder: a mixin.

    Needs self.model.vision and self.tagger.
    """

    def see(self, images: list[Image.Image]) -> dict:
        """Frozen features and tags of images; computed once, asked often."""
        with torch.no_grad():
            states = look(self.model.vision, images)
        return {"states": states, "tags": self.tagger.predict(states[-1])}

    @staticmethod
    def select(seen: list[dict], rows: list[int]) -> dict:
        """Rows of several chunks of `see`, one image for each prompt to come."""
        size = len(seen[0]["tags"])
        picked = [(seen[r // size], r % size) for r in rows]
        return {"states": [torch.stack([c["states"][d][r] for c, r in picked])
                           for d in range(len(seen[0]["states"]))],
                "tags": [c["tags"][r] for c, r in picked]}
