#!/usr/bin/env python3
"""How far transformers' own bf16 is from its f32: the yardstick for bf16 on an NPU.

    bf16_divergence.py MODEL IDS

MODEL is a directory with f32 weights (smollm2-f32 of tests/fetch), IDS a file of token ids. Prints the mean Kullback-Leibler
divergence of the next token's distribution, in nats, over all ids. Needs torch and transformers; the figure that
tests/npu/numbers.rs holds was made with torch 2.8.0 and transformers 4.57.6 on a CPU.
"""

import sys

import torch
from transformers import LlamaForCausalLM


def log_probabilities(path, ids, dtype):
    model = LlamaForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation="eager").eval()
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)


def main():
    ids = [int(word) for word in open(sys.argv[2], encoding="ascii").read().split()]
    exact = log_probabilities(sys.argv[1], ids, torch.float32)
    rounded = log_probabilities(sys.argv[1], ids, torch.bfloat16)
    divergence = (exact.exp() * (exact - rounded)).sum(-1)
    agreement = (exact.argmax(-1) == rounded.argmax(-1)).double().mean()
    print(f"{len(ids)} tokens: divergence {divergence.mean():.6f} nats, largest {divergence.max():.6f}, same token {agreement:.4f}")


main()
