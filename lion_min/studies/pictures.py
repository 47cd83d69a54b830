"""Draw the pictures of the class from the bundled weights: one command for all of them.

    python -m lion_min.studies.pictures                        # into lion_min/pictures/
    python -m lion_min.studies.pictures --only router stages   # some of them
    python -m lion_min.studies.pictures --example              # the example picture anew, then all

The others are in sheets.py, systems.png in diagram.py, the example picture in example.py.
"""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

from lion_min import BadInput
from lion_min.cli import LION, LMEYE, LYRICS, PVIT, TITLES, Parser, command

FOLDER = Path(__file__).resolve().parents[1] / "pictures"
PICTURES = ("systems", "panel", "world", "roialign", "qformer", "aggregator", "router", "stages",
            PVIT, LMEYE, LYRICS, "claims")
TRIES = 24                                 # held-out scenes that stages.png chooses from
RIGHT, WRONG, UNSURE = "#009e73", "#d0202e", "#9a9a9a"


def systems() -> Image.Image:
    """Four systems answer one question: their modules, and the shapes of its tensors"""
    from lion_min.studies.diagram import draw
    from lion_min.studies.example import opened
    from lion_min.studies.sheets import describe, example
    from lion_min.studies.trace import trace
    image, (thing, *_), _ = example()
    return draw(image, thing.box, describe(thing), [
        trace(opened(name), image, describe(thing)) for name in (LION, PVIT, LMEYE, LYRICS)])


def panel() -> Image.Image:
    from lion_min.panel import draw_panel
    from lion_min.studies.example import opened
    from lion_min.studies.sheets import shown, where
    return draw_panel(opened(LION), shown(LION, where()[0])[0])


def router() -> Image.Image:
    """LION's router: how much of two adapters a question takes, layer by layer"""
    from lion_min.panel import SIZE, below, router_chart, words
    from lion_min.studies.sheets import FULL, shown, where
    found = shown(LION, where()[0])[1]
    return below([words(FULL, [
        "Beside each feed-forward net of the frozen LLM run two adapters H, of regions and images:",
        "X + FFN(Norm(X)) + G_region H_region(X) + G_image H_image(X)",
        "The kind of question chooses both G; a bar is the mean of |G|. "
        f"Taken here: \"{where()[0]}\" is about a region."], SIZE), router_chart(FULL, found)])


def stages() -> Image.Image:
    """LION's four stages about held-out scenes, chosen to show what the first two do not learn"""
    from lion_min.boxes import BoxText
    from lion_min.drawing import INK
    from lion_min.panel import DRAWN, Tile, below, panel
    from lion_min.scenes import WORLDS, make_scene
    from lion_min.scores import is_right
    from lion_min.studies.example import opened
    from lion_min.studies.sheets import tile
    from lion_min.tasks import MAKERS
    learnt = [opened(LION, number) for number in (1, 2, 3, 4)]
    names = [f"stage {i}: {what}" for i, what in enumerate(("image level", "region level", "both",
                                                            "both, and tags"), 1)]
    scenes = [s for s in (make_scene(WORLDS["medium"], "heldout", 7, i) for i in range(2 * TRIES))
              if len(s.objects) > 2][:TRIES]
    seen, rows, taken = learnt[0].encode([s.draw() for s in scenes]), [], set()
    for task, name, own in (("count", "VQA", 0), ("reg", "REG", 1), ("rec", "REC", 1)):
        posed = [(i, e) for i, scene in enumerate(scenes)
                 if i not in taken and (e := MAKERS[task](scene, random.Random(i))) is not None]
        features, prompts = learnt[0].index([seen], [i for i, _ in posed]), [
            e.prompt for _, e in posed]
        answers = [*zip(*(s.answer(features, prompts, max_new_tokens=16) for s in learnt))]
        marks = [[is_right(said, e) for said in row] for row, (_, e) in zip(answers, posed)]
        # What a stage teaches shows where the one of the other level fails.
        best = max(range(len(posed)), key=lambda k: (
            marks[k][3], marks[k][2], marks[k][own], not marks[k][1 - own], -k))
        (i, asked), boxes = posed[best], BoxText().parse(posed[best][1].prompt)
        taken.add(i)
        tiles = []
        for title, said, right in zip(names, answers[best], marks[best]):
            word, colour = ("right", RIGHT) if right else ("wrong", WRONG)
            found = BoxText().parse(said)
            colours = [INK] * len(boxes) + [colour] * len(found)
            tiles.append(Tile(
                tile(scenes[i].draw(DRAWN // 64), boxes + found, colours, side=DRAWN // 2), title,
                [(colour, f"{word}: {said}")]))
        rows.append(panel(tiles, header=[f"{name}: {asked.prompt}  Truth: {asked.answer}"]))
    return below(rows)


def claims() -> Image.Image:
    """Do the papers' ideas help here? The score with an idea less the score without it"""
    from lion_min.drawing import INK, PAPER, RULE, fit, font_of, write_legend
    from lion_min.panel import GAP, SIZE
    from lion_min.studies.claims import LOG, read_log
    from lion_min.studies.conditions import CLAIMS
    from lion_min.studies.curves import ticks
    from lion_min.studies.sheets import FULL
    from lion_min.studies.trials import compare
    log, font = read_log(LOG), font_of(SIZE)
    rows = [(claim, found) for claim in CLAIMS if (found := compare(claim, log))]
    low = min((0.0, *(found["low"] for _, found in rows)))
    high = max((0.1, *(found["high"] for _, found in rows)))
    left, right, step, top = 720, FULL - 270, 64, 60
    end = top + step * len(rows)
    sheet = Image.new("RGB", (FULL, end + 100), PAPER)
    pen = ImageDraw.Draw(sheet)

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    for x, colour, text in ((GAP, RIGHT, "it helps: the 95 % interval is above 0"),
                            (580, WRONG, "the opposite"),
                            (820, UNSURE, "the interval holds 0, or one seed")):
        write_legend(pen, x, 4, FULL, [(colour, text)], SIZE)
    for value in ticks(low, high, 8):
        pen.line((at(value), top - 8, at(value), end), fill=RULE, width=2)
        pen.text((at(value), end + 8), f"{value:+.1f}" if value else "0", font=font, fill=INK,
                 anchor="mt")
    for i, (claim, found) in enumerate(rows):
        y, name = top + (i + 0.5) * step, claim.better.partition("-")[0]
        ends = sorted((at(0), at(found["difference"])))
        pen.rectangle((ends[0], y - 13, ends[1], y + 13), fill={
            "holds": RIGHT, "opposite": WRONG}.get(found["verdict"], UNSURE))
        pen.line((at(found["low"]), y, at(found["high"]), y), fill=INK, width=4)
        for value in (found["low"], found["high"]):
            pen.line((at(value), y - 9, at(value), y + 9), fill=INK, width=4)
        for shift, text, ink in ((-15, claim.says, INK), (
                15, f"{TITLES.get(name, name)}: {claim.measured}", "#595959")):
            pen.text((GAP, y + shift), fit(text, font, left - 2 * GAP), font=font, fill=ink,
                     anchor="lm")
        pen.text((right + GAP, y), f"{found['difference']:+.3f}, {found['seeds']} seeds", font=font,
                 fill=INK, anchor="lm")
    pen.line((at(0), top - 8, at(0), end), fill=INK, width=3)
    if len(rows) < len(CLAIMS):
        left_out = f"{len(CLAIMS) - len(rows)} of {len(CLAIMS)} claims have not been run yet"
        pen.text((GAP, end + 56), left_out, font=font, fill=INK)
    return sheet


def picture(name: str) -> Image.Image:
    """The picture of that name under its heading, in at most 256 colours."""
    from lion_min.drawing import COLOURS, INK, PAPER, RULE
    from lion_min.panel import below, words
    from lion_min.studies.sheets import SHEETS
    draw = {"systems": systems, "panel": panel, "router": router, "stages": stages,
            "claims": claims, **SHEETS}[name]
    sheet = draw()
    if draw.__doc__:
        sheet = below([words(sheet.width, [draw.__doc__]), sheet])
    # The colours of thin frames are rare and would be lost; white would be only nearly white.
    own = b"".join(bytes.fromhex(colour[1:]) for colour in (
        *COLOURS, INK, PAPER, RULE, RIGHT, WRONG, UNSURE))
    found = bytes(255 if v > 247 else v for v in sheet.quantize(256 - len(own) // 3).getpalette())
    palette = Image.new("P", (1, 1))
    palette.putpalette(own + found)
    return sheet.quantize(palette=palette, dither=Image.Dither.NONE)


def run(args) -> None:
    """Draw the pictures that are named, all by default."""
    from lion_min.drawing import check_output, save_image
    if unknown := {*(args.only or ())} - {*PICTURES}:
        raise BadInput(f"--only {' '.join(sorted(unknown))}: there is {', '.join(PICTURES)}")
    paths = {name: args.out / f"{name}.png" for name in args.only or PICTURES}
    for path in paths.values():
        check_output(path)
    if args.example:
        from lion_min.studies.example import choose
        choose()
    for name, path in paths.items():
        save_image(picture(name), path)
        print(f"wrote {path}", flush=True)


def main(argv: list[str] | None = None) -> int:
    p = Parser(prog="python -m lion_min.studies.pictures", description=__doc__.splitlines()[0])
    p.add_argument("--only", nargs="+", metavar="NAME", help="some of " + ", ".join(PICTURES))
    p.add_argument("--out", type=Path, default=FOLDER, metavar="DIR",
                   help="default: lion_min/pictures")
    p.add_argument("--example", action="store_true",
                   help="first choose lion_min/example.png anew, if it no longer fits the weights")
    return command(p, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
