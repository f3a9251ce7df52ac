#!/usr/bin/env python3
"""Makes the test models from the fetched GGUF files. Needs numpy.

    make_models.py CACHE

CACHE holds SmolLM2-135M-Instruct.Q4_1.gguf and ggml-vocab-aquila.gguf. Written beside them:

    aquila-tokenizer/  the tokenizer files of Aquila-7B, and its config.json without weights
    smollm2-f32/       SmolLM2 as dequantised, f32
    smollm2-hf/        the same rounded to bf16
    smollm2-sharded/   the same in four shards with an index
    aquila7b-1l-f16/   one layer of Aquila-7B's shape with its vocabulary and random weights (2 GB)

A directory that this version of the scripts has made is left alone.
"""

import hashlib
import os
import shutil
import sys

import numpy as np

import make_aquila7b
import safetensors
from checkpoint import hf_name, pairs_to_halves, write_config
from gguf import Gguf, to_bf16
from vocabulary import Vocabulary, dump

# The sum is of what shared tools of other make (gguf, torch, safetensors) gave from the same file.
SMOLLM2_HF_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"


SCRIPTS = ["checkpoint.py", "gguf.py", "make_aquila7b.py", "make_models.py", "safetensors.py", "vocabulary.py"]


def scripts_sum():
    """The stamp of what these scripts make."""
    here = os.path.dirname(os.path.abspath(__file__))
    return hashlib.sha256("".join(file_sum(os.path.join(here, name)) for name in SCRIPTS).encode()).hexdigest()


def file_sum(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def make(cache, name, writer):
    """Lets `writer` fill a new directory, and puts it in place whole."""
    final, temporary, stamp = os.path.join(cache, name), os.path.join(cache, name + ".part"), scripts_sum()
    try:
        if open(os.path.join(final, ".made-by"), encoding="ascii").read() == stamp:
            return
    except FileNotFoundError:
        pass
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    writer(temporary)
    with open(os.path.join(temporary, ".made-by"), "w", encoding="ascii") as file:
        file.write(stamp)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(temporary, final)
    print(f"made {final}", file=sys.stderr)


def aquila_tokenizer(cache):
    def write(directory):
        gguf = Gguf(os.path.join(cache, "ggml-vocab-aquila.gguf"))
        # [CLS] and </s>: what BAAI's own code begins and ends with. That the tokenizer wraps a text in them is
        # inferred from BAAI's server, which cuts them off again.
        vocabulary = Vocabulary(gguf, bos=100006, eos=100007)
        vocabulary.write(directory, wrap=True)
        write_config(directory, gguf, vocabulary, "BF16")

    return write


def aquila7b(cache):
    def write(directory):
        vocab = Gguf(os.path.join(cache, "ggml-vocab-aquila.gguf"))
        make_aquila7b.write_hf(directory, vocab, make_aquila7b.Weights("F16", seed=1), layers=1, shards=1)

    return write


class SmolLm2:
    """The three forms of SmolLM2. The file is read and dequantised once, when first needed."""

    def __init__(self, cache):
        self.path = os.path.join(cache, "SmolLM2-135M-Instruct.Q4_1.gguf")
        self.gguf = self.vocabulary = self.weights = None

    def tensors(self):
        if self.weights is None:
            heads = {"attn_q": self.gguf.get("llama.attention.head_count"),
                     "attn_k": self.gguf.get("llama.attention.head_count_kv")}  # fmt: skip
            self.weights = {}
            for name in self.gguf.tensors:
                rows, part = self.gguf.f32(name), name.split(".")[-2]
                self.weights[hf_name(name)] = pairs_to_halves(rows, heads[part]) if part in heads else rows
        return self.weights

    def around(self, directory, dtype):
        if self.gguf is None:
            self.gguf = Gguf(self.path)
            self.vocabulary = Vocabulary(self.gguf)
        self.vocabulary.write(directory)
        write_config(directory, self.gguf, self.vocabulary, dtype)

    def f32(self, directory):
        self.around(directory, "F32")
        safetensors.write(os.path.join(directory, "model.safetensors"), "F32", self.tensors())

    def bf16(self, directory):
        self.around(directory, "BF16")
        path = os.path.join(directory, "model.safetensors")
        safetensors.write(path, "BF16", {name: to_bf16(rows) for name, rows in self.tensors().items()})
        if (found := file_sum(path)) != SMOLLM2_HF_SHA256:
            raise SystemExit(f"{path}: expected sha256 {SMOLLM2_HF_SHA256}, found {found}")

    def sharded(self, directory, shards=4):
        self.around(directory, "BF16")
        names = sorted(self.tensors(), key=self._layer_order)
        ends = np.cumsum([self.weights[name].size for name in names])
        total, shard_of = int(ends[-1]), {}
        for name, end in zip(names, ends):
            shard_of[name] = min(-(-int(end) * shards // total), shards)
        files = {i: f"model-{i:05d}-of-{shards:05d}.safetensors" for i in range(1, shards + 1)}
        for i, file in files.items():
            part = {name: to_bf16(self.weights[name]) for name in names if shard_of[name] == i}
            safetensors.write(os.path.join(directory, file), "BF16", part)
        index = {"metadata": {"total_size": 2 * total}, "weight_map": {name: files[shard_of[name]] for name in names}}
        dump(directory, "model.safetensors.index.json", index, indent=2)

    @staticmethod
    def _layer_order(name):
        words = name.split(".")
        if words[1] == "layers":
            return (1, int(words[2]), name)
        return (0 if words[1] == "embed_tokens" else 2, 0, name)


def main():
    cache = sys.argv[1]
    make(cache, "aquila-tokenizer", aquila_tokenizer(cache))
    smollm2 = SmolLm2(cache)
    make(cache, "smollm2-f32", smollm2.f32)
    make(cache, "smollm2-hf", smollm2.bf16)
    make(cache, "smollm2-sharded", smollm2.sharded)
    make(cache, "aquila7b-1l-f16", aquila7b(cache))


if __name__ == "__main__":
    main()
