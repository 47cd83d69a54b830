"""PVIT's region instructions: three strategies, one parser, the paper's filters with their counts.

    conversion      annotated questions get the region of what they name       conversion.py
    task-specific   a chat model asks and answers about annotations: five      messages.py, asks.py,
                    single-turn tasks, and dialogues in two calls              chat.py
    general         the same from captions, a description and three seeds

    python -m lion_min.pvit.instructions OUT.jsonl --count 1000     # SceneChat: offline, seconds
    python -m lion_min.pvit.instructions OUT.jsonl --chat FOLDER    # any local chat model

Filters (paper A.4): a reply of another form, a region in an answer, and, in dialogues and the
general strategy, no region in any question. We also ask it of conversions: one whose object the
question does not name teaches nothing about regions.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lion_min import BadInput
from lion_min.boxes import Box, BoxText
from lion_min.cli import Parser, guarded, whole
from lion_min.pvit.instructions.chat import Chat, LocalChat, SceneChat
from lion_min.pvit.instructions.conversion import convert_gqa, convert_vcr, gqa_turn, vcr_turn  # noqa: F401
from lion_min.pvit.instructions.messages import REGION, region_boxes, region_text, request, scene_notes
from lion_min.scenes import WORLDS, Scene, make_scene

Turns = tuple[tuple[str, str], ...]
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
FEWEST = 3                                     # questions of a dialogue
KEPT, FORMAT, IN_ANSWER, NO_REGION, NOTHING = (
    "kept", "broken format", "region in an answer", "no region in any question",
    "scene gives no such question")


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


# ---- replies: form and filters -------------------------------------------------------------------

def parse_single(reply: str) -> Turns | None:
    """'Question: ..\\n======\\nAnswer: ..' -> one turn; None for any other form."""
    return _pairs(re.split(r"\n\s*={6}[ \t]*\n", reply), most=1)


def parse_pairs(reply: str) -> Turns | None:
    """Questions and answers in turn, '===' on a line between them; None for any other form."""
    return _pairs(re.split(r"\n\s*={3}[ \t]*\n", reply))


def parse_questions(reply: str) -> tuple[str, ...] | None:
    """Questions alone, '===' between them; None for any other form or fewer than three."""
    said = [_labelled(part, "Question") for part in re.split(r"\n\s*={3}[ \t]*\n", reply)]
    return tuple(said) if len(said) >= FEWEST and all(said) else None


def _pairs(parts: list[str], most: int = 100) -> Turns | None:
    said = [_labelled(part, ("Question", "Answer")[i % 2]) for i, part in enumerate(parts)]
    whole_turns = len(said) % 2 == 0 and len(said) <= 2 * most and all(said)
    return tuple(zip(said[::2], said[1::2])) if whole_turns else None


def _labelled(part: str, label: str) -> str:
    """What stands behind 'Question:', on one line; "" when it does not or more labels follow."""
    match = re.fullmatch(rf"\s*{label}:(.*)", part, re.DOTALL)
    text = " ".join(match[1].split()) if match else ""
    return "" if re.search(r"(Question|Answer):|===", text) else text


def filtered(turns: Turns | None, must_point: bool = True) -> Turns | str:
    """The turns with their regions in our own form, or the filter that dropped them.

    must_point: a region is needed in some question.
    """
    if not turns:
        return FORMAT
    if any(_has_region(answer) for _, answer in turns):
        return IN_ANSWER
    if any(_has_region(REGION.sub("", q)) or len(region_boxes(q)) != len(REGION.findall(q))
           for q, _ in turns):           # a tag without its partner, a box without tags, no box
        return FORMAT
    if must_point and not any(REGION.search(q) for q, _ in turns):
        return NO_REGION
    return tuple((REGION.sub(lambda m: region_text(BoxText().parse(m[1])[0]), question), answer)
                 for question, answer in turns)


def _has_region(text: str) -> bool:
    return "region>" in text.lower() or bool(BoxText().parse(text))


# ---- generation ----------------------------------------------------------------------------------

def attempt(scene: Scene, chat: Chat, task: str, rng: random.Random, turns: int = 1,
            words: Words = ()) -> Instruction | str:
    """One instruction, or the reason why there is none.

    turns: how many a general conversation is asked for; a dialogue is asked for at least three.
    words: text that stands in the picture, for the task 'ocr'.
    """
    if task in CONVERSIONS:
        made = CONVERSIONS[task](scene, rng)
        kept = filtered((made,)) if made else NOTHING
    else:
        kept = filtered(_chatted(scene, chat, task, rng, turns, words),
                        must_point=task in ("dialogue", "general"))
    return kept if isinstance(kept, str) else Instruction(kept, STRATEGY_OF[task], task)


def _chatted(scene, chat, task, rng, turns, words) -> Turns | None:
    notes = scene_notes(scene, words)
    if task == "general":
        return parse_pairs(chat(request(task, notes, rng, turns)))
    if task != "dialogue":
        return parse_single(chat(request(task, notes, rng)))
    turns = max(FEWEST, turns)
    questions = parse_questions(chat(request(task, notes, rng, turns)))
    made = questions and parse_pairs(chat(request(task, notes, rng, turns, questions)))
    return made if made and len(made) >= FEWEST else None


def attempts(scenes: Iterable[Scene], chat_for: Callable[[Scene], Chat], strategy: str | None,
             rng: random.Random, task: str | None = None, turns: tuple[int, int] = (1, 3),
             words_for: Callable[[Scene], Words] = lambda scene: ()
             ) -> Iterator[tuple[Scene, Instruction | str]]:
    """One attempt a scene; a task at random among the strategy's (None: among all) unless given."""
    tasks = (task,) if task else STRATEGIES[strategy] if strategy else tuple(STRATEGY_OF)
    for scene in scenes:
        yield scene, attempt(scene, chat_for(scene), rng.choice(tasks), rng, rng.randint(*turns),
                             words_for(scene))


def generate(scenes: Iterable[Scene], chat_for: Callable[[Scene], Chat], strategy: str | None,
             rng: random.Random, task: str | None = None, **options
             ) -> tuple[list[Instruction], Counter]:
    """(what passed the filters, how many were kept and how many each filter dropped).

    chat_for(scene) -> chat: `SceneChat` itself, or `lambda scene: local_chat`. The other
    arguments are those of `attempts`.
    """
    made = [result for _, result in attempts(scenes, chat_for, strategy, rng, task, **options)]
    kept = [result for result in made if isinstance(result, Instruction)]
    return kept, Counter(KEPT if isinstance(r, Instruction) else r for r in made)


def scene_instructions(scene: Scene, rng: random.Random, n: int, turns: tuple[int, int] = (1, 3)
                       ) -> list[Instruction]:
    """n instructions about one drawn scene for training, by the same road as any other.

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


# ---- command line --------------------------------------------------------------------------------

def parser() -> Parser:
    p = Parser(prog="python -m lion_min.pvit.instructions",
               description="Write region instructions about drawn scenes, one JSON object a line.")
    p.add_argument("out", type=Path, metavar="OUT.jsonl")
    p.add_argument("--count", type=whole(1), default=1000, metavar="N",
                   help="instructions to keep, one a scene; default: 1000")
    p.add_argument("--seed", type=whole(0), default=0, metavar="S")
    p.add_argument("--strategy", choices=STRATEGIES, help="default: all three")
    p.add_argument("--chat", type=Path, metavar="DIR",
                   help="a local chat model; default: the rules that know the drawn scene")
    p.add_argument("--world", choices=WORLDS, default="medium", help="default: medium")
    return p


def write(args) -> None:
    """Scenes in turn until enough are kept, ten times as many tried, or 50 tried in vain."""
    from lion_min.checkpoints import write_atomic
    local = args.chat and LocalChat(args.chat)
    scenes = (make_scene(WORLDS[args.world], "train", args.seed, i) for i in range(10 * args.count))
    lines, counts = [], Counter()
    for scene, result in attempts(scenes, lambda s: local or SceneChat(s), args.strategy,
                                  random.Random(f"instructions/{args.seed}")):
        kept = isinstance(result, Instruction)
        counts[KEPT if kept else result] += 1
        lines += [json.dumps({**vars(result), "category": result.category, "scene": scene.seed})
                  ] if kept else []
        if len(lines) == args.count or not lines and counts.total() == 50:
            break
    if not lines:
        raise BadInput(f"{args.out}: not written, nothing passed the filters ({dict(counts)}); "
                       "take another chat model or strategy")
    write_atomic(args.out, ("\n".join(lines) + "\n").encode())
    print("\n".join(f"{counts[name]:7d}  {name}" for name in (
        KEPT, FORMAT, IN_ANSWER, NO_REGION, NOTHING)) + f"\nwrote {args.out}")


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return guarded(lambda: write(args))


if __name__ == "__main__":
    raise SystemExit(main())
