"""Training on a set larger than the memory that the process may have: refused in memory, done from the mapped cache and
by streaming; peak memory and images/s of each.

The limit is RLIMIT_DATA, set when everything is imported: what the process may allocate from then on (heap, tensors,
stacks). RLIMIT_AS would count the gigabytes of address space that torch's libraries map and never touch, and the mapped
cache, which the system takes back whenever it likes; RLIMIT_RSS does nothing on Linux; a cgroup needs root.

Prints the Markdown rows of docs/numbers.md, "Streaming". Needs WRN_SHARED (CIFAR-10) and Linux.
Usage: python benchmarks/streaming.py [PICTURES, 60000] [SIZE, 64] [LIMIT IN MB, 500] [EPOCHS, 1]
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from data import cifar10_as_png

from wideresnet import data, jobs, runs, runtime
from wideresnet.errors import DataError

CASES = (("memory", False), ("memory", True), ("disk", True), ("off", True), ("auto", True))  # (--cache, limited?)


def child(cache: data.Cache, size: int, limit_mb: int, epochs: int, place: tuple[str, str]) -> None:
    """One training under the limit; prints a line of JSON."""
    import matplotlib.pyplot  # noqa: F401 - what is imported late would count
    import sklearn.datasets  # noqa: F401

    if limit_mb:
        page = resource.getpagesize()
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * page
        resource.setrlimit(resource.RLIMIT_DATA, (used + limit_mb * 10**6,) * 2)
    folder, out = place
    said: list[str] = []
    result: dict[str, object] = {"outcome": "done"}
    try:
        options = {"size": size, "arch": "wrn_10_1", "epochs": epochs, "batch_size": 16}
        watch = runtime.Watch(line=said.append)
        run = jobs.train(folder, out=out, cache=cache, watch=watch, **options)  # type: ignore[arg-type]
        rows = (run.folder / runs.METRICS).read_text(encoding="utf-8").splitlines()
        result["images_per_s"] = float(rows[-1].split(",")[rows[0].split(",").index("images_per_s")])
        result["kept"] = next(line.split("), ")[-1].split(";")[0] for line in said if " pixels for " in line)
    except DataError as error:
        result["outcome"] = f"refused: {error}".split(";")[0]
    # Not ru_maxrss: that is never below what the process was that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(json.dumps({**result, "peak": int(status.partition("VmHWM:")[2].split()[0]) * 1024}))


def main(num: int, size: int, limit_mb: int, epochs: int) -> None:
    num_mb = num * 3 * size**2 / 1e6
    print(f"{num:,} pictures at {size} pixels: {num_mb:,.0f} MB; limit {limit_mb} MB beyond what is loaded\n")
    print("| --cache | limit | outcome | images/s | peak resident, MB |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(cifar10_as_png(Path(scratch) / "cifar10", num))
        for number, (cache, limited) in enumerate(CASES):
            words = [cache, str(size), str(limit_mb if limited else 0), str(epochs), folder, f"{scratch}/{number}"]
            environment = os.environ | {"WRN_CACHE": f"{scratch}/cache{number}"}
            command = [sys.executable, __file__, "--child", *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1]
                print(f"| {cache} | {limited} | failed: {reason} | – | – |", flush=True)
                continue
            got = json.loads(done.stdout.splitlines()[-1])
            limit, outcome = f"{limit_mb} MB" if limited else "none", got.get("kept", got["outcome"])
            speed = f"{got['images_per_s']:.0f}" if "images_per_s" in got else "–"
            print(f"| {cache} | {limit} | {outcome} | {speed} | {got['peak'] / 1e6:,.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        mode, pixels, most, times, source, target = sys.argv[2:]
        child(mode, int(pixels), int(most), int(times), (source, target))  # type: ignore[arg-type]
    else:
        given = [int(word) for word in sys.argv[1:]]
        main(*(given + [60_000, 64, 500, 1][len(given) :]))
