"""The page's HTTP server: this machine alone, six fixed routes, and one line for whatever is wrong.

It binds to 127.0.0.1. Another site's page in the same browser could still send requests there, so
the Host header must name this server (against DNS rebinding) and the Origin header, where there is
one, too. Nothing of a request ever names a file.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

from lion_min import BadInput

PAGE = Path(__file__).with_name("page.html")
MAX_JSON, MAX_PICTURE = 1 << 16, 16 << 20  # bytes of a request's body
POLICY = ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


class Refused(Exception):
    """(status, one line)."""


class Server(ThreadingHTTPServer):
    """Serves a Session on 127.0.0.1:port; port 0 takes any that is free."""

    request_queue_size, daemon_threads = 512, True

    def __init__(self, session, port: int):
        self.session = session
        super().__init__(("127.0.0.1", port), Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.address = f"http://127.0.0.1:{self.server_port}/"
        self.page = PAGE.read_text(encoding="utf-8").replace("ABOUT", json.dumps(session.about()))

    def server_bind(self) -> None:
        """Without http.server's look-up of the machine's name, which may take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address

    def server_close(self) -> None:
        """Wait for the model that answers, and let none begin: it would outlive torch."""
        super().server_close()
        self.session.lock.acquire()

    def handle_error(self, request, client_address) -> None:
        """A browser that goes away in the middle of an answer is no error."""
        if not isinstance(error := sys.exception(), OSError):
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    timeout = 20                           # seconds that a request may take to arrive
    server_version, sys_version = "lion_min", ""

    def do_GET(self) -> None:
        self.answer({"/": lambda: self.server.page})

    def do_POST(self) -> None:
        session = self.server.session
        self.answer({"/upload": lambda: session.upload(self.body(MAX_PICTURE)),
                     "/scene": lambda: session.scene(self.json_body()),
                     "/ask": lambda: session.ask(self.json_body()),
                     "/explain": lambda: session.explain(self.json_body())})

    def answer(self, routes: dict) -> None:
        """Call the route of the path, or say in one line why not."""
        try:
            self.check_sender()
            if self.path not in routes:
                raise Refused(404, f"no such address: {self.command} {self.path[:60]!r}")
            self.send(200, routes[self.path]())
        except Refused as refused:
            self.send_error(*refused.args)
        except BadInput as error:
            self.send_error(400, str(error))
        except OSError:
            raise                          # the connection's
        except Exception as error:         # a fault of ours: its name, and no more, to the browser
            print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
            self.send_error(500, f"the server failed: {type(error).__name__}")

    def check_sender(self) -> None:
        """Refuse what another machine's name or another site's page sends."""
        hosts, origins = (self.headers.get_all(name, []) for name in ("Host", "Origin"))
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise Refused(403, "Host: this server answers to 127.0.0.1 alone")
        if any(origin.removeprefix("http://") != hosts[0] for origin in origins):
            raise Refused(403, "Origin: another site may not ask here")

    def body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise Refused(411, "Content-Length: a whole number is needed")
        if len(length) > 12 or int(length) > most:
            raise Refused(413, f"body: more than {most >> 10} KiB; send less")
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise Refused(400, "body: shorter than its Content-Length")
        return data

    def json_body(self) -> dict:
        try:
            data = json.loads(self.body(MAX_JSON))
        except (ValueError, RecursionError):
            raise Refused(400, "body: not valid JSON") from None
        if not isinstance(data, dict):
            raise Refused(400, "body: a JSON object is needed")
        return data

    def send(self, status: int, content: dict | str) -> None:
        """JSON, or the page."""
        page = isinstance(content, str)
        data = (content if page else json.dumps(content)).encode()
        kind = "text/html; charset=utf-8" if page else "application/json"
        self.request_version = "HTTP/1.1"  # garbage counts as HTTP/0.9, which has no status
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", len(data)),
                            ("Content-Security-Policy", POLICY), ("Cache-Control", "no-store"),
                            ("X-Content-Type-Options", "nosniff"), ("Connection", "close")):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One line of JSON in the place of http.server's page. Then read on a little: a connection
        that is closed on unread bytes loses the answer, too."""
        self.close_connection = True
        line = " ".join(str(message or "bad request").split())[:300]
        self.send(405 if code == 501 else code, {"error": line})
        self.connection.settimeout(1)
        with suppress(OSError):
            for _ in range(MAX_PICTURE >> 15):
                if not self.connection.recv(1 << 16):
                    break

    def log_message(self, *args) -> None:
        """Nothing: a line for every click would hide what matters."""
