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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lion_min.boxes import Box
from lion_min.pvit.instructions.chat import Chat, SceneChat
from lion_min.pvit.instructions.conversion import gqa_turn, vcr_turn
from lion_min.pvit.instructions.forms import (FEWEST, Turns, filtered, parse_pairs,
                                              parse_questions, parse_single)
from lion_min.pvit.instructions.messages import Request, scene_notes
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


@dataclass(frozen=True)
class Instruction:
    """A conversation about one picture: (question, answer) turns, regions as region_text."""

    turns: Turns
    strategy: str
    task: str

    @property
    def category(self) -> str:
        """recognition, attribute, reasoning, counting or other."""
        return CATEGORY[self.task]


def attempt(scene: Scene, chat: Chat, task: str, rng: random.Random, turns: int = 1,
            words: Words = ()) -> Instruction | str:
    """One instruction, or the reason why there is none.

    turns: how many a general conversation is asked for; a dialogue is asked for at least three.
    words: text that stands in the picture, for the task 'ocr'.
    """
    if task in CONVERSIONS:
        turn = CONVERSIONS[task](scene, rng)
        result = filtered((turn,)) if turn else NOTHING
    else:
        result = filtered(_chatted(scene, chat, task, rng, turns, words),
                          must_point=task in ("dialogue", "general"))
    return result if isinstance(result, str) else Instruction(result, STRATEGY_OF[task], task)


def _chatted(scene, chat, task, rng, turns, words) -> Turns | None:
    notes = scene_notes(scene, words)
    if task == "general":
        return parse_pairs(chat(Request(task, notes, rng, turns)))
    if task != "dialogue":
        return parse_single(chat(Request(task, notes, rng)))
    turns = max(FEWEST, turns)
    questions = parse_questions(chat(Request(task, notes, rng, turns)))
    pairs = questions and parse_pairs(chat(Request(task, notes, rng, turns, questions)))
    return pairs if pairs and len(pairs) >= FEWEST else None


def attempts(scenes: Iterable[Scene], chat_for: Callable[[Scene], Chat], strategy: str | None,
             rng: random.Random, task: str | None = None, turns: tuple[int, int] = (1, 3),
             words_for: Callable[[Scene], Words] = lambda scene: ()
             ) -> Iterator[tuple[Scene, Instruction | str]]:
    """One attempt a scene; a task at random among the strategy's (None: among all) unless given.

    chat_for(scene) -> chat: `SceneChat` itself, or `lambda scene: local_chat`.
    """
    tasks = (task,) if task else STRATEGIES[strategy] if strategy else tuple(STRATEGY_OF)
    for scene in scenes:
        yield scene, attempt(scene, chat_for(scene), rng.choice(tasks), rng, rng.randint(*turns),
                             words_for(scene))


def outcome(result: Instruction | str) -> str:
    """What an attempt is counted as."""
    return KEPT if isinstance(result, Instruction) else result


def generate(scenes: Iterable[Scene], chat_for: Callable[[Scene], Chat], strategy: str | None,
             rng: random.Random, task: str | None = None, **options
             ) -> tuple[list[Instruction], Counter]:
    """(what passed the filters, how many were kept and how many each filter dropped); the
    arguments are those of `attempts`."""
    results = [result for _, result in attempts(scenes, chat_for, strategy, rng, task, **options)]
    return [r for r in results if isinstance(r, Instruction)], Counter(map(outcome, results))


def scene_instructions(scene: Scene, rng: random.Random, n: int, turns: tuple[int, int] = (1, 3)
                       ) -> list[Instruction]:
    """n instructions about one drawn scene for training, made like any other.

    turns: fewest and most of a conversation; the tasks that fit are equally likely, a dialogue
    counts double. A scene may give a general conversation fewer turns than it was asked for.
    """
    low, high = turns
    tasks = SINGLE_TURN * (low < 2) + ("general",) + ("dialogue",) * 2 * (high >= FEWEST)
    chat, made = SceneChat(scene, rng), []
    while len(made) < n:
        result = attempt(scene, chat, rng.choice(tasks), rng, rng.randint(low, high))
        made += [result] if isinstance(result, Instruction) else []
    return made
