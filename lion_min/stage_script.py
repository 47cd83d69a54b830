"""The command line of a stage script: `python -m lion_min.lion.stage2`, see its --help."""

from __future__ import annotations

import argparse

from lion_min.cli import Parser, command, training_flags


def main(name: str, argv: list[str] | None = None) -> int:
    """Train the stage of the module `name`, such as 'lion_min.lion.stage2'; the exit code."""
    _, system, script = name.split(".")
    number = script.removeprefix("stage")
    p = Parser(prog=f"python -m {name}", description=f"Train {script} of {system}.",
               formatter_class=argparse.RawDescriptionHelpFormatter)
    training_flags(p)

    def train(args: argparse.Namespace) -> None:
        from lion_min.launch import Options, train_stage
        o = Options(**{{"batch_size": "batch", "format": "form"}.get(k, k): v
                       for k, v in vars(args).items()})
        train_stage(system, int(number) if number.isdigit() else script, o)

    return command(p, train, argv)
