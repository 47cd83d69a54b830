"""A small untrained Lmeye in three forms and six questions, for test_lmeye_model.py and
test_lmeye_passes.py."""

import torch
from torch import nn

from lion_min.language import LanguageModel, LanguageSettings
from lion_min.lmeye.interaction import InteractionSettings
from lion_min.lmeye.model import Lmeye, LmeyeInputs, LmeyeSettings
from lion_min.qformer import QFormerSettings
from lion_min.vision import VisionEncoder, VisionSettings

VOCAB, WIDTH = 40, 32
IMG, ASK, SLOT = 38, VOCAB, VOCAB + 1      # <img> is a row of the LLM, the others have none
VISION = VisionSettings(image=32, patch=8, width=16, blocks=2, heads=2, mlp=32)
# S = 6 questions about two images, of several lengths; tails behind the slots, of several lengths.
QUESTIONS = [[17, 18, 19], [10, 11], [12, 13, 14, 15, 16], [17], [18, 19], [20, 21, 22]]
TAILS = [[7], [7, 8], [7], [9], [7, 8, 9], [8]]
ANSWERS = [[30], [31, 32, 33], [34, 35], [36], [37, 37, 37, 30], [31]]
FORMS = ["patches", "later", "paper"]


def settings(form: str, family: str = "llama", **changes) -> LmeyeSettings:
    """The tiny preset's form, the later one (queries, tail pooling), the paper's (pooled, EOS)."""
    sizes = {"patches": dict(image_width=32, width=WIDTH, requests=3, layers=2),
             "later": dict(image_width=16, requests=3, pool="tail"),
             "paper": dict(image_width=16, requests=1, soft=5)}[form]
    if form != "patches":
        sizes |= dict(encoder="clip_text", width=16, layers=2, heads=2, vocab=20, positions=30,
                      bos_id=18, eos_id=19)
    inner = InteractionSettings(llm_width=WIDTH, returned=3, ffn=32, **sizes)
    base = dict(
        vision=VISION, interaction=inner, slot_id=SLOT, depths=(0, 2),
        language=LanguageSettings(family=family, vocab=VOCAB, width=WIDTH, layers=2, ffn=64,
                                  buckets=8, distance=16))
    if form == "paper":
        return LmeyeSettings(**base | dict(static="pooled", reads="pooled", img_id=IMG) | changes)
    queries = QFormerSettings(width=16, layers=2, heads=2, ffn=32, queries=4, vision_width=32,
                              vocab=1, max_text=1)
    reads = dict(reads="queries") if form == "later" else dict(first_cell_id=6)
    return LmeyeSettings(**base | dict(request_id=ASK, qformer=queries) | reads | changes)


def build(form: str = "patches", family: str = "llama", **changes) -> Lmeye:
    """A model far from its start: random weights everywhere, so that a slip shows."""
    torch.manual_seed(0)
    s = settings(form, family, **changes)
    model = Lmeye(s, VisionEncoder(s.vision), LanguageModel(s.language)).eval()
    for name, parameter in model.named_parameters():
        if not name.startswith("vision."):
            nn.init.normal_(parameter, std=0.25)
    return model


def inputs(model: Lmeye, which=range(6), tails=None, answers: bool = True) -> LmeyeInputs:
    s, tails = model.settings, tails or TAILS
    ask = [] if s.request_id is None else [s.request_id]
    start = [] if s.img_id is None else [s.img_id]
    torch.manual_seed(1)
    states = [torch.randn(2, 1 + s.vision.side ** 2, 16) for _ in range(3)]
    which = list(which)
    if len(which) < 6:                     # a row an image
        states = [state[[i // 3 for i in which]] for state in states]
    return LmeyeInputs(states, [start + QUESTIONS[i] + ask + [s.slot_id] * 3 + tails[i]
                                for i in which],
                       [ANSWERS[i] for i in which] if answers else None)


def trained(model: Lmeye) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def gradients(model: Lmeye, x: LmeyeInputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss, _ = model(x)
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in trained(model).items() if p.grad is not None}
