"""What every test shares: the package's path, no network, and the official modules' values."""

import os
import socket
import sys
from pathlib import Path

import pytest

# Before torch is imported: idle OpenMP threads that spin starve the other process on two cores, and
# for models this small a second thread costs more than it brings (the suite: 163 s against 245).
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

# Stubs that students fill in. Named on the command line they are collected all the same:
# python -m pytest tests/exercises/test_router.py
collect_ignore = ["exercises"]

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_connect = socket.socket.connect


def _offline(self, address):
    """Sockets between processes of this machine pass; everything else is the network."""
    if self.family == getattr(socket, "AF_UNIX", None) or address[0] == "127.0.0.1":
        return _connect(self, address)
    raise OSError(f"a test tried to reach the network: {address}")


def _no_lookup(host, *rest, **options):
    raise OSError(f"a test tried to look up a name: {host}")


socket.socket.connect = socket.socket.connect_ex = _offline
socket.getaddrinfo = _no_lookup


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes tens of seconds")


def reference_path(name: str) -> Path:
    """$LION_MIN_REFERENCE/{name}.safetensors when that is set, else tests/reference/."""
    folder = os.environ.get("LION_MIN_REFERENCE") or Path(__file__).parent / "reference"
    return Path(folder) / f"{name}.safetensors"


@pytest.fixture(scope="session")
def reference():
    """reference("pvit") -> the official module's tensors by name: weights/*, in/*, out/*."""
    from safetensors.torch import load_file
    return lambda name: load_file(reference_path(name))


@pytest.fixture(scope="session")
def reference_metadata():
    """reference_metadata("pvit") -> the file's metadata, sizes and settings as JSON strings."""
    from safetensors import safe_open

    def read(name: str) -> dict[str, str]:
        with safe_open(reference_path(name), "pt") as file:
            return file.metadata() or {}
    return read


@pytest.fixture
def field(tmp_path):
    """A folder with the pictures and instances that the field's formats name."""
    from field_files import pictures
    return pictures(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """OUT with stage 0 and every system's stages after a few steps: few_steps.Trained."""
    from few_steps import Trained
    return Trained(tmp_path_factory.mktemp("trained"))
