"""What every room's loading.py shares: a run's folder, checked, and its tensors into a model."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from lion_min import BadInput, checkpoints
from lion_min.cli import room
from lion_min.parts import WEIGHTS, Source, check_stage0, fingerprint, frozen_of, stage_name
from lion_min.pretrained.presets import PRESETS
from lion_min.scenes import WORLDS
from lion_min.stage import Stage
from lion_min.trainable import only_trainable


def stage_of(name: str, number: int | str) -> Stage:
    """The Stage that a stage script of the system `name` declares."""
    return room(name, stage_name(number)).STAGE


def read_config(name: str, stages: tuple, bundled: Path, weights: Path | None = None) -> dict:
    """The settings of a run's folder of the system `name`; without `weights`, of `bundled`.

    Raises BadInput for a folder that is missing, damaged, or none of `stages`.
    """
    where = Path(weights or bundled)
    if not where.is_dir():
        mend = "it is not bundled yet: train it" if WEIGHTS in where.resolve().parents \
            else "train it or leave --weights out"
        raise BadInput(f"weights {str(where)!r}: no such folder; {mend}")
    config = checkpoints.load_json(where / checkpoints.CONFIG)
    wanted = {"system": (name,), "stage": stages, "preset": tuple(PRESETS),
              "world": tuple(WORLDS)}
    for key, values in wanted.items():
        if config.get(key) not in values:
            raise BadInput(f"{where / checkpoints.CONFIG}: {key} is {config.get(key)!r:.40}, "
                           f"not one of {', '.join(map(str, values))}; give the folder of a "
                           f"{name} stage that was trained here")
    around = where.resolve().parent
    if around.name != name and (around / "stage0").exists():
        # The bundled stage 0 would load as well, and every answer would be nonsense.
        raise BadInput(f"weights {str(where)!r}: the folder around it must be called {name!r}, "
                       "for its stage0 to be found; rename it")
    return config


def open_system(name: str, weights: Path | None, device, preset: str | None = None,
                vision: str | None = None, language: str | None = None):
    """The room's system for a command line: its weights, or the bundled ones.

    vision, language: the backbones' folders where they are not what training took. BadInput for
    a preset without weights, or other weights than its own.
    """
    rooms = room(name, "loading")
    file = Path(weights or "") / checkpoints.CONFIG
    if weights is not None and file.is_file() and "imported" in checkpoints.load_json(file):
        return open_imported(name, Path(weights), device, vision, language)
    if preset not in (None, "tiny") and weights is None:
        raise BadInput(f"--preset {preset}: nothing is bundled for it; train it and give its "
                       "folder: --weights DIR")
    if preset is not None and weights is not None:
        found = rooms.read_config(weights)["preset"]
        if found != preset:
            raise BadInput(f"--preset {preset}: the weights {str(weights)!r} are of the preset "
                           f"{found}; leave --preset out")
    places = {k: v for k, v in (("vision", vision), ("language", language)) if v}
    if places and name not in ("lion", "pvit"):
        raise BadInput(f"--vision, --llm: {name} has the tiny preset alone; leave them out")
    return rooms.load_system(weights, device, **places)


def open_imported(name: str, weights: Path, device, vision: str | None, language: str | None):
    """A published checkpoint that was imported; LION's can be asked."""
    published = room(name, "published")
    if not hasattr(published, "open_system"):
        raise BadInput(f"weights {str(weights)!r}: an imported {name}, whose prompts have no way "
                       f"from the command line yet; lion_min.published.{name}.load opens it")
    return published.open_system(weights, device, vision, language)


def source_of(config: dict, where: Path, vision=None, language=None) -> Source:
    """Where a run's frozen parts came from; `vision` and `language` where they lie elsewhere now.

    BadInput for settings that are damaged, and for places given to the tiny preset."""
    if config["preset"] == "tiny":
        if vision or language:
            raise BadInput("--vision, --llm: the tiny preset has its own; leave them out")
        return Source()
    try:
        found = Source(**config["source"])
    except (KeyError, TypeError) as error:
        raise BadInput(f"{where / checkpoints.CONFIG}: source is damaged ({error}); train the "
                       "stage again") from error
    return replace(found, vision=vision or found.vision, language=language or found.language)


def load_trained(model: nn.Module, trains: tuple[str, ...], where: Path, config: dict,
                 tagger: nn.Module | None = None) -> None:
    """The run's tensors into the parameters its stage trained, every one accounted for; then
    nothing trains any more. With the `tagger`, `model` and it as stage 0 left them, the run must
    have grown on the same stage 0."""
    if tagger is not None:
        check_stage0(config, where, fingerprint(*frozen_of(model, tagger, config["preset"])))
    now = checkpoints.as_json(asdict(model.settings))
    if changed := checkpoints.differences(config.get("settings", {}), now):
        raise BadInput(f"{where / checkpoints.CONFIG}: of another version of the tiny preset "
                       f"({changed[0]}); train the stage again")
    tensors, _ = checkpoints.load_run(where)
    names = only_trainable(model, trains)
    checkpoints.load_into(model, tensors, where / checkpoints.MODEL, names)
    model.requires_grad_(False)
