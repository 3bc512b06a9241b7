"""The record on disk: what is written is read, also while it grows, and nothing else is taken for a record."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradstep.monitor.lines import RECORD_FORMAT, Reader, decode_entry, encode_entry, read_run
from gradstep.monitor.record import Group, Header, Numbers, ParameterInfo, PerParameter, Update

HEADER = Header(
    "AdamW",
    "torch",
    None,
    groups=(Group("decay", {"lr": 0.1, "betas": [0.9, 0.999], "foreach": None}), Group("rest", {})),
    parameters=(
        ParameterInfo("w", (2, 3), "float32", 0, module="Linear"),
        ParameterInfo("b", (), "bfloat16", 1, False),
    ),
    unregistered=(ParameterInfo("x", (4,), "float32", None),),
    planned_updates=10,
    schedule="cosine",
)

numbers = st.none() | st.floats(width=32) | st.floats()
rows = st.builds(
    Numbers,
    lr=numbers,
    betas=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
    elements=st.integers(0, 2**40),
    grad_norm=numbers,
    unmoved=st.none() | st.integers(0, 2**40),
    root_min=numbers,
)
updates = st.builds(
    Update,
    st.integers(0, 10**9),
    st.floats(0, 2e9),
    loss=numbers,
    groups=st.lists(rows, min_size=1, max_size=3).map(tuple),
    clip=numbers,
    skipped=st.text(max_size=5),
    culprit=st.none() | st.just("NaN") | st.text(max_size=5),
    micro_batches=st.none() | st.integers(1, 100),
    extra=st.dictionaries(st.text(max_size=5), st.floats(), max_size=2),
)


def same(a, b):
    """Equal, where NaN equals NaN."""
    return repr(a) == repr(b)


@given(updates)
def test_what_is_written_is_read(update):
    line = encode_entry(update)
    assert "\n" not in line
    assert "NaN," not in line.replace('"NaN"', "")  # strict JSON has no such number
    assert same(decode_entry(line), update)


def test_a_header_is_read_as_it_was_written():
    assert decode_entry(encode_entry(HEADER)) == HEADER


@given(st.lists(st.floats(width=32), min_size=7, max_size=7), st.integers(0, 5))
def test_columns_of_parameters_come_back_bit_for_bit(values, count):
    columns = PerParameter(
        np.arange(count, dtype=np.int32), *[np.full(count, value, dtype=np.float32) for value in values]
    )
    back = decode_entry(encode_entry(Update(1, 2.0, parameters=columns)))
    assert isinstance(back, Update)
    assert back.parameters is not None
    for name in PerParameter.__dataclass_fields__:
        read, written = getattr(back.parameters, name), getattr(columns, name)
        assert read.dtype == written.dtype
        assert read.tobytes() == written.tobytes()


def test_global_numbers_follow_from_the_groups():
    """3-4-5: norms add as squares, counts add, a range is the widest."""
    groups = (
        Numbers(elements=10, grad_norm=3.0, weight_norm=4.0, update_norm=0.3, unmoved=1, root_min=0.5, root_max=1.0),
        Numbers(elements=30, grad_norm=4.0, weight_norm=3.0, update_norm=0.4, unmoved=3, root_min=0.1, root_max=0.2),
        Numbers(lr=0.1),
    )
    update = Update(0, 0.0, groups=groups)
    assert (update.grad_norm, update.weight_norm, update.update_norm) == (5.0, 5.0, 0.5)
    assert update.update_ratio == pytest.approx(0.1)
    assert update.unmoved_share == pytest.approx(0.1)
    assert (update.root_min, update.root_max, update.elements) == (0.1, 1.0, 40)
    assert groups[2].update_ratio is None
    assert Update(0, 0.0).grad_norm is None


def lines(*entries):
    return "".join(encode_entry(entry) + "\n" for entry in entries)


def update(number, **known):
    return Update(number, 0.0, groups=(Numbers(lr=0.1),), **known)


def test_a_last_line_that_was_cut_off_waits_for_its_rest(tmp_path):
    path = tmp_path / "monitor.jsonl"
    whole = lines(HEADER, update(0), update(1))
    path.write_text(whole[:-20])
    reader = Reader(tmp_path)
    assert [u.update for u in reader.read().updates] == [0]
    path.write_text(whole + lines(update(2)))
    assert [u.update for u in reader.read().updates] == [0, 1, 2]
    assert [u.update for u in read_run(path).updates] == [0, 1, 2]


def test_what_a_resume_made_void_is_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    again = Header("AdamW", "torch", None, HEADER.groups, HEADER.parameters, first_update=2)
    lost = (update(2, loss=7.0), update(3, skipped="nan"), update(3))
    path.write_text(lines(HEADER, update(0), update(1), *lost, again, update(2, loss=1.0)))
    run = read_run(path)
    assert [(u.update, u.loss) for u in run.updates] == [(0, None), (1, None), (2, 1.0)]
    assert run.header == again
    assert len(run.headers) == 2


def test_what_was_logged_later_is_added(tmp_path):
    path = tmp_path / "a.jsonl"
    notes = [Update(1, 5.0, loss=0.5), Update(1, 6.0, extra={"accuracy": 0.75})]
    path.write_text(lines(HEADER, update(0), update(1), *notes, update(2)))
    run = read_run(path)
    assert [u.loss for u in run.updates] == [None, 0.5, None]
    assert run.updates[1].extra == {"accuracy": 0.75}
    assert run.updates[1].groups


def test_skipped_updates_are_no_made_ones(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(HEADER, update(0), update(1, skipped="overflow"), update(1)))
    run = read_run(path)
    assert [u.skipped for u in run.updates] == ["", "overflow", ""]
    assert [u.update for u in run.made] == [0, 1]


def test_a_folder_of_records_names_them(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "monitor.jsonl").write_text(lines(HEADER))
    with pytest.raises(FileNotFoundError, match=r"no record of a monitor at .*; there is one in .*mine\)"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no record of a monitor yet"),
        ("step,loss\n1,2\n", "line 1: not a line of a monitor's record"),
        ('{"step": 1}\n', "line 1: not a line"),
        ("[1]\n", "line 1: not a line"),
        (lines(update(0)), "line 1: the first line of a record is its header"),
        (lines(HEADER) + "{}\n", "line 2: not a line"),
        (lines(HEADER).replace(f":{RECORD_FORMAT},", ":99,", 1), "written in version 99 of the format"),
        ("\udcff\n", "line 1"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_run(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"monitor\.jsonl"):
        read_run(tmp_path)


def test_infinite_losses_are_what_they_are(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines(HEADER, update(0, loss=math.inf), update(1, loss=-math.inf)))
    assert [u.loss for u in read_run(path).updates] == [math.inf, -math.inf]
