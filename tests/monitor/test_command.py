"""``gradstep monitor``."""

import pytest
from typer.testing import CliRunner

from gradstep.cli import app
from gradstep.monitor.lines import encode_entry
from gradstep.monitor.record import Group, Header, Numbers, Update


@pytest.fixture
def record(tmp_path):
    header = Header("AdamW", "torch", None, (Group("all"),), ())
    updates = [Update(n, float(n), loss=1 / (1 + n), groups=(Numbers(lr=0.1, grad_norm=2.0),)) for n in range(3)]
    lines = [encode_entry(header), *map(encode_entry, updates)]
    (tmp_path / "monitor.jsonl").write_text("\n".join(lines) + '\n{"update":3,')  # still running
    return tmp_path


def test_a_running_record_is_shown(record):
    result = CliRunner().invoke(app, ["monitor", str(record)])
    assert result.exit_code == 0
    assert "torch.AdamW" in result.output
    assert "3 updates, 1 a second" in result.output
    assert "0.3333" in result.output


def test_the_page_is_written(record):
    page = record / "page.html"
    result = CliRunner().invoke(app, ["monitor", str(record / "monitor.jsonl"), "--html", str(page)])
    assert result.exit_code == 0
    assert "Gradient norm" in page.read_text(encoding="utf-8")


def test_following_needs_a_terminal(record):
    assert CliRunner().invoke(app, ["monitor", str(record), "--follow"]).exit_code == 0


@pytest.mark.parametrize("text", [None, "step,loss\n1,2\n"])
def test_something_else_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "monitor.jsonl").write_text(text)
    result = CliRunner().invoke(app, ["monitor", str(tmp_path)])
    assert result.exit_code == 2
    assert "monitor" in result.output
