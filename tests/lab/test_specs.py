"""The grammar of `--optimizers`."""

import keyword
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradstep.lab.specs import NOT_WORDS, OptimizerSpec, parse_specs

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}(\.[a-z]{1,6})?", fullmatch=True)
keys = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda word: word not in NOT_WORDS and not keyword.iskeyword(word)
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
quoted = st.text(alphabet=string.ascii_letters + " ,:=()'\"", max_size=8)
values = st.recursive(
    numbers | st.booleans() | st.none() | words | quoted,
    lambda inner: st.tuples(inner, inner) | st.lists(inner, max_size=3),
    max_leaves=4,
)
specs = st.builds(
    lambda name, settings: OptimizerSpec(name, tuple(settings.items())),
    names,
    st.dictionaries(keys, values, max_size=3),
)


@example([OptimizerSpec("a", (("key", (None, ": ", ("x, y",))),))])
@settings(max_examples=60)
@given(st.lists(specs, min_size=1, max_size=4, unique_by=str))
def test_what_is_written_is_read_back(line_up):
    assert parse_specs(",".join(map(str, line_up))) == tuple(line_up)


def test_the_grammar_of_the_help():
    assert parse_specs("adamw,lion,sgd:lr=0.1,momentum=0.9") == (
        OptimizerSpec("adamw"),
        OptimizerSpec("lion"),
        OptimizerSpec("sgd", (("lr", 0.1), ("momentum", 0.9))),
    )
    assert parse_specs("AdamW:betas=(0.9, 0.95), amsgrad=True ,engine=eager, torch.adamw") == (
        OptimizerSpec("adamw", (("betas", (0.9, 0.95)), ("amsgrad", True), ("engine", "eager"))),
        OptimizerSpec("torch.adamw"),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "No optimizer given"),
        (" , ", "No optimizer given"),
        ("adamw,,lion", "Nothing between two commas"),
        ("lr=0.1", "before any optimizer"),
        ("adamw,lr=0.1", "write adamw:lr=0.1"),
        ("adamw:lr", "Invalid setting: 'lr' of 'adamw'"),
        ("adamw:lr=", "write key=value"),
        ("adamw:=3", "write key=value"),
        ("adamw:lr=0.1,lr=0.2", "given twice"),
        ("adamw:betas=(0.9,0.95", "Unbalanced"),
        ("adamw:betas=0.9)", "Unbalanced"),
        ("adamw:engine='eager", "Unbalanced"),
        ("adamw:amsgrad=true", "written True"),
        ("adamw:lr=1e-", "a Python literal"),
        ("adamw:lr=__import__('os')", "a Python literal"),
        ("adam w", "Invalid optimizer name: 'adam w'"),
        ("adamw,lion,adamw", "Given more than once: adamw"),
    ],
)
def test_what_is_wrong_is_named(text, says):
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        parse_specs(text)
