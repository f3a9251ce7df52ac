#!/usr/bin/env python3
"""compare.py MODEL: the speed of target/release/aquila and of llama.cpp on one model, and their ratio.

See bench.sh. Needs Python alone.
"""

import json
import os
import subprocess
import sys

PROMPT, GEN = int(os.environ.get("PROMPT", 512)), int(os.environ.get("GEN", 64))
THREADS = int(os.environ.get("THREADS", 0)) or len(os.sched_getaffinity(0))
REPEAT = int(os.environ.get("REPEAT", 3))


def lines(command):
    """The JSON objects that a program prints, one a line."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def ours(model):
    command = ["target/release/aquila", "bench", model, "--prompt", PROMPT, "--gen", GEN, "--depth", 0, "--batch", 1]
    rows = lines([*command, "--threads", THREADS, "--repeat", REPEAT, "--json"])
    return {row["test"]: (row["tokens_per_second"], row.get("limit_share")) for row in rows}


def llama_cpp(model):
    """llama-bench's figures, or None where it is not built or cannot read the model."""
    cache = os.environ.get("AQUILA_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "aquila"
    )
    program = os.environ.get("LLAMA_BENCH") or os.path.join(cache, "peers", "llama.cpp-0.3.36", "llama-bench")
    if not os.path.exists(program) or not model.endswith(".gguf"):
        return None
    command = [program, "-m", model, "-p", PROMPT, "-n", GEN, "-t", THREADS, "-r", REPEAT, "-o", "jsonl"]
    return {"decode" if row["n_gen"] else "prefill": row["avg_ts"] for row in lines(command)}


def main():
    model = sys.argv[1]
    mine, peer = ours(model), llama_cpp(model)
    print(f"{os.path.basename(model)}, {THREADS} threads, tokens/s, {REPEAT} runs")
    print(f"{'test':<16}{'aquila':>10}{'of limit':>10}" + (f"{'llama.cpp':>12}{'ratio':>8}" if peer else ""))
    for test, count in (("prefill", PROMPT), ("decode", GEN)):
        speed, share = mine[test]
        line = f"{f'{test} {count}':<16}{speed:>10.2f}" + (f"{share:>10.0%}" if share else f"{'-':>10}")
        print(line + (f"{peer[test]:>12.2f}{speed / peer[test]:>8.2f}" if peer else ""))
    if not peer:
        print("llama.cpp is not compared: tests/bench/peers.sh builds it, and it reads .gguf files")


if __name__ == "__main__":
    main()
