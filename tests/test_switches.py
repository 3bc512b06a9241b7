"""Switches in the environment: the words for on and off, and an error for any other."""

import os
import subprocess
import sys

import pytest

from gradstep.engines.cuda.engine import SWITCH
from gradstep.optimizers.state import engines
from gradstep.switches import is_switched_off


@pytest.mark.parametrize("word", ["0", "false", "False", " OFF ", "no"])
def test_words_for_off(word, monkeypatch):
    monkeypatch.setenv(SWITCH, word)
    cuda = engines.ENGINES_ON["cuda"]["fused"]
    with pytest.raises(RuntimeError, match=rf"{SWITCH}={word} switches"):
        cuda._find_driver_and_card(0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("word", [None, "", "1", "true", "ON", "yes"])
def test_words_for_on(word, monkeypatch):
    if word is None:
        monkeypatch.delenv(SWITCH, raising=False)
    else:
        monkeypatch.setenv(SWITCH, word)
    assert not is_switched_off(SWITCH)


def test_another_word_is_refused(monkeypatch):
    monkeypatch.setenv(SWITCH, "flase")
    with pytest.raises(ValueError, match=rf'Invalid {SWITCH}: "flase"; set it to one of 0, false, off, no to switch'):
        is_switched_off(SWITCH)


def test_the_loop_over_layouts_reads_its_switch_the_same_way():
    code = "from gradstep.optimizers.step import part; print(part.is_native())"
    output = {}
    for word in ("False", "flase"):
        child = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "GRADSTEP_NATIVE": word},
            capture_output=True,
            text=True,
            check=False,
        )
        output[word] = child.stdout.strip() or child.stderr.strip().splitlines()[-1]
    assert output["False"] == "False"
    assert output["flase"].startswith('ValueError: Invalid GRADSTEP_NATIVE: "flase"')
