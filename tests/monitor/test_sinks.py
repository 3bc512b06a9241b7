"""Where numbers go: read back from TensorBoard, from stand-ins for the trackers, from the screen and from the page."""

import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from gradstep.monitor import (
    Group,
    Header,
    Html,
    Numbers,
    ParameterInfo,
    PerParameter,
    TensorBoard,
    Terminal,
    Trackio,
    Update,
    WandB,
)
from gradstep.monitor.record import Run, reading
from gradstep.monitor.report import draw_run, write_run_report
from gradstep.monitor.view import view
from gradstep.report.scales import thin
from gradstep.report.words import sparkline
from tests.pages import check_page, lines, words

HEADER = Header(
    "AdamW",
    "gradstep",
    "AdamW",
    groups=(Group("decay", {"lr": 0.1}), Group("<rest>", {"lr": 0.2})),
    parameters=(ParameterInfo("w", (2, 3), "float32", 0), ParameterInfo("b</script>", (3,), "float32", 1)),
    unregistered=(ParameterInfo("head.weight", (1, 3), "float32", None, module="Linear"),),
    planned_updates=10,
    started="2026-01-02T03:04:05+00:00",
)


def column(*values):
    return np.array(values, dtype=np.float32)


def update(number, *, grad=3.0, loss: float | None = 0.5, **known):
    groups = (
        Numbers(lr=0.1, elements=6, grad_norm=grad, weight_norm=4.0, update_norm=0.004, unmoved=1, non_finite=0),
        Numbers(lr=0.2, elements=3, grad_norm=4.0, weight_norm=3.0, update_norm=0.003, unmoved=2, non_finite=0),
    )
    return Update(number, 1e9 + number, **{"loss": loss, "groups": groups, "clip": 0.5, "seconds": 0.01, **known})


PARAMETERS = PerParameter(np.array([0, 1], np.int32), column(3, 4), *[column(1, 2) for _ in range(6)])
UPDATES = (
    update(0, parameters=PARAMETERS),
    update(1, skipped="the gradient of w is not finite", culprit="w"),
    update(1, loss=float("nan"), parameters=PARAMETERS),
    Update(1, 1e9, extra={"accuracy": 0.75}),
)


def fill(sink):
    sink.open(HEADER)
    for one in UPDATES:
        sink.write(one)
    sink.open(HEADER)  # as when a group is added
    sink.close()
    sink.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorBoard's own imports
def test_tensorboard(tmp_path):
    fill(TensorBoard(tmp_path))
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()
    norms = [(e.step, e.value) for e in found.Scalars("monitor/grad_norm")]
    assert norms == [(0, 5.0), (1, 5.0), (1, 5.0)]
    assert [e.value for e in found.Scalars("monitor/lr/<rest>")] == pytest.approx([0.2] * 3)
    assert [e.value for e in found.Scalars("monitor/grad_norm/w")] == [3.0, 3.0]
    assert [(e.step, e.value) for e in found.Scalars("monitor/accuracy")] == [(1, 0.75)]
    assert [e.step for e in found.Scalars("monitor/skipped")] == [1]


class FakeRun:
    """What both trackers' runs have in common, and what W&B's has besides."""

    def __init__(self):
        self.logged, self.metrics, self.settings, self.finished = [], {}, {}, 0
        self.config = SimpleNamespace(update=self.configure)

    def log(self, values, step=None):
        self.logged.append((step, values))

    def define_metric(self, name, step_metric=None):
        self.metrics[name] = step_metric

    def configure(self, values, *, allow_val_change):
        assert allow_val_change
        self.settings.update(values)

    def finish(self):
        self.finished += 1


@pytest.fixture
def library(monkeypatch):
    """A module that stands for a tracker; its init() remembers what it was given."""
    run, given = FakeRun(), {}

    def init(**settings):
        given.update(settings)
        return run

    module = SimpleNamespace(init=init, run=run, given=given)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setitem(sys.modules, "trackio", module)
    return module


def test_weights_and_biases(library):
    fill(WandB(project="mine", mode="offline"))
    assert library.given == {"project": "mine", "mode": "offline"}
    assert library.run.metrics == {"monitor/update": None, "monitor/*": "monitor/update"}
    assert library.run.settings["gradstep"]["optimizer"] == "gradstep.AdamW"
    assert library.run.settings["gradstep"]["parameters"] == 9
    assert [values["monitor/update"] for _, values in library.run.logged] == [0, 1, 1, 1]
    assert library.run.logged[0][1]["monitor/grad_norm"] == 5.0
    assert library.run.logged[3][1] == {"monitor/update": 1, "monitor/accuracy": 0.75}
    assert library.run.finished == 1


def test_trackio(library):
    fill(Trackio(project="mine"))
    assert library.given["project"] == "mine"
    assert library.given["config"]["gradstep"]["planned_updates"] == 10
    assert [step for step, _ in library.run.logged] == [0, 1, 1, 1]
    assert library.run.logged[0][1]["monitor/lr/decay"] == 0.1
    assert library.run.finished == 1


@pytest.mark.parametrize("kind", [WandB, Trackio])
def test_a_run_of_the_users_own_stays_open(library, kind):
    own = FakeRun()
    fill(kind(own))
    assert len(own.logged) == 4
    assert own.finished == 0
    assert library.given == {}
    with pytest.raises(ValueError, match="project would be lost"):
        kind(own, project="mine")


@pytest.mark.parametrize(
    ("module", "make"),
    [
        ("wandb", WandB),
        ("trackio", Trackio),
        ("rich.console", Terminal),
    ],
)
def test_what_is_not_installed_is_named_at_once(monkeypatch, module, make):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install"):
        make()


def test_tensorboard_is_named_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(f"{TensorBoard.__module__}.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install"):
        TensorBoard(tmp_path)


# -- the screen ----------------------------------------------------------------------------------------------------


def shown(run, width=130):
    console = Console(file=io.StringIO(), width=width)
    console.print(view(run, width))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_view_tells_the_last_numbers():
    text = shown(Run((HEADER,), UPDATES[:3]))
    assert "gradstep.AdamW" in text
    assert "2 of 10 updates (20%), 1 a second, 8 s to go" in text
    assert re.search(r"Gradient norm, before clipping +5 +\S+ +5 +5 +healthy: 0.1 to 10", text)
    assert re.search(r"Loss +nan .*not finite", text)
    assert re.search(r"Unmoved by rounding +33.3 %", text)
    assert "1 skipped; the last at update 1: the gradient of w is not finite" in text
    assert "not in the optimizer: 1 parameter (head.weight)" in text


def test_the_view_fits_a_narrow_terminal():
    run = Run((HEADER,), tuple(update(n, grad=float(n)) for n in range(200)))
    assert max(map(len, shown(run, 80).splitlines())) <= 80
    assert "lowest" not in shown(run, 80)
    assert "lowest" in shown(run, 130)


def test_the_view_before_the_first_update():
    assert "no update yet" in shown(Run((HEADER,), ()))


def test_the_terminal_draws_once_in_a_log():
    console = Console(file=io.StringIO(), width=130)
    fill(Terminal(console=console))
    file = console.file
    assert isinstance(file, io.StringIO)
    assert file.getvalue().count("Gradient norm") == 1


def test_the_terminal_draws_anew_on_a_screen():
    console = Console(file=io.StringIO(), width=130, force_terminal=True)
    terminal = Terminal(seconds=1e-9, console=console)
    terminal.open(HEADER)
    for number in range(50):
        terminal.write(update(number))
        if number == 19:
            terminal.flush()
    terminal.close()
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "20 of 10" in file.getvalue()  # while it ran
    assert "50 of 10" in file.getvalue()
    with pytest.raises(ValueError, match="Invalid seconds"):
        Terminal(seconds=0.0)


def test_courses_in_letters():
    assert sparkline([0, 7, 0]) == "▁█▁"
    assert sparkline([1, 10, 100], log=True) == "▁▅█"  # by its logarithm: 3.5 rounds to even
    assert sparkline([1, 1]) == "▁▁"
    assert sparkline([7, 7], low=0.0) == "██"
    spiky = [0.0] * 1000
    spiky[501] = 1.0
    assert sparkline(spiky).count("█") == 1


@pytest.mark.parametrize(
    ("name", "value", "alarm"),
    [
        ("grad_norm", 0.1, "good"),
        ("grad_norm", 10.0, "good"),
        ("grad_norm", 10.1, "notable"),
        ("grad_norm", 0.01, "notable"),
        ("grad_norm", 100.5, "bad"),
        ("update_ratio", 1e-3, "good"),
        ("update_ratio", 0.5, "notable"),
        ("unmoved_share", 0.7, "bad"),
        ("unmoved_share", 0.01, ""),
        ("loss", float("inf"), "bad"),
        ("loss", 1e6, ""),
    ],
)
def test_readings(name, value, alarm):
    assert reading(name, value)[1] == alarm


# -- the page ------------------------------------------------------------------------------------------------------


def test_the_page_holds_every_chart_and_number(tmp_path):
    page = tmp_path / "folder" / "report.html"
    sink = Html(page)
    fill(sink)
    text = page.read_text(encoding="utf-8")
    found = check_page(text)
    assert list(found) == ["Loss", "Learning rate", "Gradient norm, before clipping"]
    assert text.index('class="verdict') < text.index('class="cards"')
    loss, _, norm = draw_run(Run((HEADER,), tuple(update for update in UPDATES if update.groups)))
    drawn = {line.name: line for line in norm.lines}
    assert (drawn["all"].x, drawn["all"].y) == ([0, 1], [5.0, 5.0])
    assert drawn["decay"].y == [3.0, 3.0]
    assert norm.marks == [(1.0, "skipped")]
    assert [(level.value, level.high, level.text) for level in norm.levels] == [
        (0.1, 10.0, "healthy: 0.1 to 10"),
        (100.0, None, "alarming: over 100"),
    ]
    assert {"skipped", "healthy: 0.1 to 10", "alarming: over 100", "update", "norm"} <= set(words(found[norm.title]))
    assert loss.lines[0].y[0] == 0.5
    assert loss.marks == [(1.0, "not finite")]
    assert [len(points) for points in lines(found["Loss"]).values()] == []  # a single point is a dot
    assert "b&lt;/script&gt;" in text  # a name is text, whatever it holds
    assert "&lt;rest&gt;" in text
    assert "the gradient of w is not finite" in text
    assert "head.weight" in text


def test_a_long_run_keeps_its_spike():
    values = [1.0] * 50_000
    values[31_415] = 99.0
    values[27_182] = float("nan")
    kept = thin(values, 1_000)
    assert len(kept) < 2_100
    assert {0, 27_182, 31_415, 49_999} <= set(kept)


def constant(update):
    groups = tuple(Numbers(lr=1e-3, elements=2, grad_norm=1.0, weight_norm=2.0, update_norm=0.1) for _ in HEADER.groups)
    return Update(update, 0.0, loss=1.0 / (1 + update), groups=groups)


def test_a_constant_has_no_chart_but_the_learning_rate(tmp_path):
    page = write_run_report(Run((HEADER,), tuple(map(constant, range(30)))), tmp_path / "page.html")
    found = check_page(page.read_text(encoding="utf-8"))
    assert list(found) == ["Loss", "Learning rate", "Gradient norm, before clipping"]
    rate = found["Learning rate"]
    plot = next(element for element in rate.iter() if element.get("class") == "plot")
    (line,) = lines(rate).values()
    assert {y for _, y in line} == {float(plot.attrib["height"]) / 2}  # in the middle, between 0 and 0.002
    assert {"0", "0.001", "0.002"} <= set(words(rate))


def test_a_page_without_an_update(tmp_path):
    assert check_page(write_run_report(Run((HEADER,), ()), tmp_path / "a.html").read_text(encoding="utf-8")) == {}


def test_a_page_replaces_no_record(tmp_path):
    record = tmp_path / "monitor.jsonl"
    record.write_text("a record\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"needs the ending \.html"):
        write_run_report(Run((HEADER,), ()), record)
    assert record.read_text(encoding="utf-8") == "a record\n"
