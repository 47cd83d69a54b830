"""Lyrics stage 0: the visual refiner's detector and segmenter, on the frozen ViT.

Grounding-DINO and SAM come trained; the tiny refiner's parts are trained here, on the boxes, words
and masks of scenes (detection_loss.py). Its tagger is the tag head of LION's stage 0.
"""

from lion_min.lyrics.stages import LyricsStage
from lion_min.schedule import Plan

STAGE = LyricsStage(
    number=0,
    trains=("detector", "segmenter"),
    batch=32,
    unlike_captions=True,
    plan=Plan(steps=500, lr=2e-3, warmup=50, decay="linear_tail", weight_decay=1e-4),
)

if __name__ == "__main__":
    from lion_min.stage_script import main
    raise SystemExit(main(__spec__.name))
