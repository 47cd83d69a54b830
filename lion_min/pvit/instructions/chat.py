"""Two chat callables, messages -> reply: one that knows a drawn scene's truth, one local LLM.

Both get the same messages (messages.py), and what they reply passes the same parser and filters
(instructions.py). SceneChat makes the data generation run offline: it reads which task, which
form, which objects, seeds or questions a request holds, and replies from the scene's truth.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

from lion_min import BadInput
from lion_min.pvit.instructions.asks import OF_TASK, draft, read, thing_at
from lion_min.pvit.instructions.messages import (QUESTIONS, SINGLE, as_pairs, as_questions, as_single,
                                   region_boxes, region_text, section)
from lion_min.scenes import Scene, Thing

Chat = Callable[[list[dict[str, str]]], str]
NOTHING = "There is nothing to ask of this image."  # no form we asked for: the filter drops it
DRAFTS = 8     # of one question, to choose its answer from


class SceneChat:
    """chat(messages) -> reply about one drawn scene, true by construction.

    What a request cannot be given gets NOTHING, honestly, which the format filter drops.
    """

    def __init__(self, scene: Scene, rng: random.Random | None = None):
        self.scene, self.rng = scene, rng or random.Random("chat/" + scene.seed)

    def __call__(self, messages: list[dict[str, str]]) -> str:
        system, query = messages[0]["content"], messages[-1]["content"]
        task, turns = section(query, "Task")[0], int(section(query, "Turns")[0])
        shown = [box for line in section(query, "Objects") for box in region_boxes(line)]
        things = [thing for box in shown if (thing := thing_at(self.scene, box))]
        if task == "ocr":
            return self._text(section(query, "Text"))
        if not things:
            return NOTHING
        if SINGLE in system:
            made = self._ask(things, OF_TASK[task])
            return as_single(*made) if made else NOTHING
        if QUESTIONS in system:
            return as_questions(self._talk(things, turns)) or NOTHING
        questions = section(query, "Questions") or self._grown(section(query, "Seeds"), things)
        answers = self._answers(questions[:turns])
        return as_pairs(list(zip(questions, answers))) or NOTHING

    def _text(self, lines: list[str]) -> str:
        if not lines:
            return "There is no text in this image."
        word, _, region = self.rng.choice(lines).rpartition(": ")
        return as_single(f"What does it say in {region}?", word)

    def _ask(self, things: list[Thing], names: tuple[str, ...], first: Thing | None = None,
             said: str = "") -> tuple[str, str] | None:
        """(question, answer) by one of the names; about `first`, called `said`, when given."""
        for name in self.rng.sample(names, len(names)):
            found = {}
            for _ in range(DRAFTS):    # then evenly among their answers: 'no' must not pay
                made = draft(name, self.scene, things, self.rng, first, said)
                if made and (answer := made.answer(self.scene)):
                    found.setdefault(answer, made)
            if found:
                answer = self.rng.choice(list(found))
                return found[answer].written(self.rng), answer
        return None

    def _talk(self, things: list[Thing], turns: int) -> list[str]:
        """Questions about one object; the later ones say 'it' or name its region again."""
        focus, questions = self.rng.choice(things), []
        for name in self.rng.sample(OF_TASK["dialogue"], len(OF_TASK["dialogue"])):
            it = "it" if questions and self.rng.random() < 0.6 else ""
            if len(questions) < turns and (made := self._ask(things, (name,), focus, it)):
                questions.append(made[0])
        return questions

    def _grown(self, seeds: list[str], things: list[Thing]) -> list[str]:
        """Seeds with regions put in, as far as they can be answered."""
        questions = []
        for seed in seeds:
            if (holes := seed.count("<Region>")) <= len(things):
                regions = iter([region_text(t.box) for t in self.rng.sample(things, holes)])
                question = re.sub("<Region>", lambda _: next(regions), seed)
                questions += [question] if read(question, self.scene)[0] else []
        return questions

    def _answers(self, questions: list[str]) -> list[str]:
        """The answer to every question, read from its words; [] when one cannot be answered."""
        answers, it = [], None
        for question in questions:
            answer, it = read(question, self.scene, it)
            answers.append(answer)
        return [] if None in answers else answers


class LocalChat:
    """chat(messages) -> reply of any local chat model of transformers, greedy, offline.

    folder: holds config.json, weights and a tokenizer with a chat template that takes a system
    message. Raises BadInput, one line, for a folder that is missing or does not load.
    """

    def __init__(self, folder: Path | str, most: int = 512, device: str = "cpu"):
        if not (Path(folder) / "config.json").is_file():
            raise BadInput(f"chat model {str(folder)!r}: no such folder, or it holds no "
                           "config.json; give the folder of a downloaded model")
        from transformers import AutoModelForCausalLM, AutoTokenizer
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, dtype="auto").to(device).eval()
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise BadInput(f"chat model {str(folder)!r}: does not load ({str(error)[:200]}); "
                           "a causal language model of transformers is needed") from error
        if self.tokenizer.chat_template is None:
            raise BadInput(f"chat model {str(folder)!r}: its tokenizer has no chat template; "
                           "take the instruction-tuned form of the model")
        self.most = most

    def __call__(self, messages: list[dict[str, str]]) -> str:
        inputs = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        ids = self.model.generate(**inputs.to(self.model.device), max_new_tokens=self.most,
                                  do_sample=False)  # [1, T + new]
        return self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1]:],
                                     skip_special_tokens=True)
