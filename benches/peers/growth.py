#!/usr/bin/env python3
"""What narthex's costs grow with: the same steps at several numbers of series, as a Markdown table.

    benches/peers/growth.py --narthex target/release/narthex [--series 100000 1000000 4000000] [--samples 4] [--rounds 3]

Costs are CPU nanoseconds a unit (a series created, a sample appended to a series that is there, a sample read back from
the log, a series selected), memory is bytes a series, of a process that does nothing but read the log back; medians of
the rounds. The last column is the most series' cost over the fewest's.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

COSTS = {
    "create_ns": "create a series, ns",
    "append_ns": "append to a series, ns",
    "replay_ns": "replay a sample, ns",
    "select_ns": "select a series, ns",
    "live_bytes_per_series": "anonymous memory after replay, bytes a series",
    "counted_bytes_per_series": "of it counted by the head, bytes a series",
}


def bench(narthex, step, *arguments):
    command = [str(part) for part in (narthex, "bench", step, *arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--narthex", required=True, type=lambda text: Path(text).resolve())
    parser.add_argument("--series", type=int, nargs="+", default=[100_000, 1_000_000, 4_000_000])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found = {series: [] for series in arguments.series}
    for _ in range(arguments.rounds):
        for series in arguments.series:
            with tempfile.TemporaryDirectory(prefix="narthex-growth-") as scratch:
                size = ["--series", series, "--samples", arguments.samples, "--dir", f"{scratch}/data"]
                both = bench(arguments.narthex, "growth", *size)
                replayed = bench(arguments.narthex, "replay", *size)
                both["live_bytes_per_series"] = replayed["live_bytes_per_series"]
                found[series].append(both)
    print("| | " + " | ".join(f"{series:,} series" for series in arguments.series) + " | growth |")
    print("|---" * (len(arguments.series) + 2) + "|")
    for key, what in COSTS.items():
        row = [statistics.median(one[key] for one in found[series]) for series in arguments.series]
        print(f"| {what} | " + " | ".join(f"{cost:.0f}" for cost in row) + f" | {row[-1] / row[0]:.2f}× |")


if __name__ == "__main__":
    main()
