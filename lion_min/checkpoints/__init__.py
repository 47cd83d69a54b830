"""Runs on disk: everything of runs.py. Here lies __main__ too, the import command."""


def __getattr__(name: str):
    """The names of runs.py, at their first use: torch would make the command's --help slow."""
    if name.startswith("__"):
        raise AttributeError(name)
    import lion_min.checkpoints.runs as runs
    return getattr(runs, name)
