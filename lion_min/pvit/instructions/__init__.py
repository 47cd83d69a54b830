"""PVIT's region instructions: three strategies, one parser, the paper's filters with their counts.

    conversion      annotated questions get the region of what they name       conversion.py
    task-specific   a chat model asks and answers about annotations: five      messages.py, chat.py,
                    single-turn tasks, and dialogues in two calls              questions.py
    general         the same from captions, a description and three seeds

    python -m lion_min.pvit.instructions OUT.jsonl --count 1000     # SceneChat: offline, seconds
    python -m lion_min.pvit.instructions OUT.jsonl --chat FOLDER    # any local chat model
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import repeat

from lion_min.boxes import Box
from lion_min.pvit.instructions.chat import Chat, SceneChat
from lion_min.pvit.instructions.conversion import gqa_turn, vcr_turn
from lion_min.pvit.instructions.forms import FEWEST, Turns, filtered
from lion_min.pvit.instructions.messages import SEEDS, Request, scene_notes
from lion_min.scenes import Scene

Words = tuple[tuple[str, Box], ...]            # text that stands in a picture, with its boxes
STRATEGIES = {"conversion": ("gqa", "vcr"),
              "task-specific": ("small", "attribute", "relation", "ocr", "several", "dialogue"),
              "general": ("general",)}
STRATEGY_OF = {task: strategy for strategy, tasks in STRATEGIES.items() for task in tasks}
CATEGORY = {"small": "recognition", "attribute": "attribute", "relation": "reasoning",
            "vcr": "reasoning", "gqa": "reasoning", "several": "counting", "ocr": "other",
            "dialogue": "other", "general": "other"}  # FineEval's, counting on its own
CONVERSIONS = {"gqa": gqa_turn, "vcr": vcr_turn}
SINGLE_TURN = ("gqa", "vcr", "small", "attribute", "relation", "several")  # of drawn scenes
KEPT, NOTHING = "kept", "scene gives no such question"
PATIENCE = 50                                  # attempts in vain before `generate` gives up


@dataclass(frozen=True)
class Instruction:
    """A conversation about one picture: (question, answer) turns, regions as region_text.

    category: recognition, attribute, reasoning, counting or other; scene: the scene's seed.
    """

    turns: Turns
    strategy: str
    task: str
    category: str = ""
    scene: str = ""

    def samples(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """(question, answer, the turns before it) of every turn."""
        return [(*turn, list(self.turns[:i])) for i, turn in enumerate(self.turns)]


def attempt(scene: Scene, chat: Chat, task: str, rng: random.Random, turns: int = 1,
            words: Words = ()) -> Instruction | str:
    """Make one instruction, or return the reason why there is none.

    turns: how many a general conversation is asked for; a dialogue is asked for at least three.
    words: text that stands in the picture, for the task 'ocr'.
    """
    if task in CONVERSIONS:
        turn = CONVERSIONS[task](scene, rng)
        result = filtered((turn,)) if turn else NOTHING
    else:
        turns = {"general": turns, "dialogue": max(FEWEST, turns)}.get(task, 1)
        seeds = tuple(rng.sample(tuple(SEEDS), 3)) if task == "general" else ()
        request = Request(task, scene_notes(scene, words), turns, seeds)
        rows = request.form.parse(chat(request))
        if task == "dialogue" and rows:        # so far its questions
            request = replace(request, questions=tuple(question for question, in rows))
            rows = request.form.parse(chat(request))
        result = filtered(rows, must_point=task in ("dialogue", "general"))
    if isinstance(result, str):
        return result
    return Instruction(result, STRATEGY_OF[task], task, CATEGORY[task], scene.seed)


def generate(scenes: Iterable[Scene], chat_for: Callable[[Scene], Chat], tasks: tuple[str, ...],
             rng: random.Random, turns: tuple[int, int] = (1, 3),
             words_for: Callable[[Scene], Words] = lambda scene: (), count: int | None = None
             ) -> tuple[list[Instruction], Counter]:
    """(what passed the filters, how many were kept and how many each filter dropped).

    One attempt a scene, at one of `tasks` at random. chat_for(scene) -> chat: `SceneChat` itself,
    or `lambda scene: local_chat`. turns, words_for: see `attempt`.
    count: stop when so many are kept, or when the first PATIENCE attempts are in vain.
    """
    instructions, counts = [], Counter()
    for scene in scenes:
        result = attempt(scene, chat_for(scene), rng.choice(tasks), rng, rng.randint(*turns),
                         words_for(scene))
        counts[result if isinstance(result, str) else KEPT] += 1
        instructions += [result] if isinstance(result, Instruction) else []
        in_vain = not instructions and counts.total() == PATIENCE
        if count and (in_vain or len(instructions) == count):
            break
    return instructions, counts


def scene_instructions(scene: Scene, rng: random.Random, n: int, turns: tuple[int, int] = (1, 3)
                       ) -> list[Instruction]:
    """n instructions about one drawn scene for training, made like any other.

    turns: fewest and most of a conversation; the tasks that fit are equally likely, a dialogue
    counts double. A scene may give a general conversation fewer turns than it was asked for.
    """
    low, high = turns
    tasks = SINGLE_TURN * (low < 2) + ("general",) + ("dialogue",) * 2 * (high >= FEWEST)
    chat = SceneChat(scene, rng)
    return generate(repeat(scene), lambda scene: chat, tasks, rng, turns, count=n)[0]
