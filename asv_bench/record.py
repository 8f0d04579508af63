"""Record benchmarks of commits in the history: ``python asv_bench/record.py MACHINE [COMMIT ...]``.

With ``--again`` nothing is recorded: the commits are measured a second time, and each figure is held against
the recorded one.

Figures from a machine that does something else are worth nothing, and those of uncommitted code cannot be had
again: both are refused. asv builds each commit in an environment of its own with the versions that
``asv.conf.json`` pins, so the names of files and series hold no path of this machine.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from memopt_ref.bench import agreement, gate, history
from memopt_ref.bench.machine import Quiet, describe

HERE = Path(__file__).resolve().parent
#: Times that a figure is measured again before two runs are said not to agree.
TRIES = 2
#: The regular expression of all benchmarks.
EVERYTHING = "."
#: Seconds during which nothing else may run, before anything is started.
WATCH = 3


def git(*arguments: str) -> str:
    """What git says."""
    command = ["git", "-C", str(HERE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def asv(*arguments: str) -> int:
    """Run asv in its folder; what it prints goes on."""
    return subprocess.run([sys.executable, "-m", "asv", *arguments], cwd=HERE).returncode  # noqa: S603


def busy() -> bool:
    """Whether something else ran during a few seconds."""
    quiet = Quiet()
    quiet()
    rounds = []
    for _ in range(WATCH * 4):
        time.sleep(0.25)
        rounds.append(quiet())
    return rounds.count(False) > 2


def introduce(machine: str) -> None:
    """Tell asv what this machine is, under a name that is not its host's."""
    about = describe()
    memory = next(
        (
            line.split()[1]
            for line in Path("/proc/meminfo").read_text().splitlines()
            if line.startswith("MemTotal")
        ),
        "0",
    )
    system, arch = str(about["system"]).rsplit(" ", 1)
    options = {
        "machine": machine,
        "os": system,
        "arch": arch,
        "cpu": str(about["processor"]),
        "num_cpu": str(about["cores"]),
        "ram": f"{round(int(memory) / 2**20)} GiB",
    }
    asv("machine", *(word for name, value in options.items() for word in (f"--{name}", value)))


def normalised(machine: str) -> list[str]:
    """What in the machine's results depends on where asv ran; empty if nothing does."""
    found = []
    for path in sorted((HERE / "results" / machine).glob("*.json")):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.name}: {word}" for word in (str(HERE), str(Path.home())) if word in text]
        record = json.loads(text)
        if str(record.get("params", {}).get("python", "")).startswith("/"):
            found.append(f"{path.name}: the interpreter's path")
    return found


def beside() -> Path:
    """asv's settings with another folder of results, beside the history; the environments are the same."""
    settings = json.loads((HERE / "asv.conf.json").read_text(encoding="utf-8"))
    settings |= {"repo": str(HERE.parent), "results_dir": "results", "html_dir": "html"}
    settings |= {name: str(HERE / settings[name]) for name in ("benchmark_dir", "env_dir")}
    path = HERE / ".asv" / "again" / "asv.conf.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def figures(results: Path, machine: str, commit: str) -> dict[history.Key, float]:
    """What is recorded of a commit; empty if nothing is."""
    if not (results / machine).is_dir():
        return {}
    commits = [c for h in history.read(results) if h.machine == machine for c in h.commits]
    return {key: value for c in commits if c.hash == commit for key, value in c.values.items()}


def again(machine: str, commit: str, bench: str) -> list[agreement.Apart] | None:
    """Measure a commit once more: the figures that differ from the recorded ones; None if there are none.

    Benchmarks with a figure that differs are measured again before it is believed, each try against the
    recorded run.
    """
    settings, table = beside(), gate.read(HERE / "gate.json")
    held = figures(HERE / "results", machine, commit)
    second = measured(settings, machine, commit, bench)
    if bench != EVERYTHING:
        held = {key: value for key, value in held.items() if key in second}
    if not held or not second:
        return None
    apart = agreement.apart(held, second, table)
    for _ in range(TRIES):
        if not apart:
            break
        names = sorted({row.benchmark for row in apart})
        second = measured(settings, machine, commit, "|".join(rf"^{re.escape(n)}(\(|$)" for n in names))
        apart = agreement.apart({row[:2]: row.first for row in apart}, second, table)
    return apart


def measured(settings: Path, machine: str, commit: str, bench: str) -> dict[history.Key, float]:
    """A run beside the history."""
    results = settings.parent / "results"
    shutil.rmtree(results, ignore_errors=True)
    options = ("--config", str(settings), "--machine", machine, "--bench", bench, "--show-stderr")
    asv("run", *options, f"{commit}^!")
    return figures(results, machine, commit)


def agree(machine: str, commits: list[str], bench: str) -> int:
    """Say of each commit whether two runs agree; 0 if all do."""
    failed = 0
    for commit in commits:
        apart = again(machine, git("rev-parse", commit), bench)
        if apart is None:
            print(f"{commit}: nothing is recorded of it, or nothing could be measured", file=sys.stderr)
        else:
            print(*apart, f"{commit}: {len(apart)} figures of two runs do not agree", sep="\n")
        failed |= apart is None or bool(apart)
    return int(failed)


def main() -> int:
    """Record; 0 if all commits were, 2 if it was refused. With --again, 0 if two runs agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("machine", help="a lasting name, such as laptop-2core; not the host's")
    parser.add_argument("commits", nargs="*", default=["HEAD"], help="the commits, HEAD if none is named")
    parser.add_argument("--bench", default=EVERYTHING, help="a regular expression of benchmarks")
    parser.add_argument(
        "--again", action="store_true", help="hold a second run against what is recorded; record nothing"
    )
    given = parser.parse_args()
    if dirty := git("status", "--porcelain", "--untracked-files=no"):
        print(f"refused: uncommitted changes, which nobody could measure again:\n{dirty}", file=sys.stderr)
        return 2
    if busy():
        print(
            "refused: something else is running; a busy machine's figures are worth nothing", file=sys.stderr
        )
        return 2
    introduce(given.machine)
    if given.again:
        return agree(given.machine, given.commits, given.bench)
    failed = 0
    for commit in given.commits:
        one = git("rev-parse", commit) + "^!"
        # asv exits with 2 when a benchmark raised; its other figures are kept.
        failed |= asv("run", "--machine", given.machine, "--bench", given.bench, "--show-stderr", one)
    if odd := normalised(given.machine):
        print("\n".join(["these must not be committed:", *odd]), file=sys.stderr)
        return 1
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
