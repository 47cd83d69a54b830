"""What a stage of Lyrics says beside every system's `Stage`: see stage0.py to stage2.py."""

from dataclasses import dataclass

from lion_min.recipe import Stage


@dataclass(frozen=True, kw_only=True)
class LyricsStage(Stage):
    """One stage of Lyrics: is there a refiner (the ablation)."""

    refiner: bool = True
