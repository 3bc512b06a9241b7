"""Hold gradstep against torch.optim on thousands of mutated parameters, gradients, states, groups and checkpoints.

Each case makes an optimizer, takes some steps, does something to it that a user might do (or nobody should), and steps
again. gradstep must then give the numbers of torch's class of the same name, or refuse as torch does, or differ in a
way that is listed (`tools/fuzzing/differences.py`). Where torch has no counterpart (8-bit state, clipping in the step),
two engines are compared. A step that raises must have changed nothing, and nothing may crash or hang.

    python tools/fuzz.py --cases 10000 --seed 0          # Ctrl-C ends it with the summary of what was done
    python tools/fuzz.py --seed 0 --case 123             # one case again, told in full
    PYTHONMALLOC=debug python tools/fuzz.py --cases 1000

Cases run in forked children: one that dies kills nothing but itself, and is counted. What takes memory away from under
torch runs in a child of its own, as torch may write where that memory was; and whether gradstep or torch is to blame
for a death is tried out, with the one or the other alone. The exit status is 1 if there is any finding.
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
from pathlib import Path
from typing import Any

import torch
from fuzzing.cases import SETTINGS, Case, case
from fuzzing.verdict import judge, run_ours, run_theirs

import gradstep

CHUNK = 200
"""Cases of one child: a kernel that is not among the usual is compiled once in each."""

HAZARD = re.compile("freed|short of memory|resized")
"""What is done in cases that get a child of their own: torch may write beyond the memory that is left, which kills
whoever comes next."""

SLOW = (
    "gradstep.optimizers",
    "torch._subclasses.fake_tensor",
    "torch.distributed.tensor",
    "torch.masked",
    "torch.testing._internal.two_tensor",
)
"""Modules that take long to import: once, before the children are forked."""

PATIENCE = 60.0
"""Seconds after which a case counts as hanging."""


def main() -> int:
    """Run the cases, and print what was found."""
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
        return _alone(given.seed, given.case)
    _warm_up()
    if given.cases >= 1000:
        _compile()
    results: list[dict[str, Any]] = []
    began = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        _all(given.seed, list(range(given.first, given.first + given.cases)), results, began)
    findings = [r for r in results if r["verdict"] in ("finding", "crash", "hang")]
    _summary(results, findings, given.seed, time.monotonic() - began)
    if given.out:
        given.out.write_text("".join(json.dumps(r) + "\n" for r in findings), encoding="utf-8")
    return 1 if findings else 0


def _warm_up() -> None:
    """Import and compile what the first step of an optimizer needs, which every child then has: seconds, of torch."""
    for kind in (torch.optim.AdamW, gradstep.AdamW):
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        kind([p]).step()


def _compile() -> None:
    """Compile the usual kernels, which every child then has."""
    from gradstep.optimizers.state.storage import ENGINES, Storage
    from gradstep.rules import RULES

    for name, choices in SETTINGS.items():
        for settings in choices:
            rule = RULES[name](**settings)
            for state in ("float32", "bfloat16", "8bit") if rule.elementwise else ():
                stored = Storage(state).of(rule, {}, torch.empty(64, 80), "w")
                ENGINES["fused"].prepare(stored.spec(rule, torch.float32))


def _alone(seed: int, number: int) -> int:
    faulthandler.enable()
    this = case(seed, number)
    print(this)
    verdict, text = judge(this, lambda stage: print("…", stage, flush=True))
    print(verdict, text)
    return int(verdict == "finding")


def _all(seed: int, numbers: list[int], results: list[dict[str, Any]], began: float) -> None:
    hazards = [number for number in numbers if HAZARD.search(case(seed, number).kind)]
    numbers = sorted(set(numbers) - set(hazards))
    while numbers or hazards:
        chunk = numbers[:CHUNK] or hazards[:1]
        done = _child(seed, chunk, results)
        numbers, hazards = (numbers[done:], hazards) if numbers else ([], hazards[1:])
        counts = Counter(r["verdict"] for r in results)
        told = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        print(
            f"\r{len(results)} cases in {time.monotonic() - began:.0f} s: {told}  ", end="", file=sys.stderr, flush=True
        )


def _child(seed: int, chunk: list[int], results: list[dict[str, Any]]) -> int:
    """Run cases in a child until all are done or one kills it; that one is the last of the results.

    Returns:
        How many were run.
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

    how, number = _forked(lambda tell: _work(seed, chunk, tell), take)
    done = len(results) - before
    if done == len(chunk):
        return done
    this = case(seed, chunk[done])
    results.append(_row(this, *_blame(this, how or "end", world, f"in {world}, at {stage} (signal {number})", stage)))
    return done + 1


def _blame(this: Case, how: str, world: str, where: str, stage: str) -> tuple[str, str]:
    """The verdict on a case that has killed its child, or has hung."""
    if stage in ("assign", "mutate") and not any(mutation[0] == "load" for mutation in this.mutations):
        return f"torch's own {how}", f"{how} {where}"  # the mutation itself has done it
    half = run_ours if world == "ours" else run_theirs

    def alone(tell: Callable[[Any], None]) -> None:
        for _ in range(10):
            half(this, tell)
        del [torch.empty(size) for size in range(1, 16384, 4)][:]  # which trips over a damaged heap

    again = any(_forked(alone, lambda message: None)[0] for _ in range(3))
    if world != "ours" and this.torch and again:
        return f"torch's own {how}", f"{how} {where}"
    return how, f"{how} {where}" + ("" if again else "; not again, alone: perhaps an earlier case is to blame")


def _forked(work: Callable[[Callable[[Any], None]], Any], take: Callable[[Any], None]) -> tuple[str, int]:
    """Run some work in a child, and take what it tells.

    Returns:
        Nothing, ``"crash"`` or ``"hang"``; and the number of the signal that ended it.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and ends this
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # torch and glibc comment on what is done to them
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
    """What a child tells, until it ends.

    Raises:
        TimeoutError: it has told nothing for long.
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
