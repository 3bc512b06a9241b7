"""Records: written as JSON lines, read back the same."""

import json

import pytest

from gradstep.lab.results import (
    RESULTS_FILE,
    ContenderEntry,
    CurvePoint,
    RaceHeader,
    RunSummary,
    decode_record,
    encode_record,
    read_results,
    write_results,
)

HEADER = RaceHeader(
    task="ravine",
    contenders=(ContenderEntry("AdamW", "adamw", {"lr": "0.1"}),),
    steps=2,
    seeds=(0, 1),
    parameters=2,
    command="gradstep race ravine",
    started="2026-01-02T03:04:05+0000",
    machine={"cores": "2"},
)
POINT = CurvePoint("ravine", "AdamW", 0, 1, 0.25, 3.0, 2.5, None, (1.0, -2.0))
SUMMARY = RunSummary("ravine", "AdamW", 0, "finished", 2, 2.0, None, 0.5, 0.01, 0.001, 24, 2)


@pytest.mark.parametrize(("record", "kind"), [(HEADER, "header"), (POINT, "point"), (SUMMARY, "summary")])
def test_a_record_is_read_back_as_it_was(record, kind):
    line = encode_record(record)
    assert "\n" not in line
    assert json.loads(line)["record"] == kind
    assert decode_record(line) == record


def write(folder, *records) -> None:
    with write_results(folder) as writer:
        for record in records:
            writer(record)


def test_a_file_is_read_race_by_race_and_a_cut_line_is_left_out(tmp_path):
    write(tmp_path, HEADER, POINT, SUMMARY, HEADER, POINT)
    with (tmp_path / RESULTS_FILE).open("a") as file:
        file.write(encode_record(POINT)[:40])
    first, second = read_results(tmp_path)
    assert (first.header, first.points, first.summaries) == (HEADER, [POINT], [SUMMARY])
    assert (second.points, second.summaries) == ([POINT], [])


def test_each_record_is_on_disk_when_the_writer_returns(tmp_path):
    with write_results(tmp_path) as writer:
        writer(HEADER)
        assert decode_record((tmp_path / RESULTS_FILE).read_text()) == HEADER


def test_what_is_no_race_is_refused_with_its_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"No {RESULTS_FILE} in"):
        read_results(tmp_path)
    write(tmp_path, POINT)
    with pytest.raises(ValueError, match="line 1: a point before any header"):
        read_results(tmp_path)
    write(tmp_path)
    with pytest.raises(ValueError, match="holds no race"):
        read_results(tmp_path)
    for line in (
        "nonsense",
        '{"record": "other"}',
        '{"record": "header", "format": 99}',
        '{"record": "summary"}',
    ):
        (tmp_path / RESULTS_FILE).write_text(encode_record(HEADER) + "\n" + line + "\n")
        with pytest.raises(ValueError, match="line 2"):
            read_results(tmp_path)
