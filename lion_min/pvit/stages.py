"""What a stage of PVIT says beside every system's `Stage`: see stage1.py and stage2.py."""

from dataclasses import dataclass, replace

from lion_min.recipe import Stage


@dataclass(frozen=True, kw_only=True)
class PvitStage(Stage):
    """One stage of PVIT: what stands for a box, too (the ablation of the paper's table 2)."""

    representation: str = "feature"


def of_representation(stage: PvitStage, representation: str) -> PvitStage:
    """The same stage with something else standing for a box: an ablation row."""
    needed = {"text": (), "location": ("markers",), "feature": stage.trains}[representation]
    trains = tuple(t for t in stage.trains if t in ("llm", "mm_projector", *needed))
    trains += ("locations",) if representation == "location" else ()
    return replace(stage, representation=representation, trains=trains)
