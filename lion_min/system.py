"""A system: a model with its frozen parts, its tokenizer and its stage.

`encode` pictures once, `answer` prompts about them; `ask` does both for one picture and one
question; `batch_loss` is for training. Each of the four systems is a subclass in its system.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from lion_min import BadInput, checkpoints, scores
from lion_min.boxes import Box, BoxText, parse_prompt
from lion_min.explanation import Explanation
from lion_min.features import encode_images, index, join
from lion_min.images import load_image
from lion_min.parts import Parts, say_if_stage0_bundled
from lion_min.scenes import World
from lion_min.trainable import only_trainable

UNKNOWN = "i do not know."
MAX_TOKENS = 512           # of a question; the tiny LLMs were trained on far shorter ones


@dataclass
class Reply:
    """A question and its answer. Boxes are xyxy fractions of the upright picture."""

    prompt: str                # in the model's text
    answer: str
    prompt_boxes: list[Box]
    boxes: list[Box]           # of the answer
    seconds: float             # from the picture in memory to the answer, loading not counted
    features: dict             # of the picture, for System.explain
    image: Image.Image
    notes: list[str]           # warnings for the user


class System:
    """The interface of training, infer.py and the scores; a subclass has the first five methods."""

    ANSWERS: tuple[int | str, ...] = ()    # the stages that answer; the last is bundled
    reads_tags = False                     # LION's stage 4, Lyrics
    tags_of: Callable[[Image.Image], list[str]] | None = None   # None: the tag head's
    keeps_features = True                  # False: they are too large, each batch is encoded anew
    wordings: tuple[str, ...] = ()         # questions that it is taught beside wordings.py
    keeps_pictures = False                 # beside their states, in what `encode` returns
    reads: Callable[[Image.Image, str], tuple[str, list[str]]] | None = None   # of the tiny preset:
                                           # -> the prompt with its slips mended, notes for a Reply
    open_stage: Callable[[int], System] | None = None   # another stage of an opened run

    def __init__(self, parts: Parts, stage, model: nn.Module | None = None):
        self.parts, self.stage = parts, stage
        self.tokenizer, self.tagger = parts.tokenizer, parts.tagger.eval()
        self.model = (model or self.build()).eval()

    @property
    def name(self) -> str:
        """'lion', 'pvit', 'lyrics' or 'lmeye': the package of the class."""
        return type(self).__module__.split(".")[1]

    # ---- of every subclass -------------------------------------------------------------------

    def build(self) -> nn.Module:
        """The untrained model of self.stage around self.parts."""
        raise NotImplementedError

    @property
    def depths(self) -> set[int]:
        """The encoder states that the model uses."""
        raise NotImplementedError

    def batch_loss(self, round_, scenes: list, features: dict, rng) -> tuple[Tensor, dict]:
        """(loss, its named parts) of scenes with questions of the round's tasks."""
        raise NotImplementedError

    def answer(self, features: dict, prompts: list[str], **options) -> list[str]:
        """One answer a picture; options: of the LLM's generate."""
        raise NotImplementedError

    def explain(self, reply: Reply) -> Explanation:
        """What stands behind an answer."""
        raise NotImplementedError

    # ---- pictures ----------------------------------------------------------------------------

    def encode(self, images: list[Image.Image]) -> dict:
        """Frozen features and tags of images, computed once for all of their questions."""
        return self.features(encode_images(self.parts.vision, images), images)

    def features(self, states: list[Tensor], images: list[Image.Image]) -> dict:
        """What `encode` makes of the encoder's states, each [B, 1+N, Dv], and the pictures."""
        return {"states": states, "tags": self.tags(states, images)}

    def tags(self, states: list[Tensor], images: list[Image.Image]) -> list[list[str]]:
        """The tag head's; those of `tags_of` for every picture that comes from a file."""
        found = self.tagger.predict(states[-1])
        return found if not self.tags_of else [
            self.tags_of(image) if getattr(image, "filename", "") else tags
            for image, tags in zip(images, found)]

    @staticmethod
    def index(chunks: list[dict], rows: list[int]) -> dict:
        """Rows of several chunks of `encode`, one picture a prompt."""
        if len(chunks) == 1:
            return index(chunks[0], rows)
        size = len(chunks[0]["tags"])
        return join([index(chunks[row // size], [row % size]) for row in rows])

    # ---- one question, scores ----------------------------------------------------------------

    @torch.no_grad()
    def ask(self, image: Image.Image | Path | str, prompt: str, features: dict | None = None) -> Reply:
        """Ask about one picture; boxes in the prompt are fractions or pixels of it. features: of
        the picture, where they are known. BadInput for a picture or a prompt that is not valid."""
        image = image if isinstance(image, Image.Image) else load_image(image)
        text, boxes, notes = parse_prompt(prompt, *image.size)
        tokens = len(self.tokenizer.encode(text))
        if not 1 <= tokens <= MAX_TOKENS:
            raise BadInput(f"prompt: {tokens} words and signs; from 1 to {MAX_TOKENS} are read")
        if self.reads:
            text, more = self.reads(image, text)
            notes += more
        start = time.perf_counter()
        self.model.llm.notes = []
        features = features or self.encode([image])
        answer = self.answer(features, [text], min_new_tokens=1)[0]
        if not any(map(str.isalnum, answer)):
            answer = UNKNOWN
            notes.append(f"the model gave no answer, which is written as {UNKNOWN!r}")
        seconds = time.perf_counter() - start
        notes += self.model.llm.notes
        return Reply(text, answer, boxes, BoxText().parse(answer), seconds, features, image,
                     [*dict.fromkeys(notes)])

    def score(self, world: World, seed: int, checks: int | None = None) -> dict:
        """The scores that a run prints before and after, on held-out scenes."""
        return scores.evaluate(self, world, checks or 64, 2**20 + seed, shuffled=False)

    def report(self, world: World, count: int, seed: int) -> dict:
        """More scores of `python -m lion_min.evaluate` for this system."""
        return {}

    # ---- runs --------------------------------------------------------------------------------

    def announce(self) -> None:
        """Print which of the weights that a run starts from are the bundled ones."""
        if self.parts.source is None:
            say_if_stage0_bundled(self.parts.out, "vision", "llama")

    def load(self, folder: Path, config: dict) -> None:
        """Copy a run's tensors into the parameters that its stage trained, and those of an earlier
        stage that it needs; all are checked, and nothing trains afterwards."""
        self.parts.check(config, folder)
        settings = checkpoints.as_json(asdict(self.model.settings))
        if changed := checkpoints.differences(config.get("settings", {}), settings):
            raise BadInput(f"{folder / checkpoints.CONFIG}: of another version of the tiny preset "
                           f"({changed[0]}); train the stage again")
        if self.stage.needs_earlier:
            earlier = self.stage.start(partial(self.parts.earlier, self.name, quiet=True))
            checkpoints.load_into(self.model, earlier, "the stage before", [*earlier])
        tensors, _ = checkpoints.load_run(folder)
        names = only_trainable(self.model, self.stage.trains)
        checkpoints.load_into(self.model, tensors, folder / checkpoints.MODEL, names)
        self.model.requires_grad_(False)
