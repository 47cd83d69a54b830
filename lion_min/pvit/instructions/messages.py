"""What a chat model is shown so that it writes region instructions (PVIT spec 4.2 b and c).

A system text (the task, the rules, the form of the reply), one worked example as a user and an
assistant message, then the query: the annotations of the picture at hand. The texts are our own;
the paper's stand in its tables 6 to 10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lion_min.boxes import Box
from lion_min.pvit.instructions.forms import DIALOGUE, PAIRS, QUESTIONS, SINGLE, Form, region_text
from lion_min.scenes import Scene
from lion_min.tasks import SIDES, stands


@dataclass(frozen=True)
class Notes:
    """What is known of one picture. Boxes are xyxy fractions; `words`: text that stands in it."""

    captions: tuple[str, ...]
    objects: tuple[tuple[str, Box], ...]
    relations: tuple[str, ...] = ()
    words: tuple[tuple[str, Box], ...] = ()
    description: str = ""


def scene_notes(scene: Scene, words: tuple[tuple[str, Box], ...] = ()) -> Notes:
    """A drawn scene's truth as annotations; nothing is written in one, so `words` are given."""
    pairs = [(a, side, b) for i, a in enumerate(scene.objects) for b in scene.objects[i + 1:]
             for side in SIDES if stands(a, side, b)]
    sentences = [f"The {a.words()} is {side} the {b.words()}." for a, side, b in pairs]
    relations = tuple(f"the {a.words()} {region_text(a.box)} is {side} the {b.words()} {region_text(b.box)}"
                      for a, side, b in pairs)
    return Notes((scene.caption(),), tuple(("a " + t.words(), t.box) for t in scene.objects),
                 relations, words, " ".join([scene.caption().capitalize(), *sentences]))


# ---- the texts -----------------------------------------------------------------------------------

AIMS = {
    "small": "The objects listed are the smaller ones. Ask what one of them is, or what can be seen there.",
    "attribute": "Ask for one property of one object: its colour, shape, size, material or pattern.",
    "relation": "Ask how two objects are related: where one is seen from the other, what they do "
                "to each other, what they have in common.",
    "ocr": "Ask what is written at one place of the picture; the answer is the text itself. When "
           "nothing is written, say so instead of asking.",
    "several": "Ask one question about several objects at once: how many share something, or "
               "which of them differ.",
    "dialogue": "A person talks with an assistant that sees the picture, about one object and what "
                "surrounds it. A later question may say 'it' for the object of the one before.",
    "general": "Write questions in the manner of the seeds, some short, some calling for a "
               "description, each about an object of this picture.",
}
RULES = """You see a picture only through its annotations, but write as if you saw the picture.
A region is <Region>[x1, y1, x2, y2]</Region>, fractions of the width and the height.
A question names its object by a region, copied digit for digit from the annotations, and never
gives its answer away. An answer is short, contains no region, and is certain from the annotations.
"""
ASKING = ("Write as many questions as 'Turns' says, at least 3. No two ask for the same thing; mix "
          "what, which, where, how many and yes-or-no; each has fewer than 25 words.\n")
ANSWERING = "Answer the questions listed, in their order, each as a continuation of the talk.\n"

# Twenty seeds for the general strategy, ten for short answers, ten for descriptions: with the name
# of the question template that knows the answer, and its word.
SEEDS = {
    "What is the colour of the object in <Region>?": ("colour", "colour"),
    "Which shape does the object in <Region> have?": ("shape", "shape"),
    "What colour is the thing in <Region>?": ("colour", "colour"),
    "Is the object in <Region> striped?": ("is", "striped"),
    "Is the object in <Region> small or large?": ("choice", "small or large"),
    "How many objects have the colour of the one in <Region>?": ("count colour", "colour"),
    "How many objects have the shape of the one in <Region>?": ("count shape", "shape"),
    "Is there something left of the object in <Region>?": ("something", "left of"),
    "Is there something above the object in <Region>?": ("something", "above"),
    "Does the object in <Region> have the colour of the one in <Region>?": ("same colour", "colour"),
} | dict.fromkeys((
    "Describe the object in <Region>.", "Please describe the thing in <Region>.",
    "What is in <Region>?", "What is the object in <Region>?", "What does <Region> show?",
    "What can you see in <Region>?", "Tell me what you see in <Region>.", "Give a short caption for <Region>.",
    "Please describe the object in <Region> using a single short sentence.",
    "What object do you see in <Region>?"), ("describe", ""))

# The worked example: one picture, and for each task what a good reply to it looks like.
DOG, BENCH, BALL, CUP = (.1, .45, .35, .9), (.4, .4, .9, .8), (.36, .84, .42, .9), (.6, .35, .64, .41)
EXAMPLE = Notes(
    ("A brown dog sits beside a blue bench in a park.",),
    (("a brown dog", DOG), ("a blue wooden bench", BENCH), ("a red ball", BALL), ("a white cup", CUP)),
    (f"a brown dog {region_text(DOG)} is left of a blue wooden bench {region_text(BENCH)}",),
    (("PLEASE SIT", (.55, .5, .75, .56)),),
    "A brown dog sits on the grass, to the left of a blue wooden bench. A red ball lies between "
    "them, and a white cup stands on the bench.")
TALK = ((f"What animal is in {region_text(DOG)}?", "a dog"), ("What colour is it?", "brown"),
        (f"Where is it, seen from {region_text(BENCH)}?", "on the left of the bench"))
REPLIES = {
    "small": [(f"What is the thing in {region_text(CUP)}?", "a white cup")],
    "attribute": [(f"What is the bench in {region_text(BENCH)} made of?", "wood")],
    "relation": [(f"On which side of {region_text(BENCH)} is the dog in {region_text(DOG)}?", "on its left")],
    "ocr": [(f"What is written in {region_text(EXAMPLE.words[0][1])}?", "PLEASE SIT")],
    "several": [(f"How many of {region_text(DOG)}, {region_text(BALL)} and {region_text(CUP)} are toys?",
                 "one, the red ball")],
    "dialogue": TALK,
    "general": [(f"What lies in {region_text(BALL)}?", "a red ball"),
                (f"Describe the animal in {region_text(DOG)}.", "a brown dog that sits on the grass")],
}


# ---- messages ------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Request:
    """What a chat is asked: one instruction of a task (a key of AIMS) about a picture.

    `messages` writes it out for a chat model; a chat that knows the picture reads the fields.
    A dialogue takes two: without `questions` the questions are asked for, with them the answers.
    """

    task: str
    notes: Notes
    turns: int = 1
    seeds: tuple[str, ...] = ()            # of SEEDS, for the task 'general'
    questions: tuple[str, ...] = ()

    @property
    def form(self) -> Form:
        """The form of the reply."""
        return DIALOGUE if self.questions else {"general": PAIRS, "dialogue": QUESTIONS}.get(self.task, SINGLE)

    @property
    def objects(self) -> tuple[tuple[str, Box], ...]:
        """The objects that the task lists: all, or the smaller half."""
        if self.task != "small":
            return self.notes.objects
        by_area = sorted(self.notes.objects, key=lambda o: (o[1][2] - o[1][0]) * (o[1][3] - o[1][1]))
        return tuple(by_area[:(len(by_area) + 1) // 2])

    def query(self) -> str:
        """The annotations that the task is shown, as titled lists."""
        notes, lists = self.notes, {"Task": [self.task], "Turns": [str(self.turns)],
                                    "Captions": self.notes.captions, "Objects": _located(self.objects)}
        if self.task in ("relation", "dialogue"):
            lists["Relations"] = notes.relations
        if self.task == "ocr":
            lists["Text"] = _located(notes.words)
        if self.task == "general":
            lists |= {"Description": [notes.description], "Seeds": self.seeds}
        if self.questions:
            lists["Questions"] = self.questions
        return "\n".join("\n- ".join([f"{title}:", *(lines or ["none"])]) for title, lines in lists.items())

    def messages(self) -> list[dict[str, str]]:
        """The messages {"role", "content"}: system text, worked example, its reply, the query."""
        form, turns = self.form, {"general": 2, "dialogue": 3}.get(self.task, 1)
        example = Request(self.task, EXAMPLE, turns, tuple(SEEDS)[8:11],
                          tuple(question for question, _ in TALK) if self.questions else ())
        rules = RULES + {QUESTIONS: ASKING, DIALOGUE: ANSWERING}.get(form, "")
        contents = (f"{AIMS[self.task]}\n{rules}{form.text}\n{form.format(form.example)}",
                    example.query(), form.format(REPLIES[self.task]), self.query())
        return [{"role": role, "content": content}
                for role, content in zip(("system", "user", "assistant", "user"), contents)]


def _located(named: Iterable[tuple[str, Box]]) -> list[str]:
    return [f"{name}: {region_text(box)}" for name, box in named]
