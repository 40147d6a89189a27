#!/usr/bin/env python3
"""Runs the workload through narthex and through Prometheus's TSDB in turn, and prints the ratios as a Markdown table.

    benches/peers/run.py --narthex target/release/narthex --peer PATH/peer [--rounds 3] [--series 100000] [--samples 480]

`peer` is a program that drives Prometheus's tsdb package with the same series and values and prints the same JSON lines.
Each round does every step on both sides before the next begins, so that a machine's mood hits both; the table shows the
median over the rounds of each round's ratio. Rates are per CPU second; memory is anonymous memory above the step's start.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path


def lines(command):
    """The JSON objects that `command` prints, one a line."""
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def steps(rows):
    """The rows that are steps, by name; the five selects are numbered."""
    out, selects = {}, 0
    for row in rows:
        name = row.get("step")
        if name is None:
            continue
        if name == "select":
            selects += 1
            name = f"select {selects}"
        out[name] = row
    return out


def round_of(arguments, scratch):
    size = ["series", arguments.series, "samples", arguments.samples]
    theirs, ours = scratch / "peer", scratch / "narthex"
    peer_size = [f"-{size[0]}", size[1], f"-{size[2]}", size[3], "-dir", theirs]
    our_size = [f"--{size[0]}", size[1], f"--{size[2]}", size[3], "--dir", ours]
    noref = max(arguments.samples // 4, 1)
    both = defaultdict(dict)

    def take(side, rows, rename=None):
        for name, row in steps(rows).items():
            both[rename or name][side] = row

    take("peer", [r for r in lines([arguments.peer, "-do", "ingest", "-noref", *peer_size[:2], "-samples", noref, "-dir", theirs]) if r.get("step") == "append"], "append, labels each time")
    take("ours", [r for r in lines([arguments.narthex, "bench", "append", "--no-refs", *our_size[:2], "--samples", noref, "--dir", ours]) if r.get("step") == "append"], "append, labels each time")
    shutil.rmtree(ours)
    take("peer", [r for r in lines([arguments.peer, "-do", "ingest", *peer_size]) if r.get("step") == "append"])
    take("ours", [r for r in lines([arguments.narthex, "bench", "append", *our_size]) if r.get("step") == "append"])
    take("peer", lines([arguments.peer, "-do", "replay", *peer_size]))
    take("ours", lines([arguments.narthex, "bench", "replay", *our_size]))
    take("ours", [r for r in lines([arguments.narthex, "bench", "headcompact", *our_size]) if r.get("step") == "headcompact"])
    for step in ("scan", "select"):
        take("peer", lines([arguments.peer, "-do", step, *peer_size]))
        take("ours", lines([arguments.narthex, "bench", step, *our_size]))
    both["block"] = {side: {"bytes": sum(f.stat().st_size for f in next(iter(sorted(path.glob("01*")))).rglob("*") if f.is_file())} for side, path in (("peer", theirs), ("ours", ours))}
    shutil.rmtree(theirs)
    shutil.rmtree(ours)
    return both


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--narthex", required=True, type=Path)
    parser.add_argument("--peer", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=480)
    arguments = parser.parse_args()
    rounds = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="narthex-bench-") as scratch:
            rounds.append(round_of(arguments, Path(scratch)))
    print(f"{arguments.series} series × {arguments.samples} samples, medians of {arguments.rounds} rounds\n")
    print("| step | ours per CPU s | Prometheus per CPU s | ratio | wall ratio |")
    print("|---|---|---|---|---|")
    for step in rounds[0]:
        if step == "block":
            continue
        pairs = [(r[step]["ours"], r[step]["peer"]) for r in rounds if "ours" in r[step] and "peer" in r[step]]
        if not pairs or not any(o["work"] for o, _ in pairs):
            print(f"| {step} | nothing to do at this size | | | |")
            continue
        ours = statistics.median(o["per_cpu_s"] for o, _ in pairs)
        peer = statistics.median(p["per_cpu_s"] for _, p in pairs)
        ratio = statistics.median(o["per_cpu_s"] / p["per_cpu_s"] for o, p in pairs)
        wall = statistics.median(o["per_s"] / p["per_s"] for o, p in pairs)
        works = {(o["work"], p["work"]) for o, p in pairs}
        if any(o != p for o, p in works):
            raise SystemExit(f"{step}: the two sides did different work: {works}")
        print(f"| {step} | {ours / 1e6:.2f} M | {peer / 1e6:.2f} M | {ratio:.2f}× | {wall:.2f}× |")
    block = statistics.median(r["block"]["ours"]["bytes"] / r["block"]["peer"]["bytes"] for r in rounds)
    print(f"\nBlock size: {block:.4f} of Prometheus's.")
    for step in ("append", "replay", "headcompact"):
        memory = [(r[step]["ours"].get("anon_mib", 0), r[step]["peer"].get("anon_mib", 0)) for r in rounds if "ours" in r.get(step, {})]
        if memory:
            print(f"Anonymous memory after {step}: {statistics.median(o for o, _ in memory):.0f} MiB, Prometheus {statistics.median(p for _, p in memory):.0f} MiB.")


if __name__ == "__main__":
    main()
