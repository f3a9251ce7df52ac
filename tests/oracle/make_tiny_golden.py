#!/usr/bin/env python3
"""Makes tests/golden/tiny/: small decoders with random weights and the logits that transformers computes for them.

    make_tiny_golden.py OUT        (with the packages of requirements.txt)

A case is a directory with config.json in Aquila's form, model.safetensors (f32) and expected.json:

    made_with  versions
    runs       a list of
      context  tokens to load the model for: dynamic NTK scaling depends on it
      ids      the prompt
      rows     {position: logits of the next token}, f32, of three positions
      greedy   the ids that follow greedily (not for dynamic scaling, where transformers' base moves as the text grows)
      gap      the smallest distance between the two largest logits along the greedy run
      error    the largest difference between these rows and the same model computed in f64: an f32 engine is as far
               from the rows as this, or a few times as far

Each case changes one thing against the first.
"""

import copy
import json
import os
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

BASE = {
    "architectures": ["AquilaForCausalLM"], "bos_token_id": 254, "eos_token_id": 255, "pad_token_id": 0,
    "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 72,
    "max_position_embeddings": 64, "model_type": "aquila", "num_attention_heads": 4, "num_hidden_layers": 2,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": True, "torch_dtype": "float32", "use_cache": True, "vocab_size": 256,
}  # fmt: skip
# name: (changes of the configuration, [(prompt length, context)])
CASES = {
    "gqa-tied": ({}, [(1, 64), (40, 64)]),
    "mha-untied": ({"num_key_value_heads": 4, "tie_word_embeddings": False}, [(40, 64)]),
    "one-kv-head": ({"num_key_value_heads": 1}, [(40, 64)]),
    "attention-bias": ({"attention_bias": True}, [(40, 64)]),
    "head-dim": ({"head_dim": 20}, [(40, 64)]),
    "rope-theta": ({"rope_theta": 1e6}, [(40, 64)]),
    "rope-linear": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, [(40, 64)]),
    # Prompts as long as the context, so that a base fixed at load and one that follows the length agree; and short
    # ones within the trained length, where both leave the base alone.
    "rope-dynamic": (
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 32},
        [(24, 32), (64, 64), (50, 50)],
    ),
    # Aquila's first generation clamps scores to ±1024 before the mask. The weights of q and k are made so large
    # that most scores reach it.
    "score-clamp": ({"architectures": ["AquilaModel"], "num_key_value_heads": 4, "tie_word_embeddings": False},
                    [(24, 64)]),
}  # fmt: skip
CLAMP = 1024.0
GREEDY = 16


def clamped_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    key = modeling_llama.repeat_kv(key, module.num_key_value_groups)
    value = modeling_llama.repeat_kv(value, module.num_key_value_groups)
    scores = (query @ key.transpose(2, 3) * scaling).clamp(-CLAMP, CLAMP)
    clamped_attention.shares.append((scores.abs() == CLAMP).float().mean().item())
    scores = scores + attention_mask[:, :, :, : key.shape[-2]]
    weights = scores.softmax(-1, dtype=torch.promote_types(torch.float32, query.dtype)).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), weights


clamped_attention.shares = []
plain_attention = modeling_llama.eager_attention_forward


def weights(model, random, score_gain):
    """Weights under which every part of the model shows in the logits."""
    for name, tensor in model.named_parameters():
        drawn = torch.randn(tensor.shape, generator=random)
        if name.endswith("norm.weight"):
            tensor.data = 1 + 0.2 * drawn
        elif name.endswith("bias"):
            tensor.data = 0.5 * drawn
        else:
            gain = score_gain if ".q_proj." in name or ".k_proj." in name else 1.2
            tensor.data = drawn * gain / tensor.shape[-1] ** 0.5


def greedy(model, ids):
    new, gap = [], float("inf")
    for _ in range(GREEDY):
        top = model(torch.tensor([ids + new])).logits[0, -1].topk(2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        new.append(top.indices[0].item())
    return new, gap


def run(model, exact, vocab, length, context, random, dynamic):
    ids = torch.randint(0, vocab, (length,), generator=random).tolist()
    # Copies, because the rotary module remembers the longest text so far.
    logits, truth = (copy.deepcopy(m)(torch.tensor([ids])).logits[0] for m in (model, exact))
    positions = sorted({0, length // 2, length - 1})
    out = {
        "context": context,
        "ids": ids,
        # Nine digits: enough to give back an f32.
        "rows": {str(p): [float(f"{x:.9g}") for x in logits[p].tolist()] for p in positions},
        "error": float(f"{(logits - truth).abs().max().item():.2g}"),
    }
    if not dynamic:
        out["greedy"], gap = greedy(model, ids)
        out["gap"] = float(f"{gap:.3g}")
    return out


def write_expected(path, model, vocab, runs, seed, dynamic=False):
    """Runs prompts of random ids below `vocab` through a model, and writes expected.json. `runs`: (length, context)."""
    random = torch.Generator().manual_seed(1000 + seed)
    exact = copy.deepcopy(model).double()
    expected = {
        "made_with": f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}",
        "runs": [run(model, exact, vocab, length, context, random, dynamic) for length, context in runs],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(expected, file, separators=(",", ":"))
        file.write("\n")
    print(path, "error and gap:", [(r["error"], r.get("gap")) for r in expected["runs"]])


def main():
    torch.set_num_threads(1)
    for number, (name, (changes, runs)) in enumerate(CASES.items()):
        directory = os.path.join(sys.argv[1], name)
        os.makedirs(directory, exist_ok=True)
        clamp = name == "score-clamp"
        config = {**BASE, **changes}
        known = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "torch_dtype")}
        llama = LlamaConfig(**copy.deepcopy(known))
        llama._attn_implementation = "eager"
        random = torch.Generator().manual_seed(number)
        with torch.no_grad():
            model = LlamaForCausalLM(llama).eval()
            weights(model, random, score_gain=30.0 if clamp else 1.5)
            model.tie_weights()
            tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
            if config["tie_word_embeddings"]:
                tensors.pop("lm_head.weight")
            save_file(tensors, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})
            modeling_llama.eager_attention_forward = clamped_attention if clamp else plain_attention
            write_expected(
                os.path.join(directory, "expected.json"), model, 254, runs, number, dynamic=name == "rope-dynamic"
            )
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file, indent=2)
            file.write("\n")
        if clamp:
            print("share of scores at the clamp:", clamped_attention.shares[:2])


if __name__ == "__main__":
    main()
