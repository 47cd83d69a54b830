"""Which backbones a name stands for: the published systems' own, and a pair for one small GPU.

`tiny` has none here: its parts are bundled (parts.py). Llama-7B and Vicuna-13B stand under names
whose weights are safetensors; any folder may take the place of a name (cli.PART_FLAGS).
"""

from __future__ import annotations

from dataclasses import dataclass

from lion_min.cli import LION, LMEYE, LYRICS, PVIT, SYSTEMS


@dataclass(frozen=True)
class Preset:
    """Names on the Hub of the frozen parts, and the systems they are meant for."""

    name: str
    systems: tuple[str, ...]
    vision: str = ""                       # '': bundled
    language: str = ""
    detector: str = ""                     # Lyrics' Grounding-DINO
    tower: str = ""                        # LMEye around FlanT5: the CLIP of its text tower

    def sources(self, given: dict[str, str]) -> dict[str, str]:
        """Where each part comes from, by its flag; `given` goes before the names."""
        names = {"vision": self.vision, "llm": self.language, "detector": self.detector,
                 "tower": self.tower}
        return {flag: name for flag, name in names.items() if name} | given


BLIP, CLIP_L = "Salesforce/instructblip-flan-t5-", "openai/clip-vit-large-patch14"
DINO = "IDEA-Research/grounding-dino-tiny"
PRESETS = {preset.name: preset for preset in (
    Preset("tiny", SYSTEMS),
    Preset("clip-smollm2", SYSTEMS, "openai/clip-vit-base-patch16",
           "HuggingFaceTB/SmolLM2-135M-Instruct", DINO),
    # LION: EVA ViT-g as InstructBLIP holds it (lion.md).
    Preset("lion-flant5-xl", (LION,), BLIP + "xl", "google/flan-t5-xl"),
    Preset("lion-flant5-xxl", (LION,), BLIP + "xxl", "google/flan-t5-xxl"),
    Preset("pvit-7b", (PVIT,), CLIP_L, "huggyllama/llama-7b"),
    # LMEye's own Llama, decapoda-research/llama-7b-hf, has left the Hub (lmeye.md 6).
    Preset("lmeye-llama7b", (LMEYE,), CLIP_L, "huggyllama/llama-7b"),
    Preset("lmeye-flant5-xl", (LMEYE,), "Salesforce/blip2-flan-t5-xl", "google/flan-t5-xl",
           tower=CLIP_L),
    Preset("lyrics-vicuna13b", (LYRICS,), BLIP + "xl", "lmsys/vicuna-13b-v1.5", DINO),
)}
