"""The settings of an LMEye stage beside every system's `Stage`: see stage1.py and stage2.py."""

from dataclasses import dataclass

from lion_min.recipe import Stage


@dataclass(frozen=True, kw_only=True)
class LmeyeStage(Stage):
    """One stage of LMEye: with or without requests, and what fills the return slots."""

    requests: bool
    blind: tuple[str, ...] = ()            # rounds in which the static tokens are hidden
    control: str = "interactive"           # or 'static', 'zeroed', 'foreign': the control rows
