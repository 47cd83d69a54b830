"""Lyrics stage 1: representation alignment, four objectives of equal weight.

Trains the MQ-Former and its heads on pictures with captions; the objects' tags and boxes in the
text are the frozen refiner's own predictions (objectives.py, pairtext.py). There is no LLM.
"""

from lion_min.lyrics.stages import LyricsStage
from lion_min.schedule import Plan

STAGE = LyricsStage(
    number=1,
    trains=("ln_vision", "mqformer", "heads"),
    batch=32,
    unlike_captions=True,
    plan=Plan(steps=500, lr=1e-3, warmup=50, decay="linear_tail"),
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
