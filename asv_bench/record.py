"""Record benchmarks of commits in the history: ``python asv_bench/record.py MACHINE [COMMIT ...]``.

Figures from a machine that does something else are worth nothing, and those of uncommitted code cannot be had
again: both are refused. asv builds each commit in an environment of its own with the versions that
``asv.conf.json`` pins, so the names of files and series hold no path of this machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from memopt_ref.bench.machine import Quiet, describe

HERE = Path(__file__).resolve().parent
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


def main() -> int:
    """Record; 0 if all commits were, 2 if it was refused."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("machine", help="a lasting name, such as laptop-2core; not the host's")
    parser.add_argument("commits", nargs="*", default=["HEAD"], help="the commits, HEAD if none is named")
    parser.add_argument("--bench", default=".", help="a regular expression of benchmarks")
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
