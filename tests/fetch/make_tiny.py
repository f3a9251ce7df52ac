#!/usr/bin/env python3
"""Makes a small model with random weights, for a machine that can fetch none. Needs Python alone.

    make_tiny.py OUT [--seed 1] [--hidden 64] [--layers 2]

OUT is a new directory in Hugging Face's form: config.json in Aquila's form, tokenizer.json (a byte-level vocabulary of
the 256 bytes and some English words), model.safetensors (f32). What it says are words in a random order.
"""

import argparse
import json
import os
import random
import struct

WORDS = """the a of and to in is was it that for on with as at by from river mountain sun moon light water bird tree
house road garden window letter morning evening winter summer stone cloud wind fire song story friend child teacher
city village ship bridge door table book lamp small great old new green blue white quiet slow bright warm cold long
goes comes sings falls rises runs waits opens closes finds keeps gives tells under over near between while where""".split()
END = "</s>"


def byte_letters():
    """The letter that stands for each byte in a byte-level vocabulary: the printable ones for themselves, the others
    for the letters from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (chr(n) for n in range(0x100, 0x200))
    return [chr(b) if b in printable else next(others) for b in range(256)]


def vocabulary():
    """Tokens, merges and the ids of the words. A word's merges go from left to right: r i, ri v, riv e, …"""
    letters = byte_letters()
    tokens, merges, words = {c: i for i, c in enumerate(sorted(letters))}, [], []
    for word in WORDS:
        word = letters[0x20] + word  # with the space before it
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens[word[:end]] = len(tokens)
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
        words.append(tokens[word])
    return tokens, merges, words


def write_json(out, name, value):
    with open(os.path.join(out, name), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)


def write_tokenizer(out, tokens, merges):
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": len(tokens), "content": END, "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}  # fmt: skip
    write_json(out, "tokenizer.json", {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [end], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": tokens, "merges": merges},
    })  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description="Makes a small model with random weights.")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    a = parser.parse_args()
    os.makedirs(a.out, exist_ok=True)
    tokens, merges, words = vocabulary()
    vocab, hidden, ffn, heads = len(tokens) + 1, a.hidden, 3 * a.hidden, 4
    write_tokenizer(a.out, tokens, merges)
    write_json(a.out, "config.json", {
        "architectures": ["AquilaForCausalLM"], "model_type": "aquila", "torch_dtype": "float32", "hidden_act": "silu",
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": a.layers, "num_attention_heads": heads,
        "num_key_value_heads": heads // 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": False, "vocab_size": vocab,
        "bos_token_id": vocab - 1, "eos_token_id": vocab - 1, "initializer_range": 0.02, "use_cache": True,
    })  # fmt: skip

    source = random.Random(a.seed)
    matrix = lambda rows, width: [source.gauss(0, width**-0.5) for _ in range(rows * width)]
    # Only whole words get an output row of full size, so that only they are said.
    head = matrix(vocab, hidden)
    for row in set(range(vocab)) - set(words):
        head[row * hidden : (row + 1) * hidden] = [x / 50 for x in head[row * hidden : (row + 1) * hidden]]
    table = [x * hidden**0.5 for x in matrix(vocab, hidden)]
    tensors = {"model.embed_tokens.weight": ([vocab, hidden], table), "lm_head.weight": ([vocab, hidden], head)}
    tensors["model.norm.weight"] = ([hidden], [4.0] * hidden)
    for i in range(a.layers):
        layer = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{name}.weight"] = ([hidden], [1.0] * hidden)
        for name, rows, width in [
            ("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", hidden // 2, hidden),
            ("self_attn.v_proj", hidden // 2, hidden), ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", ffn, hidden), ("mlp.up_proj", ffn, hidden), ("mlp.down_proj", hidden, ffn),
        ]:  # fmt: skip
            tensors[f"{layer}{name}.weight"] = ([rows, width], matrix(rows, width))

    entries, offset = {}, 0
    for name, (shape, numbers) in tensors.items():
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * len(numbers)]}
        offset += 4 * len(numbers)
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with open(os.path.join(a.out, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _, numbers in tensors.values():
            file.write(struct.pack(f"<{len(numbers)}f", *numbers))


if __name__ == "__main__":
    main()
