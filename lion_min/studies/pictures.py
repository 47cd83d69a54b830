"""Draw the pictures of the class from the bundled weights: one command for all of them.

    python -m lion_min.studies.pictures                        # into lion_min/pictures/
    python -m lion_min.studies.pictures --only router stages   # some of them
    python -m lion_min.studies.pictures --example              # the example picture anew, then all

Each function below that is named in PICTURES draws the sheet of its name. Sheets are at most 1,616
pixels wide, with letters that are legible at half of it.
"""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw

from lion_min import BadInput
from lion_min.cli import LION, LMEYE, LYRICS, PVIT, Parser, command

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
WIDE, FULL = 512, 1616                     # pixels: of a tile where three fill a sheet, of a sheet
TRIES = 24                                 # scenes that each question of stages.png is chosen from
RIGHT, WRONG, UNSURE = "#009e73", "#d55e00", "#9a9a9a"


# ---- the example picture, asked --------------------------------------------------------------------

@cache
def example():
    """(picture, scene, two objects that have a name of their own)."""
    from lion_min.images import load_image
    from lion_min.studies.example import EXAMPLE, example_scene, names
    scene = example_scene()
    return load_image(EXAMPLE), scene, [*names(scene)][:2]


@cache
def shown(name: str, prompt: str):
    """(reply, explanation) of a question about the example picture."""
    from lion_min.studies.example import opened
    reply = opened(name).ask(example()[0], prompt)
    return reply, opened(name).explain(reply)


def where(thing) -> str:
    from lion_min.studies.example import names
    return f"Where is the {names(example()[1])[thing]}?"


def describe(thing) -> str:
    return "describe box [{:.2f},{:.2f},{:.2f},{:.2f}]".format(*thing.box)


def framed(image: Image.Image, boxes=(), colours=(), grid: int = 0, side: int = WIDE) -> Image.Image:
    """The picture at the size in which a tile is drawn, with frames and perhaps a grid."""
    from lion_min.drawing import draw_grid, frames
    from lion_min.panel import scaled
    picture = scaled(image, 2 * side)
    if grid:
        draw_grid(picture, grid, grid)
    return frames(picture, boxes, colours)


def compared(name: str, part: int, query: str) -> Image.Image:
    """The map of each query of a part of a system, for two questions: a row each, one scale."""
    from dataclasses import replace
    from lion_min.drawing import COLOURS, heat_map
    from lion_min.explanation import moved
    from lion_min.panel import DRAWN, below, panel, scale_bar, scaled
    image, _, things = example()
    asked = [shown(name, where(thing)) for thing in things]
    maps = [[replace(found.maps[part], start=[q]) for q in range(len(found.maps[part].queries))]
            for _, found in asked]
    most, picture = max(float(m.share().max()) for row in maps for m in row), scaled(image, DRAWN)
    rows = []
    for (reply, _), row in zip(asked, maps):
        tiles = [(framed(image, reply.boxes, [COLOURS[0]]), "the answer", [(COLOURS[0], reply.answer)])]
        tiles = tiles * (len(row) < 4) + [
            (heat_map(picture, one.share(), most), f"{query} {q + 1}",
             [(None, f"{moved(*pair):.0%} lies elsewhere for the other question")])
            for q, (one, pair) in enumerate(zip(row, zip(*maps)))]
        rows.append(panel(tiles, columns=len(tiles), header=[f"{reply.prompt}  {reply.answer}"]))
    return below([*rows, scale_bar(rows[0].width, most, asked[0][1].side)])


# ---- the sheets ------------------------------------------------------------------------------------

def systems() -> Image.Image:
    """The four systems side by side, with the shapes of one question's tensors."""
    from lion_min.studies.diagram import draw, trace
    from lion_min.studies.example import opened
    image, _, (thing, _) = example()
    return draw(image, thing.box, describe(thing), [
        trace(opened(name), image, describe(thing)) for name in (LION, PVIT, LMEYE, LYRICS)])


def panel() -> Image.Image:
    """What `infer.py --show` draws."""
    from lion_min.panel import draw_panel
    from lion_min.studies.example import opened
    return draw_panel(opened(LION), shown(LION, where(example()[2][0]))[0])


def world() -> Image.Image:
    """A scene of each world."""
    from lion_min import panel
    from lion_min.drawing import colour_of
    from lion_min.scenes import WORLDS, make_scene
    tiles = []
    for one in WORLDS.values():
        drawn = (make_scene(one, "heldout", 7, i) for i in range(TRIES))
        scene = next(s for s in drawn if len(s.objects) == one.objects[1])
        colours = [colour_of(i) for i in range(len(scene.objects))]
        tiles.append((framed(scene.draw(2 * WIDE // one.image), [t.box for t in scene.objects], colours),
                      f"{one.name}: {one.image} x {one.image} pixels, {len(one.kinds)} shapes",
                      [(colour, "{} [{:.2f},{:.2f},{:.2f},{:.2f}]".format(t.words(), *t.box))
                       for colour, t in zip(colours, scene.objects)]))
    return panel.panel(tiles, side=WIDE)


def roialign() -> Image.Image:
    """A box on the patches, RoIAlign's bins and points on a map of colours, and what it pools."""
    import torch
    from lion_min import panel
    from lion_min.drawing import COLOURS, PAPER, box_points, sampling_points
    from lion_min.regions import pool_regions
    image, scene, _ = example()
    box, found = scene.objects[0].box, shown(LION, describe(scene.objects[0]))[1]
    side, bins = found.side, found.bins
    cells = image.resize((side, side), Image.Resampling.BOX)
    colours = torch.tensor([[cells.getpixel((i % side, i // side)) for i in range(side ** 2)]]).float()
    pooled = pool_regions(colours, torch.tensor([box]), torch.tensor([0]), bins)[0]    # [bins^2, 3]
    bin_colours = Image.new("RGB", (bins, bins))
    bin_colours.putdata([tuple(colour) for colour in pooled.round().int().tolist()])
    near = Image.Resampling.NEAREST
    crop = bin_colours.resize([2 * WIDE // bins * bins] * 2, near)
    return panel.panel([
        (framed(image, [box], COLOURS, side), "a box and the patches", [
            (COLOURS[0], f"the box ends anywhere between the {side} x {side} patches")]),
        (sampling_points(cells.resize([2 * WIDE] * 2, near), box, side, bins), "bins and points", [
            (None, "the map: here a patch's mean colour, in a model its 128 numbers"),
            (COLOURS[0], f"{bins} x {bins} bins, nothing rounded"),
            (PAPER, f"{len(box_points(box, side, bins))} points, each a mean of the 4 nearest patches "
                    "by distance")]),
        (framed(crop, [(x / bins, y / bins, (x + 1) / bins, (y + 1) / bins)
                       for y in range(bins) for x in range(bins)], [COLOURS[0]] * bins ** 2),
         "what is pooled", [(None, f"each bin the mean of its points: {bins ** 2} vectors, whatever "
                                   "the size of the box")])], side=WIDE)


def qformer() -> Image.Image:
    """LION's Q-Former: its queries' maps for two questions."""
    return compared(LION, 0, "query")


def lmeye() -> Image.Image:
    """LMEye: its requests' maps for two questions."""
    return compared(LMEYE, 0, "request")


def aggregator() -> Image.Image:
    """Where the patches of one object look, block by block."""
    from dataclasses import replace
    from lion_min import panel
    from lion_min.drawing import COLOURS, heat_map
    from lion_min.studies.example import opened
    image, _, (thing, _) = example()
    found = shown(LION, describe(thing))[1]
    one, side = found.maps[1], found.side
    cells = [(i % side / side, i // side / side, (i % side + 1) / side, (i // side + 1) / side)
             for i in one.start]
    blocks = [replace(one, weights=block[None]) for block in one.weights]
    last, *earlier = opened(LION).model.settings.depths
    most, picture = max(float(b.share().max()) for b in blocks), framed(image)
    sheet = panel.panel([(framed(image, cells, [COLOURS[0]] * len(cells), side), "the patches of one object", [
        (COLOURS[0], f"{len(cells)} patches of ViT state {last}, the last one: they look")])] + [
        (heat_map(picture, block.share(), most), f"block {i + 1} reads state {depth}", [
            (None, "where those patches look in an earlier state; the mean of the heads")])
        for i, (block, depth) in enumerate(zip(blocks, earlier))], side=WIDE)
    return panel.below([sheet, panel.scale_bar(sheet.width, most, side, WIDE)])


def router() -> Image.Image:
    """The router's coefficients of both routes, a layer a row."""
    from lion_min import panel
    thing = example()[2][0]
    found = shown(LION, where(thing))[1]
    return panel.below([panel.words(FULL, [
        "LION's router: beside each feed-forward net of the frozen LLM run two adapters H,",
        "X + FFN(Norm(X)) + G_region H_region(X) + G_image H_image(X)",
        "The task of the question chooses a pair of G. A bar is the mean of |G| over its 128 numbers.",
        f"\"{where(thing)}\" wants a box: region route. \"How many objects are there?\": image route."]),
        panel.router_chart(FULL, found)])


def stages() -> Image.Image:
    """A question of VQA, REG and REC each, answered by LION's four stages: the first one that stage
    4 answers rightly and most others do not."""
    from lion_min.boxes import BoxText
    from lion_min.drawing import INK
    from lion_min import panel
    from lion_min.scenes import WORLDS, make_scene
    from lion_min.scores import is_right
    from lion_min.studies.example import opened
    from lion_min.tasks import MAKERS
    scenes = [make_scene(WORLDS["medium"], "heldout", 7, i) for i in range(TRIES)]
    learnt = [opened(LION, number) for number in (1, 2, 3, 4)]
    seen, rows = learnt[0].encode([s.draw() for s in scenes]), []
    for task, name in (("count", "VQA"), ("reg", "REG"), ("rec", "REC")):
        posed = [(i, MAKERS[task](s, random.Random(i))) for i, s in enumerate(scenes)]
        posed = [(i, e) for i, e in posed if e is not None and len(scenes[i].objects) > 2]
        features = learnt[0].index([seen], [i for i, _ in posed])
        answers = [*zip(*(s.answer(features, [e.prompt for _, e in posed]) for s in learnt))]
        marks = [[is_right(said, e) for said in row] for row, (_, e) in zip(answers, posed)]
        best = max(range(len(posed)), key=lambda k: (marks[k][3], -sum(marks[k]), -k))
        i, asked = posed[best]
        of_prompt = BoxText().parse(asked.prompt)
        tiles = [(framed(scenes[i].draw(12), of_prompt + BoxText().parse(said),
                         [INK] * len(of_prompt) + [(WRONG, RIGHT)[right]] * 9, side=384),
                  f"stage {number}", [((WRONG, RIGHT)[right], f"{('wrong', 'right')[right]}: {said}")])
                 for number, said, right in zip((1, 2, 3, 4), answers[best], marks[best])]
        rows.append(panel.panel(tiles, header=[f"{name}: {asked.prompt}  truth: {asked.answer}"]))
    return panel.below(rows)


def pvit() -> Image.Image:
    """Boxes of which PVIT's LLM reads a token each; then the same, but the tokens are zero."""
    from lion_min import panel
    from lion_min.drawing import colour_of, sampling_points
    from lion_min.studies.conditions import PROBES
    from lion_min.studies.diagram import token_row
    from lion_min.studies.example import opened
    image, scene, _ = example()
    asked = [describe(thing).replace("describe box", "What is in") + "?" for thing in scene.objects]
    boxes, colours = [t.box for t in scene.objects], [colour_of(i) for i in range(len(asked))]
    found, picture = shown(PVIT, asked[0])[1], framed(image)
    for box, colour in zip(boxes, colours):
        picture = sampling_points(picture, box, found.side, found.bins, colour)
    given = [shown(PVIT, prompt)[0].answer for prompt in asked]
    with PROBES["zeroed-region"](opened(PVIT)):
        zeroed = [opened(PVIT).ask(image, prompt).answer for prompt in asked]
    sheet = panel.panel([(picture, "a box is pooled, projected: one token", [(None, "white: the points that are read")])] + [
        (framed(image, boxes, colours), title, [
            (colour, said) for colour, said in zip(colours, answers)])
        for title, answers in (("answers with the token", given),
                               ("answers with a token of zeros", zeroed))], side=WIDE)
    return panel.below([panel.words(sheet.width, ["What PVIT's LLM reads:"]),
                        token_row(found.tokens, sheet.width), sheet])


def lyrics() -> Image.Image:
    """What Lyrics' refiner finds: tags, boxes, segments; and what the LLM reads of it."""
    from lion_min import panel
    from lion_min.drawing import colour_of
    from lion_min.studies.diagram import token_row
    image, _, (thing, _) = example()
    found = shown(LYRICS, where(thing))[1]
    seen = found.detections
    colours, boxes = [colour_of(i) for i in range(len(seen))], [one.box for one in seen]
    segments = panel.refiner_tile(framed(image), seen).picture
    sheet = panel.panel([
        (framed(image), "1. tags: what is there", [(None, ", ".join(found.tags))]),
        (framed(image, boxes, colours), "2. boxes of what the tags name", [
            (colour, f"{one.label}, {one.score:.2f}") for colour, one in zip(colours, seen)]),
        (segments, "3. segments of the boxes", [(None, "outlines: a mask for each box")])], side=WIDE)
    return panel.below([sheet, panel.words(sheet.width, ["What its LLM reads: a line for each object, the queries, the question:"]),
                        token_row(found.tokens, sheet.width)])


def claims() -> Image.Image:
    """The claims that were run: difference, 95 % interval, verdict."""
    from lion_min.drawing import INK, PAPER, RULE, fit, font_of, write_legend
    from lion_min.panel import GAP, SIZE
    from lion_min.studies.claims import LOG, read_log
    from lion_min.studies.conditions import CLAIMS
    from lion_min.studies.curves import ticks
    from lion_min.studies.trials import compare
    log = read_log(LOG)
    rows = [(claim, found) for claim in CLAIMS if (found := compare(claim, log))]
    left, right, step, top = 760, FULL - 290, 58, 96
    low, high = min(0.0, *(f["low"] for _, f in rows)), max(f["high"] for _, f in rows)
    sheet = Image.new("RGB", (FULL, top + step * len(rows) + 110), PAPER)
    pen, end = ImageDraw.Draw(sheet), top + step * len(rows)
    fill = {"holds": RIGHT, "opposite": WRONG}

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    for value in ticks(low, high):
        pen.line((at(value), top - 10, at(value), end), fill=RULE, width=2)
        pen.text((at(value), end + 8), f"{value:+.1f}" if value else "0", font=font_of(SIZE), fill=INK,
                 anchor="mt")
    for i, (claim, found) in enumerate(rows):
        y, colour = top + (i + 0.5) * step, fill.get(found["verdict"], UNSURE)
        pen.rectangle((*sorted((at(0), at(found["difference"])))[:1], y - 12,
                       max(at(0), at(found["difference"])), y + 12), fill=colour)
        pen.line((at(found["low"]), y, at(found["high"]), y), fill=INK, width=4)
        for value in (found["low"], found["high"]):
            pen.line((at(value), y - 10, at(value), y + 10), fill=INK, width=4)
        pen.text((GAP, y - 13), fit(claim.says, font_of(SIZE), left - 2 * GAP), font=font_of(SIZE),
                 fill=INK, anchor="lm")
        pen.text((GAP, y + 14), fit(claim.measured, font_of(22), left - 2 * GAP), font=font_of(22),
                 fill="#595959", anchor="lm")
        pen.text((right + GAP, y), f"{found['difference']:+.3f}, {found['seeds']} seeds",
                 font=font_of(SIZE), fill=INK, anchor="lm")
    pen.line((at(0), top - 10, at(0), end), fill=INK, width=3)
    for i, (colour, text) in enumerate(((RIGHT, "holds: the interval is above 0"), (WRONG, "opposite"),
                                        (UNSURE, "the interval holds 0, or too few seeds"))):
        write_legend(pen, (GAP, 480, 680)[i], 8, FULL, [(colour, text)], SIZE)
    pen.text((GAP, 48), "score with the idea less score without it; lines: 95 % intervals",
             font=font_of(SIZE), fill=INK)
    pen.text((GAP, end + 60), f"{len(CLAIMS) - len(rows)} of {len(CLAIMS)} claims are not run yet",
             font=font_of(SIZE), fill=INK)
    return sheet


PICTURES = {draw.__name__: draw for draw in (systems, panel, world, roialign, qformer, aggregator,
                                             router, stages, pvit, lmeye, lyrics, claims)}


def run(args) -> None:
    """Draw the pictures that are named, all by default."""
    from lion_min.drawing import save_image
    if unknown := set(args.only or ()) - PICTURES.keys():
        raise BadInput(f"--only {' '.join(sorted(unknown))}: there is {', '.join(PICTURES)}")
    if args.example:
        from lion_min.studies.example import choose
        choose()
    for name in args.only or PICTURES:
        save_image(PICTURES[name](), args.out / f"{name}.png")
        print(f"wrote {args.out / name}.png", flush=True)


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.studies.pictures", description=__doc__.splitlines()[0])
    p.add_argument("--only", nargs="+", metavar="NAME", help="some of " + ", ".join(PICTURES))
    p.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="default: lion_min/pictures")
    p.add_argument("--example", action="store_true",
                   help="first choose lion_min/example.png anew, where it no longer fits the weights")
    return command(p, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
