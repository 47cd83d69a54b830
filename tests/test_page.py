"""The page: what its server refuses, what its session answers, and a real browser on it.

    PAGE_SHOTS=/tmp/shots python -m pytest tests/test_page.py      # also saves screenshots
"""

import json
import os
import re
import socket
import threading
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from browser import CHROMIUM, Browser
from PIL import ImageChops
from test_images import bomb

from lion_min import BadInput, launch
from lion_min.features import hide
from lion_min.page import __main__ as command
from lion_min.page.server import MAX_PICTURE, Server
from lion_min.page.session import GRID, Session
from lion_min.scenes import WORLDS, make_scene

ASK = {"picture": 1, "system": "lion", "prompt": "What is in the image?"}
BOX = "Describe box [0.100,0.200,0.500,0.600]"


@pytest.fixture(scope="module")
def server():
    """A server with the bundled systems and one scene, which is picture 1."""
    session = Session(lru_cache(lambda name: launch.load(name, None, "cpu")), "lion")
    session.scene({"seed": 7})
    session.system("lion")
    with Server(session, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


def send(server, raw: bytes) -> tuple[int, str]:
    """(status, body) of whatever bytes."""
    with socket.socket() as connection:
        connection.settimeout(120)
        connection.connect(("127.0.0.1", server.server_port))
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body.decode()


def request(server, path="/ask", body=None, method="POST", length=None, host=None, **headers):
    """A request with good headers, but for those that are given."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": host or f"127.0.0.1:{server.server_port}",
             "Content-Length": len(body) if length is None else length} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value != "")
    return send(server, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body)


# ---- what is refused --------------------------------------------------------------------------------

REFUSED = [
    (403, {"host": "evil.example"}), (403, {"host": "127.0.0.1"}), (403, {"host": "evil.example:80"}),
    (403, {"Origin": "http://evil.example"}), (403, {"Origin": "null"}),
    (403, {"Origin": "https://127.0.0.1:1"}), (404, {"path": "/../session.py"}),
    (404, {"path": "/page.html"}),
    (404, {"path": "/etc/passwd", "method": "GET"}),
    (404, {"path": "http://evil.example/", "method": "GET"}), (404, {"method": "GET"}),
    (405, {"method": "PUT"}), (405, {"method": "BREW"}),
    (411, {"length": ""}), (411, {"length": "-1"}), (411, {"length": "1e3"}), (411, {"length": "\u00b2"}),
    (411, {"Transfer-Encoding": "chunked"}), (413, {"length": 10**9}), (413, {"length": "9" * 400}),
    (413, {"path": "/upload", "length": MAX_PICTURE + 1}), (400, {"length": 60000}),
    (400, {"body": b"{"}), (400, {"body": b"\xff\xfe"}), (400, {"body": b"[" * 60000}), (400, {"body": []}),
    (400, {"body": b'{"picture": NaN}'}), (400, {"body": {}}), (400, {"body": ASK | {"picture": "1"}}),
    (400, {"body": ASK | {"picture": True}}), (400, {"body": ASK | {"picture": 999}}),
    (400, {"body": ASK | {"picture": 10**400}}), (400, {"body": ASK | {"prompt": ["a"]}}),
    (400, {"body": ASK | {"prompt": ""}}), (400, {"body": ASK | {"prompt": "a" * 60000}}),
    (400, {"body": ASK | {"prompt": "\ud800"}}), (400, {"body": ASK | {"prompt": "describe box"}}),
    (400, {"body": ASK | {"prompt": "describe box [5,1,2,9]"}}), (400, {"body": ASK | {"system": "../x"}}),
    (400, {"body": ASK | {"hidden": [64]}}), (400, {"body": ASK | {"hidden": [1.5]}}),
    (400, {"body": ASK | {"hidden": {"a": 1}}}), (400, {"body": ASK | {"by": "magic"}}),
    (400, {"path": "/scene", "body": {"seed": -1}}), (400, {"path": "/scene", "body": {"seed": "7"}}),
    (400, {"path": "/upload", "body": b""}), (400, {"path": "/upload", "body": b"no picture"}),
    (400, {"path": "/upload", "body": bomb(10_000)}),
]


@pytest.mark.parametrize("status, options", REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refusals_are_one_line(server, capfd, status, options):
    """Guards: another site or machine that asks, a file that is served, a traceback, a hang."""
    body = options.pop("body", ASK)
    got, text = request(server, body=body, **options)
    assert got == status, text
    assert list(json.loads(text)) == ["error"] and "\n" not in text and "Traceback" not in text
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("raw", [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                                 b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
                                 b"GET / HTTP/1.1\r\nHost: " + b"a" * 70000, b"A" * 70000])
def test_garbage_is_no_request(server, capfd, raw):
    """Guards: http.server's page of HTML, which repeats what was sent, or a traceback."""
    status, text = send(server, raw)
    assert 400 <= status <= 505 and list(json.loads(text)) == ["error"] and "\n" not in text
    assert capfd.readouterr().err == ""


def test_the_page_is_whole_and_needs_nothing_else(server):
    """Guards: a script, font or picture from elsewhere; a page that grows; a missing policy."""
    status, text = request(server, "/", method="GET", body=b"", Origin="")
    assert status == 200 and len(text.encode()) < 60_000
    assert not re.findall(r"""(?:src|href)=|@import|url\(""", text) and "http" not in text.replace(
        "http://www.w3.org/2000/svg", "")
    about = json.loads(re.search(r'id="about" type="application/json">(.*?)</script>', text)[1])
    assert about["grid"] == GRID and len(about["systems"]) == 4
    assert server.server_address[0] == "127.0.0.1"


def test_two_hundred_at_once(server):
    """Guards: connections that are refused or lost; two requests inside one model."""
    system, inside, most = server.session.system("lion"), [], []
    answer = system.answer

    def watched(features, prompts, **options):
        inside.append(1)
        most.append(len(inside))
        try:
            return answer(features, prompts, **options)
        finally:
            inside.pop()
    system.answer, results = watched, [None] * 200

    def one(i):
        bodies = ASK | {"prompt": f"How many objects are there? {i % 3}"}, b"{", ASK | {"picture": None}
        results[i] = request(server, body=bodies[i % 3 if i % 4 else 0])[0]
    threads = [threading.Thread(target=one, args=(i,)) for i in range(200)]
    try:
        for step in (threading.Thread.start, threading.Thread.join):
            for thread in threads:
                step(thread)
    finally:
        del system.answer
    assert {*results} == {200, 400} and results.count(200) >= 100 and max(most) == 1


def test_a_fault_of_ours_is_one_line(server, monkeypatch, capfd):
    """Guards: a traceback, or what a fault says about this machine, in the browser."""
    monkeypatch.setattr(server.session.system("lion"), "explain", lambda reply: 1 / 0)
    status, text = request(server, "/explain", ASK)
    assert status == 500 and json.loads(text) == {"error": "the server failed: ZeroDivisionError"}
    assert capfd.readouterr().err == "error: ZeroDivisionError: division by zero\n"


# ---- what is answered -------------------------------------------------------------------------------

def test_hidden_cells(monkeypatch):
    """Guards: the brush that hides other patches than those marked, or nothing."""
    session, images, hidden = Session(None, "lion"), [], []
    session.scene({"seed": 7})
    picture, truth = session.pictures[1], make_scene(WORLDS["medium"], "heldout", 7, 0)
    column, row = (int(v * GRID) for v in truth.objects[1].centre)
    assert column != row
    states = [torch.rand(1, 65, 4), torch.rand(1, 65, 4)]
    monkeypatch.setattr("lion_min.page.session.encode_images",
                        lambda vision, given: images.extend(given) or states)
    system = SimpleNamespace(features=lambda states, _: hidden.append(states), parts=SimpleNamespace(
        vision=SimpleNamespace(settings=SimpleNamespace(side=8))))
    for by in ("pixels", "states"):
        session.encode(system, picture, frozenset([row * GRID + column]), by)
    box = ImageChops.difference(images[0], picture.image).getbbox()
    assert box == (8 * column, 8 * row, 8 * column + 8, 8 * row + 8) and images[1] is picture.image
    assert ImageChops.difference(images[0], picture.background).crop(box).getbbox() is None
    assert hidden[0] is states
    moved = (hidden[1][1] != states[1]).any(-1)[0]
    assert moved.nonzero()[:, 0].tolist() == [1 + row * 8 + column]


def test_hide_by_hand():
    """Guards: CLS in the mean or hidden itself, the hidden ones in their own mean; the caller's
    states changed."""
    states = [torch.arange(10.).view(1, 5, 2)]
    assert hide(states, [0, 3])[0][0].tolist() == [[0, 1], [5, 6], [4, 5], [6, 7], [5, 6]]
    assert hide(states, [0, 1, 2, 3])[0][0, 4].tolist() == [0, 1] and states[0][0, 1, 0] == 2


@pytest.mark.parametrize("name", ["lion", "pvit", "lyrics", "lmeye"])
def test_explanations_are_json(server, name):
    """Guards: a tensor or NaN among the values; weights that do not fit their shape; points of a
    box that was not asked about."""
    status, text = request(server, "/explain", ASK | {"system": name, "prompt": BOX})
    found = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert status == 200 and found["side"] == 8 and found["tokens"]
    for one in found["maps"]:
        L, H, Q, N = one["shape"]
        assert len(one["weights"]) == L * H * Q * N and N == 64 and len(one["queries"]) == Q
    assert len(found["points"]) == bool(found["bins"])
    assert all(.1 < x < .5 and .2 < y < .6 for points in found["points"] for x, y in points)
    plain = json.loads(request(server, "/explain", ASK | {"system": name})[1])
    assert plain["points"] == []


def test_only_the_last_are_kept():
    """Guards: a day's pictures and features in memory."""
    session = Session(lambda name: pytest.fail("no system is needed"), "lion")
    for seed in range(40):
        shown = session.scene({"seed": seed})
    assert len(session.pictures) == 32 and shown["picture"] == 40 and shown["questions"]
    with pytest.raises(BadInput, match="no longer kept"):
        session.ask(ASK)


def test_a_port_that_is_taken(server, capsys, monkeypatch):
    """Guards: a traceback, or four models loaded before it."""
    monkeypatch.setattr(launch, "load", lambda *_: pytest.fail("the model was loaded"))
    assert command.main(["--port", str(server.server_port)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --port") and error.count("\n") == 1


# ---- a browser ------------------------------------------------------------------------------------

@pytest.fixture
def browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    browser = Browser(tmp_path / "profile")
    yield browser
    browser.close()


def figures(count: int, name: str = "lion") -> str:
    """True when a system's card has its details and a picture for each of `count` answers."""
    return (f"document.querySelector('#card-{name} details') && "
            f"document.querySelectorAll('#card-{name} > .pair figure').length === {count}")


def shot(browser, name: str) -> None:
    if folder := os.environ.get("PAGE_SHOTS"):
        browser.screenshot(Path(folder) / f"{name}.png")


def test_a_user_asks(server, browser, tmp_path):
    """Guards: a page that answers no drag, no keys, no own picture, no second question, or not at
    400 pixels; a fault of its script."""
    question = "document.getElementById('question').value"
    browser.size(1280)
    browser.call("Page.navigate", url=server.address)
    browser.wait(figures(1))
    shot(browser, "1-first")

    browser.drag("#picture", (.25, .25), (.3, .4), (.5, .75))                  # the mouse
    browser.wait(figures(2))                                                   # the first is beside
    numbers = [float(v) for v in re.findall(r"[\d.]+", browser.js(question))]
    assert numbers == pytest.approx([.25, .25, .5, .75], abs=.01)
    assert browser.js("document.querySelectorAll('#card-lion circle').length") == len(
        json.loads(request(server, "/explain", ASK | {"prompt": browser.js(question)})[1])["points"][0])
    scales = "[...document.querySelectorAll('#card-lion .scale')].length"
    assert browser.js(scales) == 1                                             # of both maps
    shot(browser, "2-box")

    browser.js("document.getElementById('new').focus()")                       # the keys alone
    for _ in range(8):
        if browser.js("document.activeElement.id") == "picture":
            break
        browser.key("Tab")
    browser.key("ArrowRight", times=2)
    browser.key("ArrowDown", shift=True)
    moved = [float(v) for v in re.findall(r"[\d.]+", browser.js(question))]
    steps = [2 / 64, 0, 2 / 64, 1 / 64]
    assert moved == pytest.approx([n + s for n, s in zip(numbers, steps)], abs=.003)
    asked = "document.querySelector('#card-lion figcaption').textContent.replaceAll('\\u200b', '')"
    browser.key("Enter")
    browser.wait(f"({asked}).includes({question})")
    browser.key("Tab")
    assert browser.js("document.activeElement.id") == "question"
    browser.js("document.activeElement.select()")
    browser.type("Where is the small triangle?")
    browser.key("Enter")
    browser.wait(f"({asked}).includes('triangle') && {figures(2)}")
    browser.key("Tab", times=2)                                                # past Ask
    browser.key("ArrowRight")                                                  # the next system
    browser.wait(figures(1, "pvit"))
    assert browser.js("document.querySelector('#card-lion')") is None
    shot(browser, "3-pvit")

    make_scene(WORLDS["medium"], "heldout", 3, 3).draw().resize((240, 120)).save(tmp_path / "own.png")
    browser.give("#file", tmp_path / "own.png")
    browser.wait("document.getElementById('picture').getAttribute('viewBox') === '0 0 1000 500'")
    browser.size(400)
    browser.click("input[value=all]")
    for name, _ in json.loads(browser.js("document.getElementById('about').textContent"))["systems"]:
        browser.wait(figures(1, name))
    assert browser.js("document.documentElement.scrollWidth") == 400
    shot(browser, "4-narrow-own")
    browser.click("input[value=hide]")
    browser.drag("#picture", (.05, .05), (.2, .05))                            # two patches
    browser.wait(figures(2, "lmeye"))
    assert "2 patches hidden" in browser.js("document.getElementById('card-lmeye').textContent")
    assert browser.js("document.documentElement.scrollWidth") == 400
    shot(browser, "5-narrow-hidden")

    browser.click("#question")
    browser.js("document.getElementById('question').value = 'describe box'")
    browser.click("#ask")
    browser.wait("document.getElementById('error').textContent.includes('needs a box')")
    assert [fault for fault in browser.faults if "400 (Bad Request)" not in fault] == []
