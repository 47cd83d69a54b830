"""The tables of README.md and RESULTS.md say what the logs say."""

import json

import pytest
from commands import call, refused

from lion_min.studies import claims, conditions, tables

MADE = tables.tables(tables.read_log()) | {
    "claims": claims.table(conditions.CLAIMS, claims.read_log(claims.LOG))}
SHOWN = {name: [text for path in (tables.README, tables.RESULTS)
                if (text := tables.between(path, name)) is not None] for name in MADE}


@pytest.mark.parametrize("name", MADE)
def test_a_table_is_made_from_its_log(name):
    """Guards: a figure in a document that no logged run gave; a figure that stands twice."""
    assert SHOWN[name] == [MADE[name]]


def test_a_table_is_replaced_between_its_marks(tmp_path):
    """Guards: text around a table that is lost."""
    path = tmp_path / "a.md"
    path.write_text("before\n<!-- one -->\nold\n<!-- end of one -->\nafter\n")
    assert tables.between(path, "one") == "old" and tables.between(path, "two") is None
    tables.between(path, "one", "| new |")
    assert path.read_text() == "before\n<!-- one -->\n| new |\n<!-- end of one -->\nafter\n"


def test_a_mean_is_of_the_seeds_and_a_floor_of_the_first(tmp_path):
    """Guards: a mean over the wrong rows; a score that was not taken shown as zero."""
    log = tables.read_log()
    counts = [e["scores"]["vqa_by_type"]["count"] for (system, stage, _), e in log.items()
              if (system, stage) == ("lmeye", "stage2")]
    line = next(r for r in MADE["seeds"].splitlines() if r.startswith("| LMEye, mean"))
    assert len(counts) == 3 and line.split(" | ")[4] == tables.digits(sum(counts) / 3)
    assert all(" | - | " in r for r in MADE["floors"].splitlines()[2:])     # unseen pairs


def test_a_log_of_something_else(tmp_path, capsys):
    """Guards: a traceback."""
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    refused(call(tables.main, capsys, "--log", tmp_path / "log.jsonl"), "line 1")
    refused(call(tables.main, capsys, "--log", tmp_path / "none.jsonl"), "--measure")
    (tmp_path / "log.jsonl").write_bytes(b"\x89PNG\r\n")
    refused(call(tables.main, capsys, "--log", tmp_path / "log.jsonl"), "line 1")
    lines = tables.LOG.read_text().splitlines()
    for changed, told in (("\n".join(lines[:3]), "no evaluation of pvit with the seed 7"),
                          (lines[0].replace('"system"', '"sytem"'), "line 1")):
        (tmp_path / "log.jsonl").write_text(changed)
        refused(call(tables.main, capsys, "--log", tmp_path / "log.jsonl"), told)
