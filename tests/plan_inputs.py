"""Batches of the text length that plan.py assumes, for real models of any preset: one image, one
question and one region a sample. For test_plan.py and bench_memory.py."""

import torch

from lion_min.launch import module_of
from lion_min.lyrics.pairtext import PairText
from lion_min.pretrained.plan import ANSWER, DETECTIONS, PROMPT

BOX, WORD = (0.1, 0.2, 0.5, 0.6), 9


def loss(system: str, model, batch: int, device: str = "cpu") -> torch.Tensor:
    """The loss of a random batch through the system's own inputs; the ViT runs without gradient."""
    return model(*inputs(system, model, batch, device))[0]


@torch.no_grad()
def inputs(system: str, model, batch: int, device: str = "cpu") -> tuple:
    """The arguments of the model's forward."""
    s, module = model.settings, module_of(system, "model")
    if system == "lmeye" and s.reads == "pooled":
        states = [torch.randn(batch, 1, s.interaction.image_width, device=device)]
    else:
        pixels = torch.randn(batch, 3, s.vision.image, s.vision.image, device=device)
        states = model.vision(pixels.to(next(model.vision.parameters()).dtype))
    answers = [[WORD] * (ANSWER - 1)] * batch                                 # and </s>

    def prompts(*ids: int) -> list[list[int]]:
        return [[WORD] * (PROMPT - len(ids)) + list(ids)] * batch

    if system == "lion":
        words = torch.ones(batch, PROMPT, dtype=torch.long, device=device)
        if not hasattr(model, "region_proj"):
            return module.LionInputs(states, words, words, prompts(), 0, answers),
        boxes = torch.tensor([BOX] * batch, device=device)
        return module.LionInputs(states, words, words, prompts(s.region_id), 0, answers, boxes,
                                 torch.arange(batch, device=device)),
    if system == "pvit":
        image = [s.image_id] * (states[0].shape[1] - 1) if s.image_id is not None else []
        questions = [image + p for p in prompts(s.open_id, s.region_id, s.close_id)]
        return module.PvitInputs(states, questions, [[BOX]] * batch, answers,
                                 maps(model.regions, batch, device)),
    if system == "lmeye":
        image = [s.img_id] if s.static == "pooled" else []
        request = [] if s.request_id is None else [s.request_id]
        slots = request + [s.slot_id] * s.interaction.returned if model.e_imgd.requires_grad else []
        return module.LmeyeInputs(states, prompts(*image, *slots), answers),
    found = objects(s, batch, states[0], module)
    if not hasattr(model, "llm"):
        return states, found, pair_text(batch, PROMPT + ANSWER, device)
    return module.LyricsInputs(states, found, pair_text(batch, PROMPT, device), prompts(), answers),


def maps(regions, batch: int, device: str):
    """RegionCLIP looks at a picture of its own, a 4:3 one here; None: the ViT's states do."""
    if not hasattr(regions, "res4"):
        return None
    height, width = regions.settings.shortest, regions.settings.shortest * 4 // 3
    with torch.autocast(torch.device(device).type, enabled=False):
        return [regions.res4(torch.randn(batch, 3, height, width, device=device)),
                torch.tensor([[float(width), float(height)]] * batch, device=device)]


def objects(s, batch: int, state: torch.Tensor, module):
    """As many objects as the refiner has queries."""
    count = getattr(s.refiner, "queries", DETECTIONS)
    seen = torch.ones(batch, count, dtype=torch.bool, device=state.device)
    lines = seen.long()[..., None].repeat(1, 1, 10)
    return module.Objects(torch.randn(batch, count, s.mqformer.object_width, device=state.device),
                          seen, lines, lines)


def pair_text(batch: int, length: int, device: str) -> PairText:
    """The prompt's tokens are the objects', the answer's the caption's."""
    place = torch.arange(length, device=device).expand(batch, -1)
    caption = place >= PROMPT
    return PairText(torch.full_like(place, WORD), place >= 0, place,
                    (place + 1).masked_fill(caption, 0), caption)
