#!/usr/bin/env python3
"""neighbour.py MODEL [OPTION…]: what a busy neighbour costs while tokens are generated.

Measures decoding alone, and beside 1, 2 … processes that spin without a pause, in turn; beside each speed stands the
share of the processors that a fair system leaves to the engine's threads. A speed near that share is the neighbour's
share and no more; far below it, threads wait for threads that do not run. OPTIONs go to `aquila bench` (--dtype q8,
--cache-dir DIR). Where tests/bench/peers.sh has built llama.cpp and PEER names a GGUF file, the same is measured of it.

THREADS=all processors, ROUNDS=3, GEN=64 tokens, MOST=4 neighbours. Needs Python alone; run it on an idle machine.
"""

import json
import os
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROCESSORS = len(os.sched_getaffinity(0))
THREADS = int(os.environ.get("THREADS", PROCESSORS))
ROUNDS, GEN = int(os.environ.get("ROUNDS", 3)), os.environ.get("GEN", "64")
MOST = int(os.environ.get("MOST", 4))


@contextmanager
def neighbours(count):
    """So many processes that spin until the end of the block, or of this process."""
    spin = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n for _ in range(1000000): pass"
    running = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def rate(command):
    """Tokens a second, from the last JSON object that the program prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    found = json.loads(lines[-1])
    return found.get("tokens_per_second", found.get("avg_ts"))


def commands(arguments):
    ours = ["target/release/aquila", "bench", *arguments, "--threads", THREADS, "--prompt", 0, "--gen", GEN]
    yield "aquila", [*ours, "--repeat", 1, "--json", "-q"]
    fetch = subprocess.run([ROOT / "tests/fetch/fetch.sh", "models"], capture_output=True, text=True, check=True)
    peer = Path(fetch.stdout.strip()) / "peers/llama.cpp-0.3.36/llama-bench"
    if "PEER" in os.environ and peer.exists():
        tests = ["-t", THREADS, "-p", 0, "-n", GEN, "-r", 1, "-o", "jsonl"]
        yield "llama.cpp", [peer, "-m", os.environ["PEER"], *tests]


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    engines = list(commands(sys.argv[1:]))
    speeds = {}
    for _ in range(ROUNDS):
        for count in range(MOST + 1):
            for name, command in engines:
                with neighbours(count):
                    speeds.setdefault((name, count), []).append(rate(command))
    print(f"{THREADS} threads on {PROCESSORS} processors, medians of {ROUNDS} rounds")
    print(f"{'engine':<12}{'neighbours':>10}{'tokens/s':>10}{'of alone':>10}{'fair share':>12}")
    for name, _ in engines:
        alone = statistics.median(speeds[name, 0])
        for count in range(MOST + 1):
            speed = statistics.median(speeds[name, count])
            fair = min(1.0, PROCESSORS / (THREADS + count)) / min(1.0, PROCESSORS / THREADS)
            print(f"{name:<12}{count:>10}{speed:>10.2f}{speed / alone:>10.0%}{fair:>12.0%}")


if __name__ == "__main__":
    main()
