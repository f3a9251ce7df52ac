#!/usr/bin/env python3
"""Writes SmolLM2 with torch.save. Needs torch (Debian: python3-torch) and numpy.

    make_torch.py CACHE

CACHE holds smollm2-hf/, which make_models.py has made. Written beside it:

    smollm2-bin/          one pytorch_model.bin, a zip archive
    smollm2-bin-sharded/  three of them with an index, and a head of its own as Aquila-7B has it
    smollm2-bin-legacy/   one in the form of torch before 1.6

A directory that this version of the scripts has made is left alone.
"""

import json
import os
import shutil
import struct
import sys

import torch

import make_models
from vocabulary import dump

# What is made here also depends on this file; what make_models.py makes does not.
make_models.SCRIPTS = [*make_models.SCRIPTS, "make_torch.py"]


def read(path):
    """The tensors of a safetensors file of bf16, {name: tensor}."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            flat = torch.frombuffer(data, dtype=torch.bfloat16, offset=start, count=(end - start) // 2)
            # A storage of its own, or each would be saved with all others in it.
            tensors[name] = flat.clone().reshape(entry["shape"])
    return tensors


def writer(source, shards=1, zipped=True):
    def write(directory):
        for name in os.listdir(source):
            if not name.startswith(("model", ".")):
                shutil.copy(os.path.join(source, name), directory)
        tensors = read(os.path.join(source, "model.safetensors"))
        save = lambda part, name: torch.save(
            part, os.path.join(directory, name), _use_new_zipfile_serialization=zipped
        )
        if shards == 1:
            save(tensors, "pytorch_model.bin")
            return
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        with open(os.path.join(source, "config.json"), encoding="utf-8") as file:
            dump(directory, "config.json", {**json.load(file), "tie_word_embeddings": False}, indent=2)
        names, weight_map = sorted(tensors), {}
        for i in range(shards):
            file = f"pytorch_model-{i + 1:05d}-of-{shards:05d}.bin"
            part = {name: tensors[name] for name in names[i::shards]}
            save(part, file)
            weight_map.update((name, file) for name in part)
        total = sum(2 * tensor.numel() for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        dump(directory, "pytorch_model.bin.index.json", index, indent=2)

    return write


def main():
    cache = sys.argv[1]
    source = os.path.join(cache, "smollm2-hf")
    make_models.make(cache, "smollm2-bin", writer(source))
    make_models.make(cache, "smollm2-bin-sharded", writer(source, shards=3))
    make_models.make(cache, "smollm2-bin-legacy", writer(source, zipped=False))


if __name__ == "__main__":
    main()
