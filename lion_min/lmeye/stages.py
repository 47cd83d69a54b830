"""The settings of an LMEye stage beside every system's `Stage`: see stage1.py and stage2.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from lion_min.recipe import Stage


@dataclass(frozen=True, kw_only=True)
class LmeyeStage(Stage):
    """One stage of LMEye: with or without requests, and what fills the return slots."""

    requests: bool
    blind: tuple[str, ...] = ()            # rounds in which the static tokens are hidden
    control: str = "interactive"           # or 'static', 'zeroed', 'foreign': the control rows
    clip_trains: tuple[str, ...] = ()      # what trains around CLIP's frozen text tower

    def around_clip(self, names: Iterable[str]) -> LmeyeStage:
        """The stage of a published form, whose interaction is CLIP's text tower; names: of the
        model's parameters."""
        from lion_min.trainable import matches         # torch: --help is instant
        trains = tuple(p for p in self.clip_trains if any(matches(name, p) for name in names))
        return replace(self, trains=trains, plan=replace(self.plan, lr_scale={}))
