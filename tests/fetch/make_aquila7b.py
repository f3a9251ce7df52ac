#!/usr/bin/env python3
"""Makes a model of Aquila-7B's shape: its real vocabulary, random weights. Needs numpy.

    make_aquila7b.py CACHE OUT [--layers 32] [--dtype f16|bf16|f32] [--format hf|gguf] [--seed 1] [--shards N]

CACHE holds ggml-vocab-aquila.gguf. OUT is a new directory (hf) or a new file (gguf). The two formats hold the same
numbers for the same dtype and seed; in GGUF the rows of q and k stand in llama.cpp's order and the norms are f32.
With 32 layers at 16 bits it is 14.6 GB, with 8 it is 4.9 GB; memory stays under 200 MB, and the disk sets the time.
"""

import argparse
import os
import zlib

import numpy as np

import gguf as gguf_file
import safetensors
from checkpoint import halves_to_pairs, hf_name, write_config
from gguf import Gguf, to_bf16
from vocabulary import Vocabulary, dump

STD = 0.02
SHARD_BYTES = 5_000_000_000  # the size at which Hugging Face's writer cuts by default
CHUNK_BYTES = 16 << 20
FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}  # general.file_type


class Weights:
    """Random matrices, a few rows at a time.

    Drawing 7.3 billion normal numbers would take minutes. Instead each row is a window into one pool of them, at a
    place and with a sign that are drawn for that row: any two rows are as good as independent.
    """

    def __init__(self, dtype, seed):
        self.dtype, self.seed = dtype, seed
        pool = np.random.default_rng(seed).standard_normal((1 << 22) + 3, dtype=np.float32) * np.float32(STD)
        self.pool = self.stored(pool)
        self.sign = np.array(1 << (8 * self.pool.itemsize - 1), dtype=self.pool.dtype)

    def stored(self, numbers):
        """f32 numbers to the bits of the dtype."""
        if self.dtype == "F32":
            return numbers.astype(np.float32).view(np.uint32)
        return to_bf16(numbers) if self.dtype == "BF16" else numbers.astype(np.float16).view(np.uint16)

    def f32(self, bits):
        """The inverse of `stored`."""
        if self.dtype == "F32":
            return bits.view(np.float32)
        return gguf_file.from_bf16(bits) if self.dtype == "BF16" else bits.view(np.float16).astype(np.float32)

    def norm(self, name, width):
        """A norm's weight: near one."""
        start = np.random.default_rng([self.seed, zlib.crc32(name.encode())]).integers(1 << 20)
        return self.stored(1 + self.f32(self.pool[start : start + width]))

    def chunks(self, name, shape, heads=None):
        """The rows of a matrix, chunk by chunk. `heads`: permuted to llama.cpp's order of so many heads."""
        rows, width = shape
        random = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        starts = random.integers(len(self.pool) - width, size=rows)
        signs = random.integers(2, size=rows).astype(self.pool.dtype) * self.sign
        if heads:
            starts, signs = halves_to_pairs(starts, heads), halves_to_pairs(signs, heads)
        windows = np.lib.stride_tricks.sliding_window_view(self.pool, width)
        step = max(1, CHUNK_BYTES // (width * self.pool.itemsize))
        for at in range(0, rows, step):
            yield windows[starts[at : at + step]] ^ signs[at : at + step, None]


def tensors(vocab, layers):
    """(llama.cpp's name, shape) of all, in layer order. One dimension: a norm."""
    hidden, ffn = vocab.get("llama.embedding_length"), vocab.get("llama.feed_forward_length")
    rows = len(vocab.get("tokenizer.ggml.tokens"))
    square = (hidden, hidden)
    yield "token_embd.weight", (rows, hidden)
    for i in range(layers):
        for part, shape in [
            ("attn_norm", (hidden,)), ("attn_q", square), ("attn_k", square), ("attn_v", square),
            ("attn_output", square), ("ffn_norm", (hidden,)), ("ffn_gate", (ffn, hidden)), ("ffn_up", (ffn, hidden)),
            ("ffn_down", (hidden, ffn)),
        ]:  # fmt: skip
            yield f"blk.{i}.{part}.weight", shape
    yield "output_norm.weight", (hidden,)
    yield "output.weight", (rows, hidden)


def write_hf(out, vocab, weights, layers, shards):
    dtype = weights.dtype
    os.makedirs(out, exist_ok=True)
    vocabulary = Vocabulary(vocab, bos=100006, eos=100007)
    vocabulary.write(out, wrap=True)
    write_config(out, vocab, vocabulary, dtype, num_hidden_layers=layers)
    width = safetensors.WIDTHS[dtype]
    named = [(hf_name(name), shape) for name, shape in tensors(vocab, layers)]
    ends = np.cumsum([int(np.prod(shape)) for _, shape in named])
    total = int(ends[-1])
    shards = shards or -(-total * width // SHARD_BYTES)
    shard_of = {name: min(-(-int(end) * shards // total), shards) for (name, _), end in zip(named, ends)}
    file_of = lambda i: f"model-{i:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
    for i in range(1, shards + 1):
        part = sorted((name, shape) for name, shape in named if shard_of[name] == i)
        with open(os.path.join(out, file_of(i)), "wb") as file:
            file.write(safetensors.header([(name, dtype, shape) for name, shape in part]))
            for name, shape in part:
                write_tensor(file, weights, name, shape)
    if shards > 1:
        index = {"metadata": {"total_size": total * width}}
        index["weight_map"] = {name: file_of(shard_of[name]) for name, _ in named}
        dump(out, "model.safetensors.index.json", index, indent=2)


def write_gguf(out, vocab, weights, layers):
    heads = vocab.get("llama.attention.head_count")
    pairs = dict(vocab.raw)
    pairs["general.name"] = gguf_file.pair("general.name", gguf_file.STRING, f"Aquila-7B shape, {layers} layers")
    pairs["general.file_type"] = gguf_file.pair("general.file_type", 4, FILE_TYPES[weights.dtype])
    pairs["llama.block_count"] = gguf_file.pair("llama.block_count", 4, layers)
    kind = {"F32": gguf_file.F32, "F16": gguf_file.F16, "BF16": gguf_file.BF16}[weights.dtype]
    infos = [(name, shape, kind if len(shape) == 2 else gguf_file.F32) for name, shape in tensors(vocab, layers)]
    with open(out, "xb") as file:
        file.write(gguf_file.header(list(pairs.values()), infos))
        for name, shape, kind in infos:
            part = name.split(".")[-2]
            permuted = heads if part in ("attn_q", "attn_k") else None
            write_tensor(file, weights, hf_name(name), shape, permuted, norm_f32=True)
            file.write(bytes(gguf_file.align(file.tell()) - file.tell()))


def write_tensor(file, weights, name, shape, heads=None, norm_f32=False):
    if len(shape) == 1:
        bits = weights.norm(name, shape[0])
        (weights.f32(bits) if norm_f32 else bits).tofile(file)
        return
    for chunk in weights.chunks(name, shape, heads):
        chunk.tofile(file)


def main():
    parser = argparse.ArgumentParser(description="Makes a model of Aquila-7B's shape with random weights.")
    parser.add_argument("cache")
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--dtype", choices=["f16", "bf16", "f32"], default="f16")
    parser.add_argument("--format", choices=["hf", "gguf"], default="hf")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=0, help="files (hf); 0: one for every 5 GB")
    a = parser.parse_args()
    if os.path.exists(a.out):
        raise SystemExit(f"{a.out}: is there already")
    vocab = Gguf(os.path.join(a.cache, "ggml-vocab-aquila.gguf"))
    weights = Weights(a.dtype.upper(), a.seed)
    if a.format == "gguf":
        write_gguf(a.out, vocab, weights, a.layers)
    else:
        write_hf(a.out, vocab, weights, a.layers, a.shards)


if __name__ == "__main__":
    main()
