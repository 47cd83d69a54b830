"""Two chat callables, request -> reply: one that knows a drawn scene's truth, one local LLM.

Both get the same request (messages.py), and what they reply passes the same parser and filters
(forms.py). SceneChat makes the data generation run offline.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

from lion_min import BadInput
from lion_min.pvit.instructions.forms import region_text
from lion_min.pvit.instructions.messages import SEEDS, Request
from lion_min.pvit.instructions.questions import OF_TASK, TEMPLATES, draw_turn
from lion_min.scenes import Scene, Thing

Chat = Callable[[Request], str]
Turn = tuple[str, str]
NOTHING = "There is nothing to ask of this image."  # no form we asked for: the filter drops it


class SceneChat:
    """chat(request) -> reply about one drawn scene, true by construction.

    What a request cannot be given gets NOTHING, honestly, which the format filter drops. The
    answers of a dialogue are those of the questions that this chat wrote last.
    """

    def __init__(self, scene: Scene, rng: random.Random | None = None):
        self.scene, self.rng = scene, rng or random.Random("chat/" + scene.seed)
        self.answers: dict[str, str] = {}

    def __call__(self, request: Request) -> str:
        things = [t for _, box in request.objects for t in self.scene.objects if t.box == box]
        turns = self._turns(request, things) if things else []
        return request.form.format(turns) or NOTHING

    def _turns(self, request: Request, things: list[Thing]) -> list[Turn]:
        if request.questions:
            known = self.answers.keys() >= {*request.questions}
            return [(question, self.answers[question]) for question in request.questions if known]
        if request.task == "ocr":
            words = [self.rng.choice(request.notes.words)] if request.notes.words else []
            return [(f"What does it say in {region_text(box)}?", word) for word, box in words]
        if request.task == "general":
            return self._fill(request.seeds, things)[:request.turns]
        if request.task == "dialogue":
            turns = self._dialogue(things, request.turns)
            self.answers = dict(turns)
            return turns
        turn = draw_turn(OF_TASK[request.task], self.scene, things, self.rng)
        return [turn] if turn else []

    def _dialogue(self, things: list[Thing], count: int) -> list[Turn]:
        """Turns about one object; the later ones say 'it' or name its region again."""
        focus, turns, names = self.rng.choice(things), [], OF_TASK["dialogue"]
        for name in self.rng.sample(names, len(names)):
            it = "it" if turns and self.rng.random() < 0.6 else ""
            turn = len(turns) < count and draw_turn((name,), self.scene, things, self.rng, focus, it)
            turns += [turn] if turn else []
        return turns

    def _fill(self, seeds: tuple[str, ...], things: list[Thing]) -> list[Turn]:
        """Seeds with regions put in, as far as they can be answered."""
        turns = []
        for seed in seeds:
            if (slots := seed.count("<Region>")) <= len(things):
                chosen, (name, word) = self.rng.sample(things, slots), SEEDS[seed]
                regions = (region_text(t.box) for t in chosen)
                question = re.sub("<Region>", lambda _: next(regions), seed)
                answer = TEMPLATES[name].truth(self.scene, chosen, word)
                turns += [(question, answer)] if answer else []
        return turns


class LocalChat:
    """chat(request) -> reply of any local chat model of transformers, greedy, offline.

    folder: holds config.json, weights and a tokenizer with a chat template that takes a system
    message. Raises BadInput, one line, for a folder that is missing or does not load.
    """

    def __init__(self, folder: Path | str, most: int = 512, device: str = "cpu"):
        name = f"chat model {str(folder)!r}"
        if not (Path(folder) / "config.json").is_file():
            raise BadInput(f"{name}: no such folder, or it holds no config.json; "
                           "give the folder of a downloaded model")
        from transformers import AutoModelForCausalLM, AutoTokenizer
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype="auto").to(device).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BadInput(f"{name}: does not load ({str(error)[:200]}); "
                           "a causal language model of transformers is needed") from error
        if self.tokenizer.chat_template is None:
            raise BadInput(f"{name}: its tokenizer has no chat template; "
                           "take the instruction-tuned form of the model")
        self.most = most

    def __call__(self, request: Request) -> str:
        inputs = self.tokenizer.apply_chat_template(
            request.messages(), add_generation_prompt=True, return_tensors="pt", return_dict=True)
        ids = self.model.generate(**inputs.to(self.model.device), max_new_tokens=self.most,
                                  do_sample=False)  # [1, T + new]
        return self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
