"""Scenes as text for stage 0: what a frozen LLM must be able to read before it can see.

A text scene is a row of slots, each the SUM of the LLM's own word embeddings: an object's slot
holds its words and the six words of its box, an empty slot a cell's two words or nothing. Visual
tokens will look like that: a vector a place, several facts in each. Three forms are mixed, so
that the LLM accepts whatever shape a bridge later gives:
  grid   64 slots, one a cell of the 8x8 grid, each with its column and row (the aggregator's)
  list   a few slots in random order, some empty (the Q-Former's)
  both   a grid and a list together: seeing an object twice is not two objects
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lion_min.lion.prompt import tag_ids
from lion_min.lion.softprompt import noisy_tags
from lion_min.scenes import COLOURS, KINDS, Scene, World, make_scene
from lion_min.questions import examples
from lion_min.tasks import BOX, IMAGE_LEVEL, Example, fits, rec_relational
from lion_min.tokenizer import GRID, WORDS, TinyTokenizer, box_words

PLURALS = {kind + ("es" if kind == "cross" else "s"): kind for kind in KINDS} | {
    "objects": "object", "thing": "object"}
ATTRIBUTES = {*COLOURS, *KINDS, "object", "striped", "small", "medium", "large"}
LISTED = 12                                # slots of the list form
# one scene's questions: several of the hard ones, and of those that few scenes can pose
ROUND = (IMAGE_LEVEL + ("count", "count", "relation", "side", "reg", "rec")
         + ("rec_relational",) * 5 + ("talk",) * 5 + ("box_talk",) * 3)
# what is learnt last, without the questions that every reader soon answers
HARD = (("count", "relation", "rec", "reg") + ("rec_relational",) * 5 + ("talk",) * 6
        + ("box_talk",) * 3)


@dataclass
class TextScenes:
    """A batch of scenes as text with n questions each."""

    grid: list[list[list[int]]] | None     # [B][64] word ids of each slot
    listed: list[list[list[int]]] | None   # [B][LISTED]
    prompts: list[list[int]]               # [B*n]
    answers: list[list[int]]
    regions: list[list[int]]               # word ids of each <region> slot, reading order
    examples: list[Example]
    named: list[list[tuple[int, list[int]]]]   # [B*n] (token of the prompt, slots it names)

    @property
    def forms(self) -> list[list[list[list[int]]]]:
        """The forms that the scenes have: grid, list or both."""
        return [form for form in (self.grid, self.listed) if form is not None]


def thing_ids(tokenizer: TinyTokenizer, thing, box: bool = True) -> list[int]:
    return [tokenizer.ids[w] for w in thing.words().split() + (box_words(thing.box) if box else [])]


def cell_ids(tokenizer: TinyTokenizer, cell: int) -> list[int]:
    return [tokenizer.ids[f"<x{cell % GRID}>"], tokenizer.ids[f"<y{cell // GRID}>"]]


def grid_slots(scene: Scene, tokenizer: TinyTokenizer) -> list[list[int]]:
    slots = [cell_ids(tokenizer, i) for i in range(GRID * GRID)]
    for thing in scene.objects:
        col, row = (min(GRID - 1, int(v * GRID)) for v in thing.centre)
        slots[row * GRID + col] = thing_ids(tokenizer, thing)
    return slots


def listed_slots(scene: Scene, tokenizer: TinyTokenizer, rng: random.Random) -> list[list[int]]:
    slots = [thing_ids(tokenizer, thing) for thing in scene.objects]
    while len(slots) < LISTED:
        slots.append(rng.choice(([], cell_ids(tokenizer, rng.randrange(GRID * GRID)))))
    rng.shuffle(slots)
    return slots


def tags_of(scene: Scene) -> list[str]:
    """The words an image tagger would give: colours, then kinds, in vocabulary order."""
    words = {word for t in scene.objects for word in (t.colour, t.kind)}
    return [word for word in (*COLOURS, *KINDS) if word in words]


def text_scenes(world: World, seed: int, step: int, batch: int, tokenizer: TinyTokenizer,
                split: str = "text", most: int | None = None,
                tasks: tuple[str, ...] = ROUND, form: str | None = None) -> TextScenes:
    """Batch `step` of text scenes, a pure function of its arguments.

    Two in five batches of ROUND have twice the scenes and ask each for its caption alone: they take
    a quarter of the time of the others. Three in ten ask HARD, once scenes may have any number of
    objects; in half of their scenes a relation alone singles out some object.
    """
    rng = random.Random(f"text/{split}/{seed}/{step}")
    form = form or rng.choice(("grid", "list", "list", "both"))
    first = 2 * batch * step
    share = rng.random() if tasks == ROUND else 1.0
    if share < 0.4:
        tasks, batch = ("caption",), 2 * batch
    elif share < 0.7 and most is None:
        tasks = HARD
    out = TextScenes([] if form != "list" else None, [] if form != "grid" else None, [], [], [], [], [])
    words, make = (*world.colours, *world.kinds), hard_scene if tasks == HARD else make_scene
    for i in range(batch):
        scene = make(world, split, seed, first + i, "any", most)
        if out.grid is not None:
            out.grid.append(grid_slots(scene, tokenizer))
        if out.listed is not None:
            out.listed.append(listed_slots(scene, tokenizer, rng))
        slots = [slot for form in out.forms for slot in form[-1]]
        for example in examples(scene, rng, tasks):
            region = example.region_level and "[" in example.prompt and rng.random() < 0.5
            tags = noisy_tags(tags_of(scene), words, rng, 0.1) if rng.random() < 0.12 else None
            out.prompts.append((tag_ids(tokenizer, tags) if tags is not None else [])
                               + tokenizer.encode(example.prompt, region))
            out.named.append(groundings(tokenizer, out.prompts[-1], scene, slots))
            out.answers.append(tokenizer.encode(example.answer))
            out.examples.append(example)
            for box in BOX.parse(example.prompt) if region else ():
                thing = next(t for t in scene.objects if BOX.format(t.box) == BOX.format(box))
                out.regions.append(thing_ids(tokenizer, thing, box=rng.random() < 0.5))
    return out


def hard_scene(world: World, split: str, seed: int, index: int, *rest) -> Scene:
    """Of three scenes the first with an object that a relation alone singles out, else the last."""
    for number in (index, (1 << 40) + 2 * index, (1 << 40) + 2 * index + 1):
        scene = make_scene(world, split, seed, number, *rest)
        if rec_relational(scene, random.Random(0)):
            break
    return scene


def groundings(tokenizer: TinyTokenizer, prompt: list[int], scene: Scene,
               slots: list[list[int]]) -> list[tuple[int, list[int]]]:
    """Where a prompt names objects: (index of the phrase's last token, the slots it fits).

    A phrase is a run of attribute words up to a kind or 'object'; a box is named by its last
    word. Phrases that fit nothing are left out.
    """
    boxes = {t: box_words(t.box) for t in scene.objects}
    cells = {t: {tokenizer.ids[w] for w in words[:2]} for t, words in boxes.items()}
    named, run = [], []
    for index, word in enumerate(tokenizer.words[i] for i in prompt):
        word = PLURALS.get(word, word)
        run = run + [word] if word in ATTRIBUTES else []
        things = []
        if word in KINDS or word == "object":
            things, run = [t for t in scene.objects if fits(" ".join(run), t)], []
        elif word.startswith("<b"):
            written = [tokenizer.words[i] for i in prompt[index + 1 - WORDS:index + 1]]
            things = [t for t in scene.objects if boxes[t] == written]
        hits = [k for k, slot in enumerate(slots) if len(slot) > WORDS
                and any(cells[t] <= set(slot) for t in things)]
        named += [(index, hits)] if hits else []
    return named
