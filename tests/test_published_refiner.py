"""The published refiner on tiny random Grounding-DINO and SAM models built from configs."""

import pytest
import torch
from PIL import Image
from random_backbones import grounding_dino, sam

from lion_min.boxes import box_iou
from lion_min.published.lyrics_refiner import (PublishedRefiner, PublishedSettings, prompt_of,
                                               tag_of)

WORDS = ("dog", "grass", "frisbee", "red", "##s")
QUERIES, WIDTH = 20, 32
PICTURES = [Image.effect_noise((60, 40), 90).convert("RGB"),
            Image.effect_noise((40, 56), 60).convert("RGB")]
TAGS = [["dog", "grass"], ["Frisbee"]]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(detector, its processor, segmenter, its processor), random, never from the network."""
    detector = grounding_dino(tmp_path_factory.mktemp("vocab") / "vocab.txt", WORDS, QUERIES, WIDTH)
    return *detector, *sam()


def make(parts, segmenter: bool = True, **settings) -> PublishedRefiner:
    detector, processor, sam, sam_processor = parts
    more = (sam, sam_processor) if segmenter else ()
    return PublishedRefiner(PublishedSettings(mask_size=16, **settings), lambda images: TAGS,
                            detector, processor, *more)


def raw(parts, prompts: list[str]):
    detector, processor = parts[:2]
    with torch.no_grad():
        return detector(**processor(images=PICTURES, text=prompts, padding=True,
                                    return_tensors="pt"))


def test_prompt_is_the_official_one():
    """Bug: a prompt of 'dog. grass.' gives each tag a text block of its own."""
    assert prompt_of(["Dog", "grass ", "frisbee"]) == "dog, grass, frisbee."


@pytest.mark.parametrize("phrase, tag", [
    ("dog", "dog"), ("red dog", "dog"), ("dog red", "dog"), ("hot dog stand", "hot dog"),
    ("frisbee", "Frisbee"), ("the tree", "the tree"), ("bulldog", "bulldog"),
    ("t - shirt", "t-shirt"), ("| dog", "dog")])
def test_phrase_to_tag(phrase, tag):
    """Bug: matching parts of words ('bulldog' is no 'dog'), or a shorter tag before a longer."""
    assert tag_of(phrase, ["dog", "hot dog", "Frisbee", "t-shirt"]) == tag


def test_features_are_last_state_and_last_reference(parts):
    """Bug: pred_boxes or an earlier reference in the features; states and boxes of other rows."""
    out, refined = raw(parts, ["dog, grass.", "frisbee."]), make(parts).detect(PICTURES)
    reference = out.intermediate_reference_points[:, -1]
    assert refined.features.shape == (2, QUERIES, WIDTH + 4)
    assert (reference - out.pred_boxes).abs().max() > 1e-3           # the two can be told apart
    ours = refined.features[0].tolist()
    theirs = torch.cat([out.last_hidden_state, reference], -1)[0].tolist()
    for own in theirs:                                               # every query is kept, once
        assert sum(torch.allclose(torch.tensor(own), torch.tensor(o), atol=1e-5)
                   for o in ours) == 1
    centre, half = out.pred_boxes[0, :, :2], out.pred_boxes[0, :, 2:] / 2
    corner = torch.cat([centre - half, centre + half], -1).clamp(0, 1)
    hidden = out.last_hidden_state[0]
    for box, state in zip(refined.boxes[0], refined.features[0, :, :WIDTH]):
        assert torch.allclose(corner[(hidden - state).abs().sum(-1).argmin()], box, atol=1e-5)


def test_kept_are_above_the_threshold_and_apart(parts):
    """Bug: no suppression, kept rows out of order, boxes outside of the picture, empty labels."""
    refined = make(parts, threshold=0.4, overlap=0.5).detect(PICTURES)
    assert refined.boxes.min() >= 0 and refined.boxes.max() <= 1
    assert 0 < refined.mask.sum() < refined.mask.numel()
    for b, count in enumerate(refined.mask.sum(1).tolist()):
        assert refined.mask[b, :count].all() and not refined.mask[b, count:].any()
        scores = refined.scores[b, :count]
        assert (scores > 0.4).all() and (scores.diff() <= 0).all()
        apart = box_iou(refined.boxes[b, :count], refined.boxes[b, :count])
        assert (apart.fill_diagonal_(0) <= 0.5).all()
        assert all(refined.labels[b][:count]) and not any(refined.labels[b][count:])


def test_labels_are_the_prompted_words(parts):
    """Bug: token places of another prompt, or a comma, [CLS] and [SEP] that count as words."""
    refined = make(parts, threshold=0.05, text_threshold=0.01).detect(PICTURES)
    assert {w for w in refined.labels[1] if w} == {"Frisbee"}        # the tag, not the phrase
    said = {word for label in refined.labels[0] for word in label.split()}
    assert said and said <= {"dog", "grass"}


def test_no_tags_give_no_boxes(parts):
    """Bug: '.' alone matches [CLS] or the full stop, and the box gets an empty name; or a crash
    of the segmenter without a box."""
    refined = make(parts, threshold=0.0).detect(PICTURES, [[], []])
    assert not refined.mask.any() and refined.segments.shape == (2, 0, 16, 16)
    assert refined.features.isfinite().all()


def test_segments_follow_the_kept_boxes(parts):
    """Bug: SAM given fractions or the wrong side first; its padding left in the masks."""
    refiner = make(parts, threshold=0.3)
    refined = refiner.detect(PICTURES)
    count = int(refined.mask[1].sum())
    assert refined.segments.shape[:2] == (2, int(refined.mask.sum(1).max())) and count
    sam, processor = parts[2:]
    x = processor(PICTURES[1], return_tensors="pt")
    height, width = x["reshaped_input_sizes"][0].tolist()
    assert (height, width) == (64, 46)                               # a tall picture, padded right
    boxes = refined.boxes[1, :count] * torch.tensor([width, height, width, height])
    with torch.no_grad():
        out = sam(pixel_values=x["pixel_values"], input_boxes=boxes[None], multimask_output=False)
    full = processor.post_process_masks(out.pred_masks, [(64, 46)], [(64, 46)], binarize=False)[0]
    want = torch.nn.functional.interpolate(full, (16, 16), mode="bilinear")[:, 0]
    assert want.std() > 0.1 and torch.allclose(refined.segments[1, :count], want, atol=1e-4)
    assert (refined.segments[1, count:] == -torch.inf).all()


def test_segmenter_is_a_setting_and_all_is_frozen(parts):
    """Bug: masks without a segmenter; a refiner that trains or drops out with its model."""
    refiner = make(parts, segmenter=False).train()
    assert refiner.detect(PICTURES).segments is None
    assert not any(p.requires_grad for p in refiner.parameters())
    assert not any(m.training for m in refiner.modules())
    with pytest.raises(ValueError, match="together"):
        PublishedRefiner(PublishedSettings(), None, *parts[:3])
