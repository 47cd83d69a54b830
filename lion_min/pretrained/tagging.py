"""LION's stage 0 on photographs: the tag head learns the data's names of objects.

LION takes its tags from RAM, trained on millions of pictures. Here the same kind of head
(vision.TagHead) learns the kinds of objects that the data set names, on the frozen ViT's last
state; it is as good as its data. Stage 4 puts what it says into the prompt.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F

from lion_min import BadInput, datasets, training
from lion_min.cli import LION
from lion_min.datasets import photos
from lion_min.features import CHUNK, encode_images, readable
from lion_min.launch import Options, parts_for
from lion_min.left_out import LeftOut
from lion_min.parts import STAGE0
from lion_min.training import Plan
from lion_min.vision import TagHead

PLAN = Plan(steps=400, lr=1e-3, warmup=20, precision="bf16")
BATCH = 32


def train(o: Options) -> dict[str, float]:
    """Train OUT/lion/stage0/tags; returns precision and recall on the held-out photographs.

    BadInput without photographs whose objects have names (COCO's form).
    """
    if o.data is None or not photos.is_photos(o.data, o.form):
        raise BadInput("stage 0 of a pretrained preset learns tags: give photographs, "
                       "--data COCO_FOLDER")
    o.check(system=LION, stage=0, part="tags")
    annotations = datasets.load(o.data, o.form, o.images, o.max_bad)
    every = photos.photos_of(annotations)
    if not (names := every[0].names):
        raise BadInput(f"data {str(o.data)!r}: its objects have no names to learn as tags; "
                       "give COCO instances, or begin at stage 1")
    learnt, held = photos.split(every)
    device = training.device_of(o.device)
    vision = parts_for(o.out, o.preset, o.sources).vision.to(device)
    torch.manual_seed(o.seed)
    tagger = TagHead(vision.settings.width, names).to(device)
    left_out = LeftOut(annotations.file, "pictures", len(every))
    learnt, seen = last_states(vision, learnt, left_out)
    held, unseen = last_states(vision, held, left_out)
    left_out.check(o.max_bad)
    left_out.tell()

    def step_loss(step: int):
        rows = random.Random(f"tags/{o.seed}/{step}").choices(range(len(learnt)), k=BATCH)
        logits = tagger(seen[rows].float())                           # [B, G]
        truth = truth_of([learnt[r] for r in rows], names).to(logits.device)
        loss = F.binary_cross_entropy_with_logits(logits.float(), truth)
        return loss, {"tags": loss.detach()}

    folder = o.out / STAGE0 / "tags"
    config = {"system": LION, "stage": 0, "part": "tags", "preset": o.preset,
              "tags": list(names), "seed": o.seed,
              "data": {"file": str(annotations.file), "fingerprint": datasets.fingerprint(every)}}
    training.run(tagger, step_loss, o.plan(PLAN), folder, config, o.resume, device)
    scores = report(tagger, unseen, held)
    print(f"wrote {folder}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
    return scores


def truth_of(shown: list[photos.Photo], names: tuple[str, ...]) -> torch.Tensor:
    """A 1 where a photograph holds a kind: [B, G]."""
    return torch.tensor([[float(name in photo.tags()) for name in names] for photo in shown])


@torch.no_grad()
def last_states(vision, photographs: list[photos.Photo], left_out: LeftOut
                ) -> tuple[list[photos.Photo], torch.Tensor]:
    """The readable photographs and the frozen encoder's last state of each: [size, 1+N, Dv], half
    precision. left_out counts the others; BadInput where no photograph is readable."""
    shown, states = [], []
    for start in range(0, len(photographs), CHUNK):
        chunk = photographs[start:start + CHUNK]
        images = readable([photo.draw for photo in chunk], left_out)
        shown += [chunk[row] for row in images]
        states += [encode_images(vision, [*images.values()])[-1].half()] if images else []
    if not states:
        raise BadInput(f"{left_out.name}: {left_out.summary()}; none is left to learn from")
    return shown, torch.cat(states)


@torch.no_grad()
def report(tagger: TagHead, states: torch.Tensor, held: list[photos.Photo]) -> dict[str, float]:
    """Precision and recall of the tags of held-out photographs."""
    tags = tagger.predict(states.float())
    right = sum(len(set(t) & set(p.tags())) for t, p in zip(tags, held))
    return {"precision": right / max(1, sum(map(len, tags))),
            "recall": right / max(1, sum(len(p.tags()) for p in held))}
