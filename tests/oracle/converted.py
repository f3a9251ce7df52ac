#!/usr/bin/env python3
"""Whether transformers reads what `aquila convert` and `aquila join` write, and continues a text as it did before.

    converted.py GOLDEN.json MODE DIRECTORY…        (with the packages of requirements.txt)

GOLDEN.json is tests/golden/smollm2-greedy.json, MODE one of its modes. Each directory is opened as a user would, by
AutoTokenizer and AutoModelForCausalLM alone, and must give the same ids for each prompt and the same ids after it.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(golden, mode, *directories):
    with open(golden, encoding="utf-8") as file:
        runs = json.load(file)["modes"][mode]
    for directory in directories:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=torch.float32, attn_implementation="eager")
        for run in runs:
            ids = tokenizer(run["prompt"])["input_ids"]
            assert ids == run["prompt_ids"], (directory, ids[:8], run["prompt_ids"][:8])
            wanted = run["new_ids"]
            found = model.generate(
                torch.tensor([ids]), max_new_tokens=len(wanted), do_sample=False, pad_token_id=0
            )[0, len(ids):].tolist()
            assert found == wanted, (directory, found, wanted)
        print(f"{directory}: {len(runs)} prompts, {sum(len(run['new_ids']) for run in runs)} tokens equal")


main(*sys.argv[1:])
