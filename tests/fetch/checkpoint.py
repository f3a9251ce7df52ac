"""What a LLaMA-type checkpoint in Hugging Face's form holds beside its weights, and what its tensors are called."""

import re

from vocabulary import dump

LAYER_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
TABLES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def hf_name(name):
    """llama.cpp's name of a tensor to Hugging Face's."""
    if name in TABLES:
        return TABLES[name]
    layer, part, kind = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name).groups()
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def halves_to_pairs(rows, heads):
    """Rows of q or k in Hugging Face's order (the two rotary halves of a head) to llama.cpp's (pairs side by side)."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def pairs_to_halves(rows, heads):
    """The inverse of `halves_to_pairs`."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_config(directory, gguf, vocabulary, dtype, **changes):
    """config.json and generation_config.json in the form that Aquila-7B is published in, from a GGUF header."""
    key = lambda name, default=None: gguf.get(f"llama.{name}", default)
    heads, hidden = key("attention.head_count"), key("embedding_length")
    ids = {"bos_token_id": vocabulary.bos, "eos_token_id": vocabulary.eos, "pad_token_id": vocabulary.pad}
    config = {
        "architectures": ["AquilaForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_aquila.AquilaConfig",
            "AutoModelForCausalLM": "modeling_aquila.AquilaForCausalLM",
        },
        **ids,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": key("feed_forward_length"),
        "max_position_embeddings": key("context_length"),
        "model_type": "aquila",
        "num_attention_heads": heads,
        "num_hidden_layers": key("block_count"),
        "num_key_value_heads": key("attention.head_count_kv", heads),
        # The file has an f32; the decimal number that it was is meant.
        "rms_norm_eps": float(f"{key('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_scaling": None,
        "rope_theta": float(key("rope.freq_base", 10000.0)),
        "tie_word_embeddings": bool(gguf.tensors) and "output.weight" not in gguf.tensors,
        "torch_dtype": TORCH_NAMES[dtype],
        "transformers_version": "4.31.0",
        "use_cache": True,
        "vocab_size": len(vocabulary.tokens),
        **changes,
    }
    dump(directory, "config.json", config, indent=2)
    generation = {"_from_model_config": True, **ids, "transformers_version": "4.31.0"}
    dump(directory, "generation_config.json", generation, indent=2)
