#!/usr/bin/env python3
"""Writes what the benches measured last as one CSV file below benches/record.

It reads criterion's estimates (medians, CPU time of one thread) and the figures of `end_to_end`, and
sets each result of ours against its peers of the same case. It runs nothing and judges nothing:
run `cargo bench` first, then this at once, since the load average in the header is that of now.
"""

import argparse
import csv
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = "custody"
COLUMNS = ["bench", "case", "value", "unit", "ratio_to_peer", "peer", "machine", "commit"]
# What an element is, where it is not an event.
ELEMENTS = {("anomaly", "gauge-update"): "updates/s", ("anomaly", "score"): "signals/s"}


def git(*arguments):
    output = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return output.stdout.strip()


def cpu():
    """Model of the processor, as the kernel names it."""
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model.group(1).strip() if model else platform.processor() or platform.machine()


def commit():
    """Short id of the commit, with `+` if files of the code differ from it."""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/record", ":!benches/*.md")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def criterion(target):
    """Per (bench, case) the rate of each implementation: {implementation: (value, unit)}."""
    results, stale = {}, []
    committed = int(git("log", "-1", "--format=%ct"))
    for path in sorted((target / "criterion").glob("**/new/estimates.json")):
        about = json.loads((path.parent / "benchmark.json").read_text())
        seconds = json.loads(path.read_text())["median"]["point_estimate"] / 1e9
        case, _, implementation = about["function_id"].rpartition("/")
        (kind, amount), = about["throughput"].items()
        place = (about["group_id"], case)
        if kind == "Bytes":
            rate = (amount / seconds / 1e6, "MB/s")
        else:
            rate = (amount / seconds, ELEMENTS.get(place, "events/s"))
        results.setdefault(place, {})[implementation] = rate
        if path.stat().st_mtime < committed:
            stale.append(about["full_id"])
    if stale:
        print(f"older than the commit, run them again: {', '.join(stale)}", file=sys.stderr)
    return results


def rows(results):
    """One row per case and peer; one without a peer where there is none."""
    for (bench, case), rates in sorted(results.items()):
        value, unit = rates[OURS]
        peers = sorted(name for name in rates if name != OURS)
        for peer in peers or [""]:
            ratio = f"{value / rates[peer][0]:.2f}" if peer else ""
            yield [bench, case, number(value), unit, ratio, peer]


def number(value):
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"


def end_to_end(target):
    """Rate and peak memory of the last run of each scale."""
    runs = [json.loads(path.read_text()) for path in (target / "tmp").glob("end_to_end_*.json")]
    for run in sorted(runs, key=lambda run: run["scale"]):
        case = f"demo-scale-{run['scale']}"
        yield ["end_to_end", case, number(run["events_per_second"]), "events/s", "", ""]
        yield ["end_to_end", f"{case}-memory-peak", number(run["rss_bytes_max"] / 2**20), "MiB", "", ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target-dir", type=pathlib.Path, default=os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    parser.add_argument("--note", default="", help="a line for the header")
    arguments = parser.parse_args()
    target = pathlib.Path(arguments.target_dir)
    found = [*rows(criterion(target)), *end_to_end(target)]
    if not found:
        sys.exit(f"no results below {target}: run `cargo bench` first, or name the folder with --target-dir")
    model, cores = cpu(), os.cpu_count()
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    path = ROOT / "benches" / "record" / f"{arguments.date}-{slug}.csv"
    path.parent.mkdir(exist_ok=True)
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    with path.open("w", newline="") as file:
        file.write(f"# load average {load} on {cores} CPUs when this was written\n")
        file.write("# criterion rows: median, CPU time of one thread; end_to_end rows: wall time, whole machine\n")
        if arguments.note:
            file.write(f"# {arguments.note}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([*row, f"{model} x{cores}", commit()] for row in found)
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
