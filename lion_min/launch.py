"""From a name to a system: open one to ask it, or train its stages as the command line says.

The only module that imports a system or a trip (pretrained, published, datasets, tiny) by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path

import torch

from lion_min import BadInput, checkpoints, scores, training
from lion_min.cli import LION, MAX_BAD, PART_FLAGS, PART_OF, SYSTEMS, several
from lion_min.features import readable
from lion_min.left_out import LeftOut, note
from lion_min.parts import TINY, WEIGHTS, Parts, check_init, run_folder, stage_name, tiny_parts
from lion_min.pretrained.presets import PRESETS
from lion_min.scenes import WORLDS
from lion_min.stage import RunOptions, Stage, run_stage
from lion_min.system import System
from lion_min.training import Plan

CHECKS = 100                               # questions about photographs before and after a stage


def module_of(system: str, part: str):
    """lion_min.<system>.<part>."""
    return import_module(f"lion_min.{system}.{part}")


def published(system: str):
    """What opens the published checkpoint of a system: lion_min.published.<system>."""
    return import_module(f"lion_min.published.{system}")


def stage_of(system: str, number: int | str) -> Stage:
    """The Stage that a stage script declares; BadInput for one that there is not."""
    return module_of(system, stage_name(number)).STAGE


def answers(system: str) -> tuple[int | str, ...]:
    """The stages of a system that can be asked."""
    classes = (c for c in vars(module_of(system, "system")).values() if isinstance(c, type))
    return max((c.ANSWERS for c in classes if issubclass(c, System)), key=len)


def bundled(system: str) -> Path:
    """The folder of the bundled weights of the system's last stage."""
    return WEIGHTS / system / stage_name(answers(system)[-1])


# ---- a system to ask ----------------------------------------------------------------------------

def load(system: str = SYSTEMS[0], weights: Path | str | None = None, device: str = "auto",
         preset: str | None = None, vision: str | None = None, llm: str | None = None,
         **more: str) -> System:
    """A trained system: of a run's or an imported folder `weights`, or the bundled one.

    vision, llm and more: where its parts lie (cli.PART_FLAGS), if not where training took them.
    BadInput for weights that are missing, damaged, or of another preset than `preset`.
    """
    if system not in SYSTEMS:
        raise BadInput(f"system {system!r:.40}: there is {', '.join(SYSTEMS)}")
    if unknown := more.keys() - PART_FLAGS:
        raise BadInput(f"{min(unknown)}: no part; there is {', '.join(PART_FLAGS)}")
    weights, device = weights and Path(weights), training.device_of(device)
    sources = {k: v for k, v in {"vision": vision, "llm": llm, **more}.items() if v}
    if is_imported(weights):
        opened = _imported(system, weights, device, sources)
    else:
        if preset not in (None, TINY) and weights is None:
            raise BadInput(f"--preset {preset}: nothing is bundled for it; train it and give its folder: "
                           "--weights DIR")
        config = read_config(system, weights)
        if preset not in (None, config["preset"]):
            raise BadInput(f"--preset {preset}: the weights {str(weights)!r} are of the preset "
                           f"{config['preset']}; leave --preset out")
        folder = Path(weights or bundled(system)).resolve()
        opened = open_run(system, folder, config, device, sources)
    if opened.parts.preset == TINY:
        from lion_min.tiny.typed import Reader
        opened.reads = Reader(opened.tokenizer, opened.wordings)
    return opened


def open_run(system: str, folder: Path, config: dict, device="cpu",
             sources: dict[str, str] | None = None) -> System:
    """The system of OUT/<system>/stageN, every tensor accounted for; its frozen parts come from
    OUT's stage 0, or the bundled one, or from where training took them."""
    stage = stage_of(system, config["stage"])
    for name, known in (("control", "CONTROLS"), ("representation", "SLOTS")):
        if hasattr(stage, name):               # a study's run may have changed it
            values = tuple(vars(module_of(system, "model"))[known])
            stage = replace(stage, **{name: _setting(config, folder, ("settings", name), values)})
    family = _setting(config, folder, ("settings", "language", "family"), ("llama", "t5"))
    sources = _sources(config, folder, sources or {})
    parts = parts_for(folder.parents[1], config["preset"], sources, family, system)
    stage = fitted(system, stage, parts)
    opened = module_of(system, "system").SYSTEM(parts, stage)
    opened.load(folder, config)
    opened.model.to(device), opened.tagger.to(device)

    def open_stage(number: int | str) -> System:
        other = run_folder(system, folder.parents[1], number)
        return open_run(system, other, read_config(system, other, (number,)), device, sources)

    opened.open_stage = open_stage
    return opened


def read_config(system: str, weights: Path | None = None,
                stages: tuple[int | str, ...] | None = None) -> dict:
    """The settings of a run's folder; without `weights`, of the bundled one. BadInput for a folder
    that is missing, damaged, or none of the stages that can be asked."""
    folder = Path(weights or bundled(system))
    if folder.is_file():
        raise BadInput(f"weights {str(folder)!r}: is a file; give the folder of the run it lies in")
    if not folder.is_dir():
        mend = "it is not bundled yet: train it" if WEIGHTS in folder.resolve().parents \
            else "train it or leave --weights out"
        raise BadInput(f"weights {str(folder)!r}: no such folder; {mend}")
    config = checkpoints.load_json(folder / checkpoints.CONFIG)
    wanted = {"system": (system,), "stage": stages or answers(system), "preset": tuple(PRESETS),
              "world": tuple(WORLDS)}
    for key, values in wanted.items():
        _setting(config, folder, (key,), values, f"give the folder of a {system} stage that was trained here")
    around = folder.resolve().parent
    if around.name != system and (around / "stage0").exists():
        # The bundled stage 0 would load as well, and every answer would be nonsense.
        raise BadInput(f"weights {str(folder)!r}: the folder around it must be called {system!r}, for its "
                       "stage0 to be found; rename it")
    return config


def _setting(config: dict, folder: Path, names: tuple[str, ...], values: tuple,
             mend: str = "train the stage again") -> object:
    """What stands under these names in a run's config; BadInput where it is none of the values."""
    value = config
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if value not in values:
        raise BadInput(f"{folder / checkpoints.CONFIG}: {'.'.join(names)} is {value!r:.40}, not one of "
                       f"{', '.join(map(str, values))}; {mend}")
    return value


def _sources(config: dict, folder: Path, given: dict[str, str]) -> dict[str, str]:
    """Where a run's parts come from: what is given, else what training took. BadInput for damaged
    settings, or parts given to the tiny preset."""
    if config["preset"] == TINY:
        if given:
            raise BadInput(f"--{', --'.join(given)}: the tiny preset has its own; leave it out")
        return {}
    try:
        taken = {"llm": config["source"]["language"]} | config["source"]
        return {name: taken[name] for name in PART_FLAGS if taken.get(name)} | given
    except (KeyError, TypeError) as error:
        raise BadInput(f"{folder / checkpoints.CONFIG}: source is damaged ({error}); train the stage "
                       "again") from error


def is_imported(weights: Path | None) -> bool:
    """Whether a folder of weights is a published checkpoint that was imported."""
    file = weights and weights / checkpoints.CONFIG
    return bool(file) and file.is_file() and "imported" in checkpoints.load_json(file)


def _imported(system: str, weights: Path, device, given: dict[str, str]) -> System:
    """The system of an imported checkpoint; BadInput, once for all, where parts are not found."""
    module, config = published(system), checkpoints.load_json(weights / checkpoints.CONFIG)
    _setting(config, weights, ("system",), (system,), "give --system, too")
    preset = PRESETS.get(config.get("preset"))
    sources = preset.sources(given) if preset else given
    if any(name not in sources for name in module.NEEDS):
        raise BadInput(f"{weights}: of no preset's size; say where its parts lie: "
                       + " ".join(f"--{name} DIR" for name in module.NEEDS)
                       + f" ({'; '.join(f'{k}: {v}' for k, v in module.NEEDS.items())})")
    check_parts(system, sources, imported=True)
    return module.open_system(weights, stage_of(system, answers(system)[-1]), device, **sources)


def check_parts(system: str, sources: dict[str, str], preset: str = "", imported: bool = False) -> None:
    """BadInput, before any of the system's parts is loaded, where the place of one holds nothing or
    another kind of model. An import may want a ViT's or an LLM's folder for a tokenizer alone."""
    from lion_min.pretrained.backbones import check_part
    from lion_min.published import keys
    module = published(system)
    kinds = getattr(module, "KINDS", {}) if imported or preset in module.SIZES else {}
    if imported:
        kinds = {"vision": "", "llm": ""} | kinds
    for name, source in sources.items():
        if PART_OF.get(name, system) == system:
            keys.check_file_kind(source) if name == "regions" else \
                check_part(source, name, kinds.get(name, name))


def parts_for(out: Path, preset: str = TINY, sources: dict[str, str] | None = None,
              family: str = "llama", system: str | None = None) -> Parts:
    """The frozen parts of a preset, with what `system` needs beside the ViT and the LLM; sources:
    folders in the place of the preset's own, by their flags."""
    if preset == TINY:
        return tiny_parts(out, family)
    from lion_min.pretrained.backbones import pretrained_parts
    given = sources or {}
    check_parts(system or LION, PRESETS[preset].sources(given), preset)
    parts = pretrained_parts(out, preset, given.get("vision"), given.get("llm"))
    parts.source |= {k: v for k, v in given.items() if k not in ("vision", "llm")}
    if system:
        published(system).complete(parts, **PRESETS[preset].sources(given))
    return parts


def fitted(system: str, stage: Stage, parts: Parts) -> Stage:
    """The stage as the published form of a system around these parts trains it."""
    fit = parts.published and getattr(published(system), "fitted", None)
    return fit(stage, parts.published) if fit else stage


# ---- stages to train ----------------------------------------------------------------------------

@dataclass
class Options:
    """What a user of train.py may change; None takes the stage script's own value."""

    out: Path = Path("runs")
    world: str = "medium"
    seed: int = 0
    resume: bool = False
    device: str = "auto"
    labels: str | None = None
    steps: int | None = None
    lr: float | None = None
    precision: str | None = None
    batch: int | None = None
    data: Path | None = None
    form: str | None = None                # of --data; None: by its files' names
    images: Path | None = None             # the folder of its photographs; None: beside it
    max_bad: float = MAX_BAD               # the share of bad records and pictures to leave out
    tags: Path | None = None               # LION's, from outside: datasets/tags.py
    preset: str = TINY
    sources: dict[str, str] = field(default_factory=dict)   # of the preset's parts, by their flags
    accumulate: int | None = None
    checkpointing: bool = False
    shard: bool = False                    # one model among the processes of torchrun
    init: Path | None = None               # a run of the same stage to go on from

    def plan(self, plan: Plan) -> Plan:
        """A stage's plan with the user's changes; fp32 where this device is slow in bf16."""
        slow = not training.multiplies_bf16(training.device_of(self.device))
        wanted = {"steps": self.steps, "lr": self.lr,
                  "precision": self.precision or ("fp32" if slow else None),
                  "accumulate": self.accumulate, "checkpointing": self.checkpointing or None,
                  "shard": self.shard or None}
        return replace(plan, seed=self.seed, **{k: v for k, v in wanted.items() if v is not None})

    def check(self, **run: object) -> None:
        """Raises BadInput, before any work, where --out cannot be written, --init holds another run
        than `run` (system, stage, a stage 0's part), --resume finds nothing of that run to go on
        from, or --shard has nobody to share with."""
        if self.shard and not several():
            raise BadInput("--shard: shares one model among processes; start them with torchrun "
                           "--nproc-per-node N train.py ..., or leave --shard out")
        checkpoints.check_writable(self.out)
        if self.init is not None:
            check_init(self.init, **run)
        if self.resume and run:
            checkpoints.check_resumable(
                Path(self.out, run["system"], stage_name(run["stage"]), run.get("part", "")))

    def scenes(self, stage: Stage, takes_turns: bool = True) -> dict:
        """--data as `scenes` (and `score`) of RunOptions; {} without it."""
        if self.data is None:
            return {}
        from lion_min import datasets
        from lion_min.datasets import photos
        if photos.is_photos(self.data, self.form):
            return self.photographs(takes_turns)
        scenes, batch = datasets.read_scenes(self.data, WORLDS[self.world]), self.batch or stage.batch
        scenes, tags = self.tagged(scenes)
        if len(scenes) < batch:
            raise BadInput(f"data {str(self.data)!r}: {len(scenes)} scenes do not fill a batch of "
                           f"{batch}; add some or lower --batch-size")
        return {"scenes": scenes, "data": {"file": str(self.data),
                                           "fingerprint": datasets.fingerprint(scenes)}} | tags

    def tagged(self, pictures: list) -> tuple[list, dict]:
        """Those of the pictures that --tags knows, and the file as "tags"; all without it."""
        if self.tags is None:
            return pictures, {}
        from lion_min.datasets.tags import TagFile
        tags = TagFile(self.tags, self.max_bad)
        return tags.known(pictures, self.max_bad), {"tags": tags}

    def photographs(self, takes_turns: bool) -> dict:
        """Photographs to train on, and the questions on those held out."""
        from lion_min import datasets
        from lion_min.datasets import benchmarks, photos
        annotations = datasets.load(self.data, self.form, self.images, self.max_bad)
        every = photos.photos_of(annotations)
        if self.preset == TINY:
            raise BadInput(f"data {str(self.data)!r}: photographs; the tiny preset knows the drawn "
                           "world's words alone, so choose another one, --preset clip-smollm2")
        every, tags = self.tagged(every)
        train, held = photos.split(every)
        asked = benchmarks.some(photos.questions(held), CHECKS, self.seed)
        print(f"{len(train)} photographs to train on, {len(held)} held out, of {annotations.file} "
              f"({annotations.form})")
        if not takes_turns and any(sample.turns for sample in annotations.samples):
            note("this system takes no earlier turns: a conversation's later questions stand alone")
        floor = len({sample.image for sample in asked}) > 1    # shows the next picture

        def score(system: System) -> dict:
            if system.stage.number not in system.ANSWERS:      # Lyrics' alignment: no LLM
                told = [photo for photo in held if photo.caption()][:CHECKS]
                left_out = LeftOut(annotations.file, "pictures", len(told))
                return system.score_scenes(
                    [told[row] for row in readable([photo.draw for photo in told], left_out)])
            return benchmarks.score_samples(system, asked, shuffled=floor, max_bad=self.max_bad)

        return {"scenes": train, "max_bad": self.max_bad, "score": score,
                "data": {"file": str(annotations.file),
                         "fingerprint": datasets.fingerprint(every)}} | tags


def train_stage(system: str, number: int | str, o: Options, stage: Stage | None = None, **run) -> dict:
    """One stage of a system (or `stage`, a variant of it); its scores 'before' and 'after'."""
    stage = stage or stage_of(system, number)
    o.check(system=system, stage=stage.number)
    takes_turns = scores.takes_turns(module_of(system, "system").SYSTEM)
    data = o.scenes(stage, takes_turns) if number else {}   # a stage 0 learns from scenes it makes
    torch.manual_seed(o.seed)
    parts = parts_for(o.out, o.preset, o.sources, system=system)
    stage = fitted(system, stage, parts)
    trained, tags = module_of(system, "system").SYSTEM(parts, stage), data.pop("tags", None)
    if tags:
        data["data"]["tags"] = str(tags.file)
        if trained.reads_tags:                         # LION's stages before the fourth do not
            tags.give(trained)
    return run_stage(trained, RunOptions(**{
        "world": o.world, "seed": o.seed, "resume": o.resume, "batch": o.batch, "init": o.init,
        "device": training.device_of(o.device), "plan": o.plan(stage.plan)} | data | run))


def lenient(o: Options, folder: Path) -> Options:
    """Resume where there is something to resume: among many runs some have not begun."""
    return replace(o, resume=o.resume and (folder / checkpoints.STATE).exists())


@contextmanager
def timed(name: str, minutes: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    minutes[name] = (time.perf_counter() - start) / 60


def one_of_all(system: str, number: int, o: Options) -> Options:
    """The options of a stage that is trained among all: its longer plan, unless --steps is given."""
    o = lenient(o, o.out / system / stage_name(number))
    return replace(o, steps=o.steps or stage_of(system, number).steps_in_all)


def in_turn(system: str, numbers: tuple[int, ...], o: Options, minutes: dict[str, float] | None = None,
            before: dict[str, dict] | None = None) -> dict[int, dict]:
    """Trains stages one after another; prints the minutes of each, then the scores of `before` and of
    each stage side by side."""
    done, minutes = {}, {} if minutes is None else minutes
    o.scenes(stage_of(system, numbers[-1]))        # a mistake in --data shows before the first
    for number in numbers:
        print(f"---- stage {number}")
        with timed(str(number), minutes):
            done[number] = train_stage(system, number, one_of_all(system, number, o))
    print("minutes: " + ", ".join(f"stage {k} {v:.1f}" for k, v in minutes.items())
          + f", all {sum(minutes.values()):.1f}")
    after = (before or {}) | {f"stage {n}": scored["after"] for n, scored in done.items()}
    print(scores.columns({name: s for name, s in after.items() if "vqa_by_type" in s} or after))
    return done
