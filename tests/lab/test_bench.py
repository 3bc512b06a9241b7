"""The benchmark: that it measures what it says. How long anything takes is not tested."""

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gradstep.cli import app
from gradstep.lab import bench, bench_busy
from gradstep.lab.bench_chart import check_chart, save_chart
from gradstep.lab.bench_memory import traffic
from gradstep.lab.bench_table import markdown

TINY = (bench.Work("one of 48", 1, (48,)), bench.Work("four of 3×2", 4, (3, 2)), bench.Work("three of 1", 3, (1,)))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 16, 48, 16 * 1_001])
def test_the_memory_kernel_adds_once_everywhere(threads, length):
    p, g, m, v = (torch.randn(length) for _ in range(4))
    before = [t.clone() for t in (p, g, m, v)]
    go = traffic(p, g, m, v, threads=threads)
    go()
    assert torch.equal(g, before[1])
    for now, old in zip((p, m, v), (before[0], *before[2:])):
        assert torch.equal(now, old + g)
    go()
    assert torch.equal(p, (before[0] + g) + g)


def test_the_memory_kernel_stays_inside_its_arrays():
    wide = [torch.zeros(64) for _ in range(4)]
    p, g, m, v = (t[16:48] for t in wide)
    g.fill_(1)
    traffic(p, g, m, v, threads=2)()
    for t in wide:
        assert t.sum() == 32
        assert t[16:48].sum() == 32


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([torch.zeros(17)] * 4, "multiple of 16"),
        ([torch.zeros(16), torch.zeros(32), torch.zeros(16), torch.zeros(16)], "one length"),
        ([torch.zeros(16, dtype=torch.float64)] * 4, "float32"),
        ([torch.zeros(32)[::2]] * 4, "contiguous"),
    ],
)
def test_the_memory_kernel_refuses_what_it_cannot_do(tensors, says):
    with pytest.raises(ValueError, match=says):
        traffic(*tensors)


def test_every_case_and_rival_is_measured():
    ticks: list[str] = []
    chosen = bench.cases(bench.rule_names("all"), TINY)
    results = bench.run(chosen, 2, ticks.append)
    assert [row.title for row in results.rows] == [case.title for case in chosen]
    assert len(ticks) == sum(bench.repetitions(case, 2) for case in chosen)
    first, *_ = results.rows
    assert set(first.seconds) == {
        bench.OURS, bench.FUSED, bench.FOREACH, bench.DEFAULT, bench.MEMORY
    }  # fmt: skip
    for row, case in zip(results.rows, chosen):
        assert set(row.seconds) == set(case.rivals)
        assert {len(times) for times in row.seconds.values()} == {2}
        assert row.median(bench.OURS)
    names = {name.lower() for name in ("SGD", "Adagrad", "Adadelta", "RMSprop", "Adam", "Adamax", "NAdam", "RAdam")}
    assert {row.title.split(",")[0].lower() for row in results.rows if "AdamW" not in row.title} == names


def test_rivals_do_the_same_work():
    """Each step of a case moves the parameters as gradstep's own does, so that times compare like with like."""
    work = TINY[1]
    for case in bench.cases(bench.rule_names("all"), (work, work)):
        moved = {}
        for name, build in case.rivals.items():
            if name != bench.MEMORY:
                params = work.make()
                build(params)()
                moved[name] = torch.stack([p.detach() for p in params])
                assert not torch.equal(moved[name], torch.stack([p.detach() for p in work.make()]))
        for other in moved.values():
            torch.testing.assert_close(other, moved[bench.OURS])


def test_medians_and_ratios():
    row = bench.Row("title", 1, 1, {"gradstep": [2.0, 9.0, 1.0], "torch fused": [5.0, 3.0, 30.0]})
    assert row.median("gradstep") == 2.0
    assert row.ratio("torch fused") == 2.5
    assert row.median("memory") is None
    assert row.ratio("memory") is None


def test_the_results_are_read_back_and_shown(tmp_path):
    seconds = {"memory": [0.019], "gradstep": [0.02], "torch fused": [0.021], "torch default": [0.2]}
    row = bench.Row("AdamW, one tensor", 1, 25, seconds)
    results = bench.Results({"processor": "P", "torch threads": "2", "torch": "2"}, "2026-01-01", 0.1, [row])
    results.save(tmp_path / "new" / "bench.json")
    assert bench.Results.load_from(tmp_path / "new" / "bench.json") == results
    line = markdown(results).splitlines()[-1]
    assert line == (
        "| AdamW, one tensor | 20.0 ms | 21.0 ms | – | 200 ms | 1.05× | – | 10.0× | 95.0 % |"
    )  # fmt: skip
    assert save_chart(results, tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "WORKS", TINY)
    json_file, chart = tmp_path / "bench.json", tmp_path / "bench.svg"
    words = ["bench", "--quick", "--rules", "sgd", "--json", str(json_file), "--chart", str(chart)]
    ran = CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert ran.exit_code == 0, ran.output
    for word in ("AdamW, one of 48", "AdamW and clipping", "SGD, momentum 0.9", "of memory speed", str(chart)):
        assert word in ran.output
    rows = json.loads(json_file.read_text(encoding="utf-8"))["rows"]
    assert all(math.isfinite(s) for row in rows for times in row["seconds"].values() for s in times)
    assert chart.is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rules", "adamv"], "adamv"),
        (["--rules", "lion"], "lion"),
        (["--chart", "x.xyz"], "png"),
        (["--repeat", "0"], "--repeat"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(words, says):
    refused = CliRunner().invoke(app, ["bench", *words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert refused.exit_code == 2
    assert says in refused.output


def test_chart_formats():
    check_chart(Path("chart.PNG"))
    with pytest.raises(ValueError, match="png"):
        check_chart(Path("chart"))


def test_neighbours_do_not_count_our_own_work(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    monkeypatch.setattr(bench_busy, "STAT", stat)
    assert bench_busy.Neighbours().share() is None  # not Linux
    stat.write_text("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 0", encoding="ascii")
    neighbours = bench_busy.Neighbours()
    stat.write_text("cpu  0 0 0 900000 900000 0 0 0 900000 0\ncpu0 0", encoding="ascii")
    assert neighbours.share() == 0  # idle, waiting, guests
    stat.write_text("cpu  900000 0 0 0 0 0 0 0 0 0\ncpu0 0", encoding="ascii")
    assert neighbours.share() == 1
