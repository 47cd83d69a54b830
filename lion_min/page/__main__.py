"""Serve the page to this machine's browser: `python -m lion_min.page`, see --help."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from lion_min import BadInput
from lion_min.cli import SYSTEMS, Parser, command, whole


def parser() -> Parser:
    p = Parser(prog="python -m lion_min.page",
               description="Serve a page, to this machine alone, on which one asks about pictures.")
    p.add_argument("--port", type=whole(0, 65535), default=8123, metavar="N",
                   help="default: 8123; 0: any that is free")
    p.add_argument("--system", choices=SYSTEMS, default=SYSTEMS[0],
                   help="which one is selected at first")
    p.add_argument("--weights", type=Path, metavar="DIR",
                   help="a run's folder of that system; default, and for the others: the bundled "
                        "weights")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--open", action="store_true", help="open the page in the browser")
    return p


def main(argv: list[str] | None = None) -> int:
    return command(parser(), serve, argv)


def serve(args: argparse.Namespace) -> None:
    """Until Ctrl-C. The first system is loaded before the address is printed."""
    import webbrowser
    from lion_min import launch
    from lion_min.page.server import Server
    from lion_min.page.session import Session

    def load(name: str):
        return launch.load(name, args.weights if name == args.system else None, args.device)
    try:
        server = Server(Session(load, args.system), args.port)
    except OSError as error:
        raise BadInput(f"--port {args.port}: {error.strerror}; choose another one") from None
    with server:
        server.session.system(args.system)
        print(f"the page: {server.address}  (Ctrl-C ends it)", flush=True)
        if args.open:
            webbrowser.open(server.address)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    raise SystemExit(main())
