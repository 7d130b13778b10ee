# SPDX-License-Identifier: MIT
"""Runs unit tests, and counts what GoogleTest programs left behind. Runs inside the tree, called by tests/run.

results.py unit MESON_DIR RESULTS                  runs the unit tests of a build, and reports them
results.py job RESULTS STATUS NAME [AREA...]       reports how a job ended, and what the areas of a guest left in RESULTS/NAME
results.py total RESULTS                           prints the closing line; exit status 1 if anything failed, or nothing ran

A program that crashed, did not start or ran no test counts as one failed test.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

# Lines of a program's output that are shown when it ended without a result of its own.
TAIL = 60


class Totals:
    """Counts that are kept in a file between calls, some of which run at the same time."""

    def __init__(self, results):
        self.path = Path(results) / "totals.json"

    def read(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {"passed": 0, "failed": 0, "skipped": 0}

    def add(self, outcome):
        with open(self.path.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.path.write_text(json.dumps({name: count + outcome[name] for name, count in self.read().items()}))


def collect(result_file, log, status, may_be_empty):
    """The outcome of one GoogleTest program: counts, and texts for people."""
    outcome = {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0, "failures": [], "skips": [], "notes": []}
    try:
        data = json.loads(Path(result_file).read_text())
    except (OSError, json.JSONDecodeError):
        outcome["failed"] = 1
        outcome["failures"].append(("", f"ended without a result ({describe_status(status)}); the last lines of its output:\n{tail(log)}"))
        return outcome
    outcome["seconds"] = float(data["time"].rstrip("s"))
    for suite in data["testsuites"]:
        for test in suite["testsuite"]:
            name = f"{suite['name']}.{test['name']}"
            if test["status"] != "RUN":
                continue
            # RecordProperty("note ...")
            outcome["notes"] += [f"{name}: {key.removeprefix('note ')}: {value}" for key, value in test.items() if key.startswith("note ")]
            if "failures" in test:
                outcome["failed"] += 1
                outcome["failures"].append((name, "\n".join(failure["failure"] for failure in test["failures"])))
            elif test["result"] == "SKIPPED":
                outcome["skipped"] += 1
                outcome["skips"].append((name, skip_reason(test)))
            else:
                outcome["passed"] += 1
    ran = outcome["passed"] + outcome["failed"] + outcome["skipped"]
    if status != "0" and outcome["failed"] == 0:
        outcome["failed"] += 1
        outcome["failures"].append(("", f"{describe_status(status)}, though no test failed; the last lines of its output:\n{tail(log)}"))
    elif ran == 0 and not may_be_empty:
        outcome["failed"] += 1
        outcome["failures"].append(("", "ran no test"))
    return outcome


def skip_reason(test):
    # "file:line\nreason"
    texts = [entry["message"].split("\n", 1)[-1].strip() for entry in test.get("skipped", [])]
    return " ".join(texts) or "no reason given"


def describe_status(status):
    if status is None:
        return "it was never run to its end"
    code = int(status)
    return f"killed by signal {code - 128}" if code > 128 else f"exit status {code}"


def tail(log):
    try:
        lines = Path(log).read_text(errors="replace").splitlines()
    except OSError:
        return "        (none)"
    return "\n".join(f"        {line}" for line in lines[-TAIL:])


def report(label, outcome):
    counts = [f"{outcome[name]} {name}" for name in ("passed", "failed", "skipped") if outcome[name]]
    mark = "FAIL" if outcome["failed"] else "ok"
    print(f"  {mark:<5} {label:<44} {', '.join(counts) or 'no test'} ({outcome['seconds']:.1f} s)")
    for name, text in outcome["failures"]:
        print(f"        FAILED {name}")
        print("\n".join(f"        {line}" for line in text.splitlines()))
    for note in outcome.get("notes", []):
        print(f"        {note}")
    for name, reason in outcome["skips"]:
        print(f"        skipped {name}: {reason}")
    sys.stdout.flush()


def run_unit(meson_dir, results):
    folder = Path(results) / "unit"
    totals = Totals(results)
    tests = json.loads(subprocess.run(["meson", "introspect", "--tests", meson_dir], check=True, capture_output=True, text=True).stdout)
    for test in tests:
        # What needs hardware is in another suite, for machines that have it.
        if "unit" not in (suite.split(":")[-1] for suite in test["suite"]):
            continue
        name = test["name"]
        json_file, log = folder / f"{name}.json", folder / f"{name}.log"
        environment = os.environ | test["env"] | {"GTEST_OUTPUT": f"json:{json_file}", "GTEST_COLOR": "no"}
        start = time.monotonic()
        with open(log, "w") as output:
            process = subprocess.run(test["cmd"], cwd=test["workdir"], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        status = str(process.returncode if process.returncode >= 0 else 128 - process.returncode)
        if test["protocol"] == "gtest" or json_file.exists():
            outcome = collect(json_file, log, status, "GTEST_FILTER" in os.environ)
        else:
            # One that is no GoogleTest program: its exit status is its only result.
            outcome = {"passed": int(status == "0"), "failed": int(status != "0"), "skipped": 0, "seconds": time.monotonic() - start, "skips": [], "failures": []}
            if status != "0":
                outcome["failures"].append(("", f"{describe_status(status)}; the last lines of its output:\n{tail(log)}"))
        totals.add(outcome)
        report(f"unit: {name}", outcome)


def report_job(results, job_status, name, areas):
    folder = Path(results) / name
    totals = Totals(results)
    filtered = "GTEST_FILTER" in os.environ
    for area in areas:
        status_file = folder / f"{area}.status"
        status = status_file.read_text().strip() if status_file.exists() else None
        outcome = collect(folder / f"{area}.json", folder / f"{area}.log", status, filtered)
        totals.add(outcome)
        report(f"{name}: {area}", outcome)
    if job_status != "0":
        outcome = {"passed": 0, "failed": 1, "skipped": 0, "seconds": 0.0, "skips": []}
        outcome["failures"] = [("", f"it ended with exit status {job_status}:\n{tail(folder / 'job.log')}")]
        totals.add(outcome)
        report(f"{name}: the whole", outcome)


def print_total(results):
    counts = Totals(results).read()
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] or not counts["passed"] else 0


def main():
    command, *arguments = sys.argv[1:]
    if command == "unit":
        run_unit(*arguments)
    elif command == "job":
        report_job(arguments[0], arguments[1], arguments[2], arguments[3:])
    elif command == "total":
        return print_total(arguments[0])
    else:
        raise SystemExit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
