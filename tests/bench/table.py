#!/usr/bin/env python3
"""table.py: libaquila and llama.cpp side by side on a model of Aquila-7B's shape, and the machine's limits beside them.

Each row is a task. Every round runs, for each row in turn, target/release/aquila and the peers of the same class, one
process at a time; the medians of the rounds, their ratio and the share of the limit that was measured in the same
process are printed, and written as CSV and as an SVG chart after each row. A form of the peer that was more than a
tenth slower than its best in the first round is not run again.

  --layers N     layers of the model, of 32 [8]; its weights are random, which costs the same time as real ones
  --rounds N     rounds [3]
  --threads N    [all processors of this process]
  --only TEXT    rows whose name contains TEXT, "second load" among them; several texts with | between
  --out DIR      where table.csv and table.svg go [target/bench]
  --record       also keep both in tests/bench/record/ under the processor's name; rows that are not run now stay
                 there as they are

Peers: llama.cpp built by tests/bench/peers.sh, else the rows stand alone. Disk: about 1.5 GB a layer, in the cache that
tests/fetch/fetch.sh prints. Needs Python alone; run it on an idle machine.
"""

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEER = "peers/llama.cpp-0.3.36"
# Weights of Aquila-7B: of a layer's seven matrices, and of the head, which is as large as the embedding.
LAYER_WEIGHTS, HEAD_WEIGHTS = 4 * 4096**2 + 3 * 4096 * 11008, 100008 * 4096
# Bits a weight of the embedding in the files that llama-quantize makes.
EMBEDDING_BITS = {"F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_0": 4.5, "Q4_K_M": 4.5}


@dataclass
class Row:
    """A task: how both sides are asked for it, and the goal of their ratio."""

    name: str
    dtype: str | None
    peers: list[str]
    kind: str  # prefill, decode or batch
    tokens: int
    depth: int = 0
    batch: int = 1
    kv: str | None = None
    goal: float | None = None
    model: str = "F16"
    speeds: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    bits: float = 0.0
    peer_speeds: dict[str, list[float]] = field(default_factory=dict)


def rows():
    eight, four, wide = ["Q8_0"], ["Q4_0", "Q4_K_M"], ["F16", "BF16"]
    table = [
        Row("prefill 512, q8", "q8", eight, "prefill", 512, goal=5.0),
        Row("prefill 512, q4", "q4", four, "prefill", 512, goal=2.6),
        Row("prefill 512, bf16", "bf16", wide, "prefill", 512, goal=1.9, model="BF16"),
        Row("prefill 512, f16 exact", None, ["F16"], "prefill", 512, goal=1.05),
        Row("prefill 2048, q8", "q8", eight, "prefill", 2048, goal=5.0),
        Row("prefill 2048, q4", "q4", four, "prefill", 2048, goal=2.6),
        Row("prefill 2048, bf16", "bf16", wide, "prefill", 2048, goal=1.9, model="BF16"),
        Row("decode, f16", None, wide, "decode", 32, goal=1.05),
        Row("decode, q8", "q8", eight, "decode", 32, goal=1.25),
        Row("decode, q4", "q4", four, "decode", 32, goal=1.2),
        Row("decode at 1,900, q8", "q8", eight, "decode", 16, depth=1900, goal=1.8),
        Row("decode at 1,900, q4", "q4", four, "decode", 16, depth=1900, goal=1.8),
        Row("decode at 1,900, q8, kv i8", "q8", eight, "decode", 16, depth=1900, kv="i8", goal=1.8),
        Row("decode at 1,900, q4, kv i8", "q4", four, "decode", 16, depth=1900, kv="i8", goal=1.8),
    ]
    for dtype, peers, goals in (("q8", eight, (3.5, 6.0)), ("q4", four, (3.5, 3.0))):
        for batch, goal in zip((8, 16), goals):
            table.append(Row(f"{batch} sequences, {dtype}", dtype, peers, "batch", 16, batch=batch, goal=goal))
    return table


def output(command):
    """The JSON objects that a program prints, one a line."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


class Bench:
    def __init__(self, arguments):
        self.threads, self.layers = arguments.threads, arguments.layers
        fetch = [ROOT / "tests/fetch/fetch.sh", "models"]
        self.cache = Path(subprocess.run(fetch, capture_output=True, text=True, check=True).stdout.strip())
        self.models = self.cache / "bench"
        self.models.mkdir(exist_ok=True)
        self.peer = self.cache / PEER
        self.has_peer = (self.peer / "llama-quantize").exists()
        self.matrix_weights = self.layers * LAYER_WEIGHTS + HEAD_WEIGHTS
        self.own_bits, self.peer_bits = {}, {}

    def model(self, kind):
        """The path of the model in one of llama.cpp's types, made at its first use."""
        path = self.models / f"aquila7b-{self.layers}l-{kind.lower()}.gguf"
        if path.exists():
            return path
        part = path.with_suffix(".part")
        if kind == "F16":
            print(f"making {path.name}", file=sys.stderr)
            make = [self.cache / "venv/bin/python", ROOT / "tests/fetch/make_aquila7b.py", self.cache, part]
            command = [*make, "--layers", self.layers, "--dtype", "f16", "--format", "gguf"]
        else:
            print(f"making {path.name}", file=sys.stderr)
            command = [self.peer / "llama-quantize", self.model("F16"), part, kind, self.threads]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part.rename(path)
        return path

    def ours(self, row):
        # BF16 as the peer has it where that is built, else rounded while loading.
        model = self.model(row.model if self.has_peer else "F16")
        command = ["target/release/aquila", "bench", model, "--threads", self.threads, "--repeat", 1, "--json", "-q"]
        command += ["--dtype", row.dtype] if row.dtype else []
        command += ["--kv-dtype", row.kv] if row.kv else []
        command += ["--cache-dir", self.models]
        prompt, made = (row.tokens, 0) if row.kind == "prefill" else (0, row.tokens)
        command += ["--prompt", prompt, "--gen", made, "--depth", row.depth, "--batch", row.batch]
        found = output(command)[0]
        row.speeds.append(found["tokens_per_second"])
        row.shares.append(found["limit_share"])
        row.limits.append(found["limit"])
        row.bits = self.bits(model, row.dtype)

    def bits(self, model, dtype):
        """Bits a weight of the layers and the head, as decoding reads them."""
        if (model, dtype) not in self.own_bits:
            command = ["target/release/aquila", "info", model, "--json", *(["--dtype", dtype] if dtype else [])]
            self.own_bits[model, dtype] = 8 * output(command)[0]["memory"]["weight_bytes_per_token"] / self.matrix_weights
        return self.own_bits[model, dtype]

    def second_load(self):
        """Seconds from the call of a load that finds its packed cache to the first token."""
        command = ["target/release/aquila", "bench", self.model("F16"), "--threads", self.threads, "--json", "-q"]
        command += ["--dtype", "q8", "--cache-dir", self.models, "--load", 3, "--prompt", 0, "--gen", 0]
        return output(command)[0]["first_token_seconds"]

    def peers(self, row):
        for kind in row.peers:
            for flash in (0, 1):
                if row.kv and not flash:
                    continue  # llama.cpp has quantised values with flash attention alone
                label = f"llama.cpp {kind} -fa {flash}"
                speeds = row.peer_speeds.setdefault(label, [])
                best = max((found[0] for found in row.peer_speeds.values() if found), default=0)
                if not speeds or speeds[0] > 0.9 * best:
                    speeds.append(self.peer_speed(row, kind, flash))

    def peer_speed(self, row, kind, flash):
        kv = ["-ctk", "q8_0", "-ctv", "q8_0"] if row.kv else []
        common = ["-m", self.model(kind), "-t", self.threads, "-fa", flash, *kv]
        if row.kind == "batch":
            size = ["-c", row.batch * (row.tokens + 16), "-b", 2048, "-ub", 512]
            lengths = ["-npp", 1, "-ntg", row.tokens, "-npl", row.batch]
            found = output([self.peer / "llama-batched-bench", *common, *size, *lengths, "--output-format", "jsonl"])
            return found[-1]["speed_tg"]
        prompt, made = (row.tokens, 0) if row.kind == "prefill" else (0, row.tokens)
        tests = ["-p", prompt, "-n", made, "-d", row.depth, "-r", 1, "-o", "jsonl"]
        return output([self.peer / "llama-bench", *common, *tests])[0]["avg_ts"]

    def bits_of_peer(self, kind):
        """Bits a weight that decoding reads of llama.cpp's file: of the layers and the head."""
        if kind not in self.peer_bits:
            tests = ["-p", 1, "-n", 0, "-r", 1, "-o", "jsonl"]
            found = output([self.peer / "llama-bench", "-m", self.model(kind), *tests])[0]
            read = 8 * found["model_size"] - EMBEDDING_BITS[kind] * HEAD_WEIGHTS
            self.peer_bits[kind] = read / (found["model_n_params"] - HEAD_WEIGHTS)
        return self.peer_bits[kind]


def summary(bench, row):
    """What is printed and written of a row. Bits a weight are those of the layers and the head."""
    speed = statistics.median(row.speeds)
    best = max(row.peer_speeds, key=lambda label: statistics.median(row.peer_speeds[label]), default=None)
    peer = statistics.median(row.peer_speeds[best]) if best else None
    return {
        "task": row.name,
        "tokens_per_second": round(speed, 2),
        "rounds": len(row.speeds),
        "lowest": round(min(row.speeds), 2),
        "highest": round(max(row.speeds), 2),
        "bits": round(row.bits, 2),
        "limit": f"{statistics.median(row.limits):.3g}",
        "share_of_limit": round(statistics.median(row.shares), 3),
        "peer": best or "",
        "peer_bits": round(bench.bits_of_peer(best.split()[1]), 2) if best else "",
        "peer_tokens_per_second": round(peer, 2) if peer else "",
        "ratio": round(speed / peer, 2) if peer else "",
        "goal": row.goal if peer else "",
    }


def line(row):
    limit = f"{float(row['limit']) / 1e9:.0f} G/s"
    text = f"{row['task']:<28}{float(row['tokens_per_second']):>9.2f}{row['bits']:>7}{limit:>10}{row['share_of_limit']:>7.0%}"
    if row["peer"]:
        text += f"  {row['peer']:<24}{row['peer_bits']:>6}{row['peer_tokens_per_second']:>9.2f}"
        text += f"{row['ratio']:>7.2f}× (goal {row['goal']})"
    return text


def chart(rows, title):
    """Bars of both sides, each pair in units of its longer one."""
    step, left, width = 34, 210, 420
    height = step * len(rows) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 150}" height="{height}" '
        f'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><text x="10" y="20" font-size="14">{title}</text>',
        '<text x="10" y="38" fill="#777">tokens a second; the longer bar of each pair fills the width</text>',
    ]
    for index, row in enumerate(rows):
        y = 52 + step * index
        ours, peer = float(row["tokens_per_second"]), float(row["peer_tokens_per_second"] or 0)
        longest = max(ours, peer)
        parts.append(f'<text x="{left - 8}" y="{y + 16}" text-anchor="end">{row["task"]}</text>')
        for offset, speed, colour, name in ((0, ours, "#1b6ca8", "aquila"), (13, peer, "#b0b0b0", row["peer"])):
            if speed:
                length = max(1, speed / longest * width)
                parts.append(f'<rect x="{left}" y="{y + offset}" width="{length:.0f}" height="11" fill="{colour}"/>')
                label = f'<text x="{left + length + 4:.0f}" y="{y + offset + 10}" font-size="10">'
                parts.append(f"{label}{speed:.1f} {name}</text>")
    return "\n".join([*parts, "</svg>", ""])


def processor():
    """The processor's name, with family and model where it is x86: a virtual machine often says no more than the brand."""
    info = Path("/proc/cpuinfo").read_text()
    found = [re.search(rf"^{field}\s*: (.*)$", info, re.M) for field in ("model name", "cpu family", "model")]
    if not all(found):
        return os.uname().machine
    name, family, model = (match[1] for match in found)
    return f"{name} (family {family} model {model})"


def level():
    info = subprocess.run(["target/release/aquila", "--version"], capture_output=True, text=True, cwd=ROOT)
    return info.stdout.splitlines()[0]


def write(arguments, title, found):
    """Writes the rows as CSV and chart; to the record, in the places of those that it holds of the same tasks."""
    targets = [(arguments.out / "table", found)]
    if arguments.record:
        name = re.sub(r"[^a-z0-9]+", "-", f"{processor()} {arguments.threads} threads".lower()).strip("-")
        path = ROOT / "tests/bench/record" / name
        kept = {}
        if path.with_suffix(".csv").exists():
            with open(path.with_suffix(".csv"), newline="", encoding="utf-8") as file:
                kept = {row["task"]: row for row in csv.DictReader(file)}
        kept.update({row["task"]: row for row in found})
        targets.append((path, [kept[row.name] for row in rows() if row.name in kept]))
    for path, lines in targets:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, lines[0].keys())
            writer.writeheader()
            writer.writerows(lines)
        path.with_suffix(".svg").write_text(chart(lines, title), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=ROOT / "target/bench")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    parts = arguments.only.split("|")
    wanted = [row for row in rows() if any(part in row.name for part in parts)]
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: the machine is not idle (load {load:.1f}): the figures will be too low", file=sys.stderr)
    title = f"{level()}, {processor()}, {arguments.threads} threads, Aquila-7B shape, {arguments.layers} of 32 layers"
    found = []
    for turn in range(arguments.rounds):
        for row in wanted:
            print(f"round {turn + 1}: {row.name}", file=sys.stderr)
            bench.ours(row)
            if bench.has_peer:
                bench.peers(row)
            found = [summary(bench, row) for row in wanted if row.speeds]
            write(arguments, title, found)
    print(f"{title}, medians of {arguments.rounds} rounds")
    print(f"{'task':<28}{'tokens/s':>9}{'bits':>7}{'limit':>10}{'of it':>7}  {'best peer':<24}{'bits':>6}{'tokens/s':>9}{'ratio':>8}")
    for row in found:
        print(line(row))
    if any(part in "second load" for part in parts):
        seconds = bench.second_load()
        print(f"second load, q8 from the packed cache, {bench.layers} layers: first token after {seconds:.2f} s (goal 1)")
    print(f"written: {os.path.relpath(arguments.out)}/table.csv and .svg", file=sys.stderr)
    if not bench.has_peer:
        print("llama.cpp is not compared: tests/bench/peers.sh builds it")


if __name__ == "__main__":
    main()
