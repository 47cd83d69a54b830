"""The settings of a LION stage beside every system's `Stage`: see stage1.py to stage4.py."""

from dataclasses import dataclass

from lion_min.recipe import Stage


@dataclass(frozen=True, kw_only=True)
class LionStage(Stage):
    """One stage of LION: which branches read the image, boxes with or without token, tags."""

    mode: str                              # LionSettings.mode
    box_as_text: float = 0.5               # share of boxes without a region token, as in the paper
    tags: bool = False                     # the tag preface behind the soft prompt
    tag_noise: float = 0.0                 # share of wrong tags in training
