#!/usr/bin/env python3
"""Runs the workload through narthex and through Prometheus in turn, and prints the figures as Markdown tables.

    benches/peers/run.py --narthex target/release/narthex --peer PATH/peer [--rounds 3] [--series 100000] [--samples 480]
        [--compact-series 50000]
        [--query target/release/query --reference PATH/reference]
        [--receiver target/release/receiver --rwload PATH/rwload [--prometheus /usr/bin/prometheus]]

`peer` drives Prometheus's tsdb package with the same series and values and prints the same JSON lines; `reference` serves
Prometheus's engine over HTTP; `rwload` sends remote write. What is not given is left out of the figures. Each round does
every step on both sides before the next step begins, so that a machine's mood hits both; a ratio is the median of the
rounds' ratios, above 1 where narthex is better. Rates are per CPU second and per second of wall time; memory is anonymous
memory, and a step's peak is looked for every few milliseconds, from outside, on both sides alike.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from pathlib import Path

T0 = 1_700_006_400
SPAN = 7185
QUERIES = Path(__file__).with_name("queries.txt")


def anonymous_mib(pid):
    """Anonymous memory of a process, MiB; 0 when it has gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0


def cpu_seconds(pid):
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Peak:
    """The most anonymous memory that a process had."""

    def __init__(self, pid):
        self.mib, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, args=(pid,))
        self.thread.start()

    def watch(self, pid):
        while not self.ended.wait(0.005):
            self.mib = max(self.mib, anonymous_mib(pid))

    def end(self):
        self.ended.set()
        self.thread.join()
        return self.mib


def lines(*command):
    """The JSON objects that a command prints, one a line; each gets the peak of the command's memory."""
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        peak = Peak(process.pid)
        text = process.stdout.read()
        process.wait()
        most = peak.end()
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} {command[1]}: exit code {process.returncode}")
    return [{**json.loads(line), "peak_mib": most} for line in text.splitlines() if line.startswith("{")]


class Server:
    """A program that serves HTTP on a free port."""

    def __init__(self, command, ready):
        """`command` is given the address."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        parts = [str(part) for part in command(self.address)]
        self.process = subprocess.Popen(parts, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while True:
            try:
                self.get(ready)
                return
            except (OSError, urllib.error.URLError):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    raise SystemExit(f"{parts[0]} does not serve") from None
                time.sleep(0.05)

    def get(self, path, **parameters):
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=300) as answer:
            return answer.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def named(rows):
    """The rows that are steps, by name; the five selects are numbered."""
    out, selects = {}, 0
    for row in rows:
        name = row.get("step")
        if name == "select":
            selects += 1
            name = f"select {selects}"
        if name:
            out[name] = row
        # A line without a step belongs to the step before it.
        elif out:
            out[list(out)[-1]].update({key: value for key, value in row.items() if key != "peak_mib"})
    return out


def bytes_below(directory):
    """Bytes of a file, or of all files below a directory."""
    return sum(file.stat().st_size for file in [directory, *directory.rglob("*")] if file.is_file())


def storage(arguments, scratch):
    """The steps of one directory; it and its peer's are left behind."""
    theirs, ours = scratch / "peer", scratch / "narthex"
    both = defaultdict(dict)

    def peer(step, samples=arguments.samples, flags=()):
        return named(lines(arguments.peer, "-do", step, "-series", arguments.series, "-samples", samples, "-dir", theirs, *flags))

    def narthex(step, samples=arguments.samples, flags=()):
        return named(lines(arguments.narthex, "bench", step, "--series", arguments.series, "--samples", samples, "--dir", ours, *flags))

    def take(theirs, ours, *steps):
        for step in steps or theirs:
            both[step] = {"peer": theirs[step], "ours": ours[step]}

    fewer = max(arguments.samples // 4, 1)
    theirs_noref, ours_noref = peer("ingest", fewer, ["-noref"]), narthex("append", fewer, ["--no-refs"])
    both["append, labels each time"] = {"peer": theirs_noref["append"], "ours": ours_noref["append"]}
    shutil.rmtree(ours)
    # A second each: three in turn, since nothing is beside them in the round that would have the same mood.
    both["appenders"] = []
    for appenders in (1, 4) * 3:
        both["appenders"].append(narthex("append", fewer, ["--appenders", appenders])["append"]["per_s"])
        shutil.rmtree(ours)
    take(peer("ingest"), narthex("append"), "append", "close")
    # The peer's process goes on to cut the block; ours does that in one of its own.
    replayed = peer("replay")
    take(replayed, {**narthex("replay"), **narthex("headcompact")}, "replay", "headcompact")
    for step in ("scan", "select"):
        take(peer(step), narthex(step))
    for side, directory in (("peer", theirs), ("ours", ours)):
        block = next(iter(sorted(directory.glob("01*"))))
        both["block"][side] = {part: bytes_below(block / part) for part in ("chunks", "index")}
    return both


def compaction(arguments, scratch):
    """Three blocks of two hours merged into one: three times in turn, of which the middle ones count."""
    dirs = {"peer": scratch / "peer-blocks", "ours": scratch / "narthex-blocks"}
    size = arguments.compact_series, 1440
    for step in ("ingest", "blocks"):
        lines(arguments.peer, "-do", step, "-series", size[0], "-samples", size[1], "-dir", dirs["peer"])
    for step in ("append", "blocks"):
        lines(arguments.narthex, "bench", step, "--series", size[0], "--samples", size[1], "--dir", dirs["ours"])
    commands = {
        "peer": [arguments.peer, "-do", "compact", "-dir", dirs["peer"]],
        "ours": [arguments.narthex, "bench", "compact", "--dir", dirs["ours"]],
    }
    # What making the blocks left to be written is not on the merge's account.
    os.sync()
    rows = defaultdict(list)
    for _ in range(3):
        for side, command in commands.items():
            row = named(lines(*command))["compact"]
            block = dirs[side] / row["id"].strip("[]")
            rows[side].append({**row, "bytes": sum(bytes_below(block / part) for part in ("chunks", "index"))})
            shutil.rmtree(block)
    for directory in dirs.values():
        shutil.rmtree(directory)
    return {"compact": {side: sorted(found, key=lambda row: row["cpu_s"])[1] for side, found in rows.items()}}


def queries(arguments, scratch):
    """Seconds of the second run of each query, over HTTP on both sides, and in process on ours."""
    asked = [line.split("|", 1) for line in QUERIES.read_text().splitlines() if line]
    times = {}
    servers = {
        "peer": lambda address: [arguments.reference, "serve", scratch / "peer", address],
        "ours": lambda address: [arguments.query, f"--storage.tsdb.path={scratch / 'narthex'}", f"--web.listen-address={address}", "--storage.tsdb.refresh=1h"],
    }
    for side, command in servers.items():
        with Server(command, "/api/v1/labels") as server:
            peak, rows = Peak(server.process.pid), []
            for step, query in asked:
                for _ in range(2):
                    begun = time.monotonic()
                    answer = server.get("/api/v1/query_range", query=query, start=T0, end=T0 + SPAN, step=step)
                    seconds = time.monotonic() - begun
                rows.append({"seconds": seconds, "series": len(json.loads(answer)["data"]["result"])})
            times[side] = {"rows": rows, "peak_mib": peak.end()}
    times["process"] = [row["wall_s"] for row in lines(arguments.narthex, "bench", "query", "--dir", scratch / "narthex")]
    for number, (ours, peer) in enumerate(zip(times["ours"]["rows"], times["peer"]["rows"])):
        if ours["series"] != peer["series"]:
            raise SystemExit(f"query {number + 1}: {ours['series']} series, Prometheus has {peer['series']}")
    return times


def receiving(arguments, scratch):
    """Remote write into an empty receiver, samples per CPU second of the server; the second time, series are known."""
    def receiver(directory):
        return lambda address: [arguments.receiver, f"--storage.tsdb.path={directory}", f"--web.listen-address={address}"]

    def prometheus(directory):
        config = scratch / "prometheus.yml"
        config.write_text("")
        return lambda address: [arguments.prometheus, f"--config.file={config}", f"--storage.tsdb.path={directory}", f"--web.listen-address={address}", "--web.enable-remote-write-receiver"]

    runs = [("narthex, remote write 1.0", receiver, []), ("narthex, remote write 2.0", receiver, ["-v2"])]
    if arguments.prometheus:
        version = subprocess.run([arguments.prometheus, "--version"], capture_output=True, text=True, check=True)
        number = (version.stdout + version.stderr).split("version ")[1].split(",")[0].split("+")[0]
        runs.append((f"Prometheus {number}, remote write 1.0", prometheus, []))
    found = {}
    for number, (name, program, flags) in enumerate(runs):
        with Server(program(scratch / f"receiver-{number}"), "/-/ready") as server:
            def load(start):
                url = f"http://{server.address}/api/v1/write"
                load = [arguments.rwload, "-url", url, "-pid", server.process.pid, "-series", arguments.series, "-samples", 60, "-start", start * 1000]
                row = lines(*load, *flags)[0]
                if row["samples_ok"] != arguments.series * 60:
                    raise SystemExit(f"{name}: {row}")
                return row

            now = int(time.time())
            found[name] = {"new": load(now - 2400), "known": load(now - 1200)}
    return found


def median(values):
    return statistics.median(list(values))


def print_storage(rounds):
    print("| step | ours per CPU s | Prometheus per CPU s | ratio | wall ratio |")
    print("|---|---|---|---|---|")
    for step in rounds[0]:
        if step in ("appenders", "block", "close"):
            continue
        pairs = [(r[step]["ours"], r[step]["peer"]) for r in rounds]
        if any(o["work"] != p["work"] for o, p in pairs):
            raise SystemExit(f"{step}: the two sides did different work: {[(o['work'], p['work']) for o, p in pairs]}")
        if not pairs[0][0]["work"]:
            print(f"| {step} | nothing to do at this size | | | |")
            continue
        ours, peer = (median(pair[side]["per_cpu_s"] for pair in pairs) for side in (0, 1))
        ratio = median(o["per_cpu_s"] / p["per_cpu_s"] for o, p in pairs)
        wall = median(o["per_s"] / p["per_s"] for o, p in pairs)
        unit = (1, "blocks") if step == "compact" else (1e6, "M")
        print(f"| {step} | {ours / unit[0]:.2f} {unit[1]} | {peer / unit[0]:.2f} {unit[1]} | {ratio:.2f}× | {wall:.2f}× |")
    turns = [r["appenders"] for r in rounds]
    four = median(four / one for rates in turns for one, four in zip(rates[::2], rates[1::2]))
    print(f"\nFour appenders on {os.cpu_count()} cores append {four:.2f}× of what one does, by the wall.")


def print_sizes(rounds, arguments):
    print("\n| | ours | Prometheus |")
    print("|---|---|---|")
    samples = arguments.series * arguments.samples

    def row(what, value):
        print(f"| {what} | {value('ours')} | {value('peer')} |")

    def of(step, key, text, scale=1):
        row(what[step, key], lambda side: text.format(median(r[step][side].get(key, 0) / scale for r in rounds)))

    what = {
        ("close", "wall_s"): "clean close, seconds",
        ("append", "wal_bytes_per_sample"): "log, uncompressed, bytes a sample",
        ("append", "anon_mib"): "anonymous memory after append, MiB",
        ("replay", "anon_mib"): "anonymous memory after replay, MiB",
        ("headcompact", "anon_mib"): "anonymous memory after headcompact, MiB",
    }
    of("close", "wall_s", "{:.2f}")
    of("append", "wal_bytes_per_sample", "{:.2f}")
    heap = {"ours": "live_bytes_per_series", "peer": "heap_bytes_per_series"}
    row("live heap after replay, bytes a series", lambda side: f"{median(r['replay'][side][heap[side]] for r in rounds):.0f}")
    for step in ("append", "replay", "headcompact"):
        of(step, "anon_mib", "{:.0f}")
        if step == "append":
            # The workload's own labels are there before, on both sides.
            above = lambda side: median(r[step][side]["anon_mib"] - r[step][side]["base_rss"] for r in rounds)
            row("of it above what was resident before, MiB", lambda side: f"{above(side):.0f}")
    row("block: chunks, bytes a sample", lambda side: f"{median(r['block'][side]['chunks'] / samples for r in rounds):.3f}")
    row("block: index, bytes a series", lambda side: f"{median(r['block'][side]['index'] / arguments.series for r in rounds):.1f}")
    if "compact" in rounds[0]:
        row("compact: wall seconds", lambda side: f"{median(r['compact'][side]['wall_s'] for r in rounds):.2f}")
        row("compact: CPU seconds", lambda side: f"{median(r['compact'][side]['cpu_s'] for r in rounds):.2f}")
        row("compact: peak of anonymous memory, MiB", lambda side: f"{median(r['compact'][side]['peak_mib'] for r in rounds):.0f}")
        row("compact: block written, MiB", lambda side: f"{median(r['compact'][side]['bytes'] / 2**20 for r in rounds):.2f}")


def print_queries(rounds):
    print("\n| query, second run, seconds | ours, in process | ours, HTTP | Prometheus, HTTP | ratio |")
    print("|---|---|---|---|---|")
    for number, line in enumerate(line for line in QUERIES.read_text().splitlines() if line):
        step, query = line.split("|", 1)
        process = median(r["process"][number] for r in rounds)
        pairs = [[r[side]["rows"][number]["seconds"] for side in ("ours", "peer")] for r in rounds]
        ratio = median(peer / ours for ours, peer in pairs)
        ours, peer = (median(pair[side] for pair in pairs) for side in (0, 1))
        print(f"| `{query.replace('|', chr(92) + '|')}` every {step} s | {process:.3f} | {ours:.3f} | {peer:.3f} | {ratio:.1f}× |")
    ours, peer = (median(r[side]["peak_mib"] for r in rounds) for side in ("ours", "peer"))
    print(f"\nPeak of anonymous memory over all ten: {ours:.0f} MiB, Prometheus {peer:.0f} MiB.")


def print_receiving(rounds):
    print("\n| receiver | samples per CPU second, new series | known series | resident, MiB |")
    print("|---|---|---|---|")
    for name in rounds[0]:
        new, known = (median(r[name][when]["per_server_cpu_s"] for r in rounds) for when in ("new", "known"))
        resident = median(r[name]["known"]["server_rss_mib"] for r in rounds)
        print(f"| {name} | {new / 1e3:.0f} k | {known / 1e3:.0f} k | {resident:.0f} |")


def program_path(text):
    """A path that is run as it is, not looked for where programs lie."""
    return Path(text).resolve()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--narthex", required=True, type=program_path)
    parser.add_argument("--peer", required=True, type=program_path)
    parser.add_argument("--query", type=program_path)
    parser.add_argument("--reference", type=program_path)
    parser.add_argument("--receiver", type=program_path)
    parser.add_argument("--rwload", type=program_path)
    parser.add_argument("--prometheus", type=program_path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=480)
    parser.add_argument("--compact-series", type=int, default=50_000, help="0 leaves compaction out")
    arguments = parser.parse_args()
    stored, asked, received = [], [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="narthex-bench-") as name:
            scratch = Path(name)
            stored.append(storage(arguments, scratch))
            if arguments.query and arguments.reference:
                asked.append(queries(arguments, scratch))
            for directory in ("peer", "narthex"):
                shutil.rmtree(scratch / directory)
            if arguments.compact_series:
                stored[-1].update(compaction(arguments, scratch))
            if arguments.receiver and arguments.rwload:
                received.append(receiving(arguments, scratch))
    merged = f"compact: 3 blocks of {arguments.compact_series} series × 480; " if arguments.compact_series else ""
    rounds = f"medians of {arguments.rounds} rounds" if arguments.rounds > 1 else "one round"
    print(f"{arguments.series} series × {arguments.samples} samples; {merged}{rounds}\n")
    print_storage(stored)
    print_sizes(stored, arguments)
    if asked:
        print_queries(asked)
    if received:
        print_receiving(received)


if __name__ == "__main__":
    main()
