"""A report in the manner of PVIT's FineEval: region questions, scored by what they take.

The paper has people judge 130 questions on 50 photographs in four groups (section 4.4); here the
questions come from instructions/ on held-out scenes, an answer is right when it is the scene's
truth word for word, and counting, the paper's weak spot, stands on its own.
"""

from __future__ import annotations

import random
from collections import defaultdict

from lion_min.pvit.instructions import scene_instructions
from lion_min.scenes import World, make_scene

CATEGORIES = ("recognition", "attribute", "reasoning", "counting", "other")


def fine_eval(system, world: World, count: int, seed: int, batch: int = 64) -> dict[str, dict]:
    """{category: {'accuracy', 'n'}} on `count` held-out scenes, four conversations a scene.

    Later turns of a conversation have the true earlier ones before them.
    """
    right = defaultdict(list)
    for start in range(0, count, batch):
        scenes = [make_scene(world, "heldout", seed, i) for i in range(start, min(count, start + batch))]
        samples = [(row, instruction.category, *turn, earlier)
                   for row, scene in enumerate(scenes)
                   for instruction in scene_instructions(
                       scene, random.Random(f"fine/{seed}/{start + row}"), 4)
                   for *turn, earlier in instruction.samples()]
        samples.sort(key=lambda sample: len(sample[2]) + sum(len(q) for q, _ in sample[4]))
        features = [system.encode([scene.draw() for scene in scenes])]
        for first in range(0, len(samples), 128):
            rows, categories, questions, answers, turns = map(list, zip(*samples[first:first + 128]))
            replies = system.answer(system.index(features, rows), questions, turns=turns)
            for category, reply, answer in zip(categories, replies, answers):
                right[category].append(reply.rstrip(" .") == answer.lower().rstrip(" ."))
    return {c: {"accuracy": round(sum(right[c]) / len(right[c]), 4), "n": len(right[c])}
            for c in CATEGORIES if right[c]}
