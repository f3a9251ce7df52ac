#!/usr/bin/env python3
"""Writes SmolLM2 in the layout of FlagAI, BAAI's training code. Needs torch (Debian: python3-torch) and numpy.

    make_flagai.py CACHE

CACHE holds smollm2-hf/, which make_models.py has made. Written beside it:

    smollm2-flagai/          as Aquila-7B is published there: a key and value head for each query head, a head of its own,
                             one pytorch_model.bin with the state dict under "module"
    smollm2-flagai-grouped/  with SmolLM2's three key and value heads, in two shards with an index

A directory that this version of the scripts has made is left alone.
"""

import json
import os
import re
import shutil
import sys

import torch

import make_models
import make_torch
from checkpoint import halves_to_pairs
from vocabulary import dump

make_models.SCRIPTS = [*make_models.SCRIPTS, "make_flagai.py"]

TABLES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def flagai_name(name):
    if name in TABLES:
        return TABLES[name]
    layer, part = re.fullmatch(r"model\.layers\.(\d+)\.([\w.]+)\.weight", name).groups()
    return f"layers.{layer}.{PARTS[part]}.weight"


def convert(tensors, heads, kv_heads, grouped):
    """The tensors with FlagAI's names and rows; where not `grouped`, with each key and value head repeated."""
    converted = {}
    for name, tensor in tensors.items():
        if ("k_proj" in name or "v_proj" in name) and not grouped:
            each = tensor.reshape(kv_heads, -1, tensor.shape[1])
            tensor = each.repeat_interleave(heads // kv_heads, dim=0).reshape(-1, tensor.shape[1])
        if "q_proj" in name or "k_proj" in name:
            count = kv_heads if grouped and "k_proj" in name else heads
            # numpy has no bf16, whose bits are those of an int16.
            pairs = halves_to_pairs(tensor.view(torch.int16).numpy(), count)
            tensor = torch.from_numpy(pairs.copy()).view(torch.bfloat16)
        converted[flagai_name(name)] = tensor.contiguous()
    converted["output.weight"] = converted["tok_embeddings.weight"].clone()
    return converted


def writer(source, grouped):
    def write(directory):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(os.path.join(source, name), directory)
        with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
            hf = json.load(file)
        heads, kv_heads = hf["num_attention_heads"], hf["num_key_value_heads"]
        config = {
            "dim": hf["hidden_size"], "multiple_of": 256, "n_heads": heads, "n_layers": hf["num_hidden_layers"],
            "norm_eps": hf["rms_norm_eps"], "vocab_size": hf["vocab_size"],
            "max_seq_len": hf["max_position_embeddings"], "rope_theta": hf["rope_theta"],
            "initializer_range": 0.006, "flash_atten": False, "flash_atten_llama_style": False,
        }  # fmt: skip
        tensors = make_torch.read(os.path.join(source, "model.safetensors"))
        tensors = convert(tensors, heads, kv_heads, grouped)
        if not grouped:
            dump(directory, "config.json", config, indent=2)
            torch.save({"module": tensors}, os.path.join(directory, "pytorch_model.bin"))
            return
        dump(directory, "config.json", {**config, "n_kv_heads": kv_heads}, indent=2)
        names, weight_map = sorted(tensors), {}
        for i in range(2):
            file = f"pytorch_model-{i + 1:05d}-of-00002.bin"
            part = {name: tensors[name] for name in names[i::2]}
            torch.save(part, os.path.join(directory, file))
            weight_map.update((name, file) for name in part)
        dump(directory, "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map}, indent=2)

    return write


def main():
    cache = sys.argv[1]
    source = os.path.join(cache, "smollm2-hf")
    make_models.make(cache, "smollm2-flagai", writer(source, grouped=False))
    make_models.make(cache, "smollm2-flagai-grouped", writer(source, grouped=True))


if __name__ == "__main__":
    main()
