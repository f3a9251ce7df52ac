#!/usr/bin/env python3
"""Makes tests/golden/gguf/: small GGUF files of all quantised types, and the logits of their dequantised weights.

    make_gguf_golden.py OUT        (with the packages of requirements.txt)

NAME.gguf holds random blocks, written by the gguf package, with the rows of q and k in llama.cpp's order; NAME.json has
the form of tests/oracle/make_tiny_golden.py's expected.json. The logits are transformers' on what the gguf package
dequantises. `blocks32`: the types of 32 numbers a block, and the 16-bit ones. `blocks256`: the types of 256.
"""

import os
import sys

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFWriter, dequantize
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import make_tiny_golden as tiny

# name: (hidden, ffn, heads, kv heads, head width, layers, types, taken in turn)
CASES = {
    "blocks32": (64, 96, 4, 2, 32, 2, [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.F16, T.BF16]),
    "blocks256": (256, 256, 4, 2, 64, 1, [T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K]),
}
VOCAB, CONTEXT, PROMPT = 64, 64, 40
# Where a block holds f16 scales.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}  # fmt: skip


def blocks(kind, shape, std, random):
    """Random bytes of a type, with scales under which the numbers have about this deviation."""
    if kind in (T.F16, T.BF16):
        numbers = (random.standard_normal(shape) * std).astype(np.float32)
        if kind == T.F16:
            return numbers.astype(np.float16).view(np.uint8)
        return (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    per_block, size = GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (shape[0] * shape[1] // per_block, size), dtype=np.uint8)

    def scale(value):
        for at in SCALES[kind]:
            data[:, at : at + 2] = np.full(len(data), value, np.float16).view(np.uint8).reshape(-1, 2)

    scale(1.0)
    scale(std / dequantize(data, kind).std())
    return data.reshape(shape[0], -1)


def halves(rows, heads):
    """llama.cpp's order of q and k rows to Hugging Face's."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def make(out, name, seed):
    hidden, ffn, heads, kv_heads, head_dim, layers, kinds = CASES[name]
    random = np.random.default_rng(seed)
    writer = GGUFWriter(os.path.join(out, name + ".gguf"), "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCAB)
    tensors, turn = {}, 0

    def matrix(gguf_name, hf_name, rows, width, gain=1.2, permuted=0):
        nonlocal turn
        kind = kinds[turn % len(kinds)]
        turn += 1
        data = blocks(kind, (rows, width), gain / width**0.5, random)
        writer.add_tensor(gguf_name + ".weight", data, raw_dtype=kind)
        numbers = dequantize(data, kind).reshape(rows, width)
        tensors[hf_name + ".weight"] = halves(numbers, permuted) if permuted else numbers

    def norm(gguf_name, hf_name):
        numbers = (1 + 0.2 * random.standard_normal(hidden)).astype(np.float32)
        writer.add_tensor(gguf_name + ".weight", numbers)
        tensors[hf_name + ".weight"] = numbers

    q, kv = heads * head_dim, kv_heads * head_dim
    matrix("token_embd", "model.embed_tokens", VOCAB, hidden, gain=hidden**0.5)
    for i in range(layers):
        gguf, hf = f"blk.{i}.", f"model.layers.{i}."
        norm(gguf + "attn_norm", hf + "input_layernorm")
        norm(gguf + "ffn_norm", hf + "post_attention_layernorm")
        matrix(gguf + "attn_q", hf + "self_attn.q_proj", q, hidden, 1.5, permuted=heads)
        matrix(gguf + "attn_k", hf + "self_attn.k_proj", kv, hidden, 1.5, permuted=kv_heads)
        matrix(gguf + "attn_v", hf + "self_attn.v_proj", kv, hidden)
        matrix(gguf + "attn_output", hf + "self_attn.o_proj", hidden, q)
        matrix(gguf + "ffn_gate", hf + "mlp.gate_proj", ffn, hidden)
        matrix(gguf + "ffn_up", hf + "mlp.up_proj", ffn, hidden)
        matrix(gguf + "ffn_down", hf + "mlp.down_proj", hidden, ffn)
    norm("output_norm", "model.norm")
    matrix("output", "lm_head", VOCAB, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=ffn, num_attention_heads=heads, num_key_value_heads=kv_heads,
        num_hidden_layers=layers, head_dim=head_dim, vocab_size=VOCAB, max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in tensors.items()})
    tiny.write_expected(os.path.join(out, name + ".json"), model, VOCAB, [(PROMPT, CONTEXT)], seed)


def main():
    torch.set_num_threads(1)
    os.makedirs(sys.argv[1], exist_ok=True)
    with torch.no_grad():
        for seed, name in enumerate(CASES):
            make(sys.argv[1], name, seed)


if __name__ == "__main__":
    main()
