"""``tools/matrix``: try the rows one after the other, save each outcome, and write the table."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from tools.compatibility.environments import WORK, Environment, Unavailable, build_wheel, make_environment, processor
from tools.compatibility.process import Failed, run, show
from tools.compatibility.rows import PACKAGES, ROOT, Row, rows
from tools.compatibility.table import read_results, write_results

VERSIONS = f"""
import json, platform
from importlib.metadata import version
import gradstep, llvmlite.binding, numpy
print(json.dumps({{
    "python": platform.python_version(),
    "machine": platform.machine(),
    "llvm": ".".join(map(str, llvmlite.binding.llvm_version_info)),
    "installed": "site" in gradstep.__file__,
    **{{p: version(p) for p in {PACKAGES}}},
}}))
"""


def main() -> int:
    """Parse the command line and run it."""
    parser = argparse.ArgumentParser(prog="tools/matrix", description="try gradstep with other versions")
    parser.add_argument("names", nargs="*", metavar="ROW", help="a row's name, or how names begin (default: all)")
    parser.add_argument("--list", action="store_true", help="show the rows and stop")
    parser.add_argument("--table", action="store_true", help="only write the table, from the results that are there")
    parser.add_argument("--check", action="store_true", help="write nothing; the exit code is 1 if a row does not pass")
    parser.add_argument("--keep", action="store_true", help="keep the environments (up to 5 GB each)")
    arguments = parser.parse_args()
    every = rows()
    chosen = list({row.name: row for n in arguments.names or [""] for row in every if row.name.startswith(n)}.values())
    unknown = [n for n in arguments.names if not any(row.name.startswith(n) for row in every)]
    if unknown:
        parser.error(f"no row is called {', '.join(unknown)}; the rows are {', '.join(row.name for row in every)}")
    if arguments.list:
        for row in chosen:
            print(f"{row.name:16} {describe(row)}")
        return 0
    if arguments.table:
        write_results(read_results(), every)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: ends the processes of the row too
    try:
        return try_rows(chosen, every, keep=arguments.keep, check=arguments.check)
    except KeyboardInterrupt:
        show("\ninterrupted: the outcomes of finished rows are kept; name the others to go on")
        return 130


def try_rows(chosen: list[Row], every: list[Row], *, keep: bool, check: bool) -> int:
    """Try rows and save their outcomes; with ``check``, return 1 if a row does not pass and save nothing."""
    code = 0
    wheel = build_wheel(WORK / "wheel.log")
    for number, row in enumerate(chosen, 1):
        show(f"== {number}/{len(chosen)} {row.name}: {describe(row)}")
        folder = WORK / row.name
        try:
            outcome = try_row(row, wheel, folder)
            if not check:
                write_results({**read_results(), row.name: outcome}, every)
            elif outcome["outcome"] != "passes":
                code = 1
            show(f"   {outcome['outcome']}")
            for name in outcome.get("failures", ()):
                show(f"   FAILED {name}")
            if "passed" in outcome:
                show("{passed} passed, {failed} failed, {skipped} skipped".format(**outcome))
        finally:
            if not keep:
                show("   deleting the environment", stay=False)
                shutil.rmtree(folder / "environment", ignore_errors=True)
    return code


def describe(row: Row) -> str:
    """Return the description of a row in one line."""
    return f"Python {row.python}, {', '.join(f'{p} {row.versions[p]}' for p in PACKAGES)}, {row.machine}"


def try_row(row: Row, wheel: Path, folder: Path) -> dict[str, Any]:
    """Make the environment, run the tests, and return the outcome."""
    shutil.rmtree(folder, ignore_errors=True)
    outcome: dict[str, Any] = {
        "python": row.python,
        "machine": row.machine,
        **row.versions,
        "date": datetime.date.today().isoformat(),
        "processor": processor() if row.machine == platform.machine() else f"emulated on {processor()}",
    }
    try:
        environment = make_environment(row, wheel, folder / "environment", folder / "install")
        outcome |= versions(environment, folder)
        outcome |= test(row, environment, folder / "tests.log")
    except Unavailable as error:
        return outcome | {"outcome": "not tried", "why": str(error)}
    except Failed as error:
        show(str(error))
        return outcome | {"outcome": "fails", "why": str(error).partition(",")[0]}
    return outcome


def versions(environment: Environment, folder: Path) -> dict[str, Any]:
    """Return the versions that the environment really has."""
    log = folder / "versions.log"
    run("versions", [environment.python, "-c", VERSIONS], log, variables=environment.variables)
    installed: dict[str, Any] = json.loads(log.read_text(encoding="utf-8").strip().splitlines()[-1])
    if not installed.pop("installed"):
        raise Failed("gradstep was imported from the checkout instead of its wheel")
    return installed


def test(row: Row, environment: Environment, log: Path) -> dict[str, Any]:
    """Run the tests of a row and return pytest's result."""
    workers = "2" if row.machine == platform.machine() else "0"  # emulated, collecting in each worker is slow
    command: list[str | Path] = [environment.python, "-m", "pytest", "-q", "-n", workers, "--dist", "worksteal"]
    command += ["--maxfail", "100", "-m", "not slow", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=1500"]
    # Other versions have other warnings; warnings are errors only with the pinned versions, in `make test`.
    command += ["-o", "filterwarnings=default", "-W", "default", "--disable-warnings", *row.tests]
    code = run("testing", command, log, variables={**environment.variables, "CI": "1"}, limit=5400, check=False)
    text = log.read_text(encoding="utf-8", errors="replace")
    summary = next((line for line in reversed(text.splitlines()) if re.search(r"\d+ \w+.* in [\d.]+s", line)), "")
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", summary)}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    return {
        "outcome": "passes" if code == 0 else "fails",
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0),
        "skipped": counts.get("skipped", 0),
        "failures": failed[:5],
        "seconds": round(float(match[1])) if (match := re.search(r"in ([\d.]+)s", summary)) else None,
    }


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
