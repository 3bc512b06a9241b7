"""Compare gradstep with torch.optim on thousands of mutated parameters, gradients, states, groups and checkpoints.

Each case makes an optimizer, takes some steps, mutates something as a user might (or never should), and takes another
step. gradstep must then give the numbers of torch's class of the same name, or refuse as torch does, or differ in a
way that `tools/fuzzing/differences.py` lists. Where torch has no counterpart (8-bit state, clipping in the step), two
engines are compared. A step that raises must change nothing, and nothing may crash or hang.

    python tools/fuzz.py --cases 10000 --seed 0          # Ctrl-C ends it with the summary of what was done
    python tools/fuzz.py --seed 0 --case 123             # one case again, with all details
    PYTHONMALLOC=debug python tools/fuzz.py --cases 1000

Cases run in forked children, so that a crash ends only one child and is counted. A case that frees memory which torch
uses runs in its own child, since torch may write to the freed memory. After a crash, gradstep and torch run the case
alone, to see which of them crashes. The exit status is 1 if there is any finding.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import re
import selectors
import signal
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fuzzing.cases import SETTINGS, Case, case
from fuzzing.verdict import judge, run_ours, run_theirs

import gradstep

CHUNK = 200
"""Number of cases in one child; each child compiles the unusual kernels once."""

HAZARD = re.compile("freed|short of memory|resized")
"""Mutations of cases that run in their own child: torch may write beyond the remaining memory, which crashes a later
case."""

SLOW = (
    "gradstep.optimizers",
    "torch._subclasses.fake_tensor",
    "torch.distributed.tensor",
    "torch.masked",
    "torch.testing._internal.two_tensor",
)
"""Modules with a slow import, which happens once, before the children are forked."""

PATIENCE = 60.0
"""Seconds after which a case counts as hanging."""


def main() -> int:
    """Run the cases and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this one, here, and tell all")
    parser.add_argument("--out", type=Path, help="write every finding there, one JSON object a line")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in SLOW:
        importlib.import_module(name)
    if given.case is not None:
        return _run_single(given.seed, given.case)
    _warm_up()
    if given.cases >= 1000:
        _compile()
    results: list[dict[str, Any]] = []
    began = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        _run_all(given.seed, list(range(given.first, given.first + given.cases)), results, began)
    findings = [r for r in results if r["verdict"] in ("finding", "crash", "hang")]
    _summary(results, findings, given.seed, time.monotonic() - began)
    if given.out:
        given.out.write_text("".join(json.dumps(r) + "\n" for r in findings), encoding="utf-8")
    return 1 if findings else 0


def _warm_up() -> None:
    """Take a first step, so that children inherit its imports and compiled code (for torch, seconds)."""
    for kind in (torch.optim.AdamW, gradstep.AdamW):
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        kind([p]).step()


def _compile() -> None:
    """Compile the usual kernels, so that every child inherits them."""
    from gradstep.optimizers.state.storage import ENGINES, Storage, element_of
    from gradstep.rules import RULES

    for name, choices in SETTINGS.items():
        for settings in choices:
            rule = RULES[name](**settings)
            for state in ("float32", "bfloat16", "8bit") if rule.sees == "elements" else ():
                stored = Storage(state).of(rule, {}, torch.empty(64, 80), "w")
                ENGINES["fused"].prepare(stored.spec(rule, element_of(torch.float32)), watched=False)


def _run_single(seed: int, number: int) -> int:
    faulthandler.enable()
    this = case(seed, number)
    print(this)
    verdict, text = judge(this, lambda stage: print("…", stage, flush=True))
    print(verdict, text)
    return int(verdict == "finding")


def _run_all(seed: int, numbers: list[int], results: list[dict[str, Any]], began: float) -> None:
    hazards = [number for number in numbers if HAZARD.search(case(seed, number).kind)]
    numbers = sorted(set(numbers) - set(hazards))
    while numbers or hazards:
        chunk = numbers[:CHUNK] or hazards[:1]
        done = _run_child(seed, chunk, results)
        numbers, hazards = (numbers[done:], hazards) if numbers else ([], hazards[1:])
        counts = Counter(r["verdict"] for r in results)
        text = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        print(
            f"\r{len(results)} cases in {time.monotonic() - began:.0f} s: {text}  ", end="", file=sys.stderr, flush=True
        )


def _run_child(seed: int, chunk: list[int], results: list[dict[str, Any]]) -> int:
    """Run cases in a child until all are done or one ends the child; that case is the last of the results.

    Returns:
        Number of cases that ran.
    """
    world, stage = "ours", "construct"
    before = len(results)

    def take(message: Any) -> None:
        nonlocal world, stage
        if isinstance(message, dict):
            results.append(message)
            world = stage = "ours"
        elif message in ("ours", "theirs", "compare"):
            world = stage = message
        else:
            stage = message

    how, number = _run_forked(lambda tell: _work(seed, chunk, tell), take)
    done = len(results) - before
    if done == len(chunk):
        return done
    this = case(seed, chunk[done])
    results.append(_row(this, *_blame(this, how or "end", world, f"in {world}, at {stage} (signal {number})", stage)))
    return done + 1


def _blame(this: Case, how: str, world: str, where: str, stage: str) -> tuple[str, str]:
    """Return the verdict on a case that crashed or hung its child."""
    if stage in ("assign", "mutate") and not any(mutation[0] == "load" for mutation in this.mutations):
        return f"torch's own {how}", f"{how} {where}"  # the mutation itself did it

    def alone(tell: Callable[[Any], None], half: Callable[..., Any], attempt: int) -> None:
        # What lies beside the damaged memory decides whether it shows, and a forked child has its parent's addresses:
        # so every attempt takes other places.
        taken = [torch.empty(1 + 37 * attempt * k) for k in range(20)]
        for k in range(10):
            half(this, tell)
            taken.append(torch.empty(1 + attempt * k))
        del [torch.empty(size) for size in range(1, 16384, 4)][:]  # allocations crash on a damaged heap

    def crashes(half: Callable[..., Any]) -> bool:
        attempts = (partial(alone, half=half, attempt=attempt) for attempt in range(8))
        return any(_run_forked(attempt, lambda message: None)[0] for attempt in attempts)

    again = crashes(run_ours if world == "ours" else run_theirs)
    # Damage need not show again. No earlier case has done it in a child of its own, nor gradstep if it never crashes.
    if world != "ours" and this.torch and (again or (HAZARD.search(this.kind) and not crashes(run_ours))):
        return f"torch's own {how}", f"{how} {where}"
    return how, f"{how} {where}" + ("" if again else "; not again, alone: perhaps an earlier case is to blame")


def _run_forked(work: Callable[[Callable[[Any], None]], Any], take: Callable[[Any], None]) -> tuple[str, int]:
    """Run work in a forked child, and pass its messages to ``take``.

    Returns:
        "", ``"crash"`` or ``"hang"``; and the number of the signal that ended the child.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and ends this child
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # torch and glibc print warnings about the mutations
        try:
            work(lambda message: os.write(writer, json.dumps(message).encode() + b"\n"))
        finally:
            os._exit(0)
    os.close(writer)
    hung = True
    try:
        for message in _messages(reader):
            take(message)
        hung = False
    except TimeoutError:
        pass
    finally:
        if hung:
            os.kill(pid, signal.SIGKILL)
        number = os.WTERMSIG(os.waitpid(pid, 0)[1])
    return "hang" if hung else "crash" if number else "", number


def _messages(reader: int) -> Iterator[Any]:
    """Yield the messages of a child until it ends.

    Raises:
        TimeoutError: no message for PATIENCE seconds.
    """
    waiting = b""
    with selectors.DefaultSelector() as ready, os.fdopen(reader, "rb", buffering=0) as stream:
        ready.register(stream, selectors.EVENT_READ)
        while True:
            if not ready.select(PATIENCE):
                raise TimeoutError
            data = stream.read(65536)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            yield from map(json.loads, lines)


def _row(this: Case, verdict: str, text: str) -> dict[str, Any]:
    return {"number": this.number, "verdict": verdict, "text": text, "kind": this.kind, "optimizer": this.optimizer}


def _work(seed: int, chunk: list[int], tell: Callable[[Any], None]) -> None:
    for number in chunk:
        this = case(seed, number)
        try:
            verdict, text = judge(this, tell)
        except BaseException:
            verdict, text = "finding", "the tool itself: " + traceback.format_exc()[-600:]
        tell(_row(this, verdict, text))


def _summary(results: list[dict[str, Any]], findings: list[dict[str, Any]], seed: int, seconds: float) -> None:
    print(f"\n{len(results)} cases in {seconds:.0f} s, seed {seed}:")
    for verdict, count in Counter(r["verdict"] for r in results).most_common():
        print(f"  {count:6} {verdict}")
    listed = Counter(r["text"] for r in results if r["verdict"] == "difference")
    for name, count in listed.most_common():
        print(f"         {count:6} {name}")
    grouped: defaultdict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for r in findings:
        grouped[r["verdict"], r["kind"], r["text"][:80]].append(r)
    for (verdict, kind, _), members in sorted(grouped.items(), key=lambda item: (item[0][0], -len(item[1]))):
        print(f"{verdict} ×{len(members)}: {kind}: {members[0]['optimizer']}: {members[0]['text']}")
        print(f"    python tools/fuzz.py --seed {seed} --case {members[0]['number']}")


if __name__ == "__main__":
    sys.exit(main())
