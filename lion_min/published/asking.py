"""What every imported checkpoint needs to be asked: its frozen parts, BERT's words."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lion_min import checkpoints
from lion_min.parts import Parts
from lion_min.pretrained.hf_tokenizer import PretrainedTokenizer
from lion_min.vision import TagHead


def imported_parts(model: nn.Module, folder: Path | str, tokenizer: PretrainedTokenizer,
                   device, width: int | None = None) -> Parts:
    """The parts of a model that was loaded from an imported folder; its tagger knows no tag.

    width: of the encoder's states, where it is not the ViT's.
    """
    tagger = TagHead(width or model.settings.vision.width, (), heads=1).to(device)
    preset = checkpoints.load_json(Path(folder) / checkpoints.CONFIG).get("preset")
    return Parts(model.vision, tagger, model.llm, tokenizer, preset=preset,
                 published=model.settings)


class Questions:
    """BERT's words for a Q-Former: [CLS] the bare question [SEP]."""

    def __init__(self, tokenizer: PretrainedTokenizer):
        self.tokenizer = tokenizer
        self.pad_id, self.unk_id = tokenizer.pad_id, tokenizer.unk_id

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.chat_prompt(self.tokenizer.encode(text))
