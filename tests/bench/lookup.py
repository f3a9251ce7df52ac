#!/usr/bin/env python3
"""lookup.py MODEL [OPTION…]: what speculation by prompt lookup gains on a rewriting task, in paired runs.

Runs target/release/aquila with and without --speculate in turn on a text that is to be repeated with one change, checks
that the answers are the same, and prints the tokens a second of each pair, their ratio and the median. OPTIONs go to
`aquila run` (--dtype q8, --threads 2). REPEAT=5 pairs, SPECULATE=7 tokens, TOKENS=200 at most. Needs Python alone.
"""

import os
import re
import statistics
import subprocess
import sys

REPEAT, SPECULATE = int(os.environ.get("REPEAT", 5)), os.environ.get("SPECULATE", "7")
TOKENS = os.environ.get("TOKENS", "200")
TASK = """Repeat this text word for word, with "boat" in place of "ferry":

The ferry leaves the old harbour at seven in the morning. It calls at three small islands, takes letters and bread to \
each of them, and comes back before the evening wind gets up. In winter the ferry sails on Tuesdays and Fridays only, \
because the pier of the second island is often under ice. The captain keeps a list of all passengers, and whoever wants \
to stay on an island over night tells him in the morning. The school children travel free of charge. A bicycle costs two \
crowns, a dog one, and a sack of potatoes nothing if it is carried on the knees. When there is fog the ferry waits in \
the harbour until the church tower can be seen, and nobody has ever complained about that."""


def run(arguments, speculate):
    """The answer, its tokens a second, and what the line of times says of proposals."""
    command = ["target/release/aquila", "run", *arguments[:1], TASK, "--chat", "-n", TOKENS, *arguments[1:]]
    done = subprocess.run([*command, "--speculate", speculate], capture_output=True, text=True)
    rate = re.search(r"answer [\d,]+ tokens? at ([\d.]+)/s", done.stderr)
    if done.returncode or not rate:
        raise SystemExit(f"{' '.join(command[:2])} ended with {done.returncode}: {done.stderr}")
    looked_up = re.search(r"[\d,]+ of [\d,]+ tokens? looked up", done.stderr)
    return done.stdout, float(rate[1]), looked_up[0] if looked_up else "nothing looked up"


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    ratios = []
    for _ in range(REPEAT):
        plain, slow, _ = run(sys.argv[1:], "0")
        text, fast, looked_up = run(sys.argv[1:], SPECULATE)
        if text != plain:
            raise SystemExit("the answers differ: speculation is not exact here")
        ratios.append(fast / slow)
        print(f"plain {slow:8.1f}/s   --speculate {SPECULATE} {fast:8.1f}/s   {fast / slow:5.2f}x   {looked_up}")
    print(f"median {statistics.median(ratios):.2f}x")


if __name__ == "__main__":
    main()
