"""A small LION with everything trainable learns two pictures by heart."""

import pytest
import torch
from torch import nn

from lion_min.adapters import IMAGE, REGION
from lion_min.language import LanguageModel, LanguageSettings
from lion_min.features import encode_images
from lion_min.lion.prompt import make_inputs
from lion_min.lion.model import Lion, LionSettings
from lion_min.qformer import QFormerSettings
from lion_min.scenes import WORLDS, Scene, Thing
from lion_min.tokenizer import TinyTokenizer
from lion_min.vision import VisionEncoder, VisionSettings


def small(mode: str, vocab: int) -> Lion:
    """An untrained LION of a few thousand parameters, all of them trainable."""
    torch.manual_seed(0)
    settings = LionSettings(
        VisionSettings(width=64, mlp=128, stem=(16, 32)),
        LanguageSettings(vocab=vocab, width=64, layers=2, ffn=128),
        QFormerSettings(width=64, layers=2, heads=4, ffn=128, queries=4, vision_width=64,
                        vocab=vocab, max_text=32, cross_every=1),
        mode, aggregator_ffn=128, mlp=128)
    model = Lion(settings, VisionEncoder(settings.vision), LanguageModel(settings.language))
    return model.requires_grad_(True).train()


@pytest.mark.slow
@pytest.mark.parametrize("mode, task, lr", [
    ("qformer", IMAGE, 5e-3), ("aggregator", IMAGE, 2e-3), ("region token", REGION, 5e-3)])
def test_one_batch_can_be_learnt_by_heart(mode, task, lr):
    """Guards: a branch that does not reach the answer. Both prompts are the same, and nothing
    but this one branch tells the two pictures apart."""
    box, tokenizer = (0.25, 0.25, 0.55, 0.55), TinyTokenizer()
    things = [Thing("circle", "red", "large", "plain", box),
              Thing("star", "blue", "small", "striped", box)]
    pictures = [Scene(WORLDS["medium"], (t,), "same").draw() for t in things]
    prompt = "Describe box [0.250,0.250,0.550,0.550]" if task == REGION else "Describe the image."
    model = small("qformer" if mode == "qformer" else "aggregator", len(tokenizer))
    if mode == "region token":
        model.visual = lambda x: (None, None)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for step in range(150):
        x = make_inputs(model, tokenizer, encode_images(model.vision, pictures), [prompt] * 2, task,
                        [t.words() for t in things])
        loss = model(x)[0]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss < 0.02:
            break
    assert loss < 0.02, f"{loss:.3f} after {step + 1} steps"
