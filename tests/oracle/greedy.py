#!/usr/bin/env python3
"""Greedy continuations of a checkpoint by transformers' LlamaForCausalLM with eager attention, in f32 arithmetic.

    greedy.py DIRECTORY OUT.json [--new 64] [--chat] PROMPT…        (with the packages of requirements.txt)

--chat puts each prompt, as a user's message, into SmolLM2's form of a conversation.

OUT.json is a list: per prompt its text and ids, the new ids and their text, the five largest logits at the first new
position, and the smallest gap between the two largest logits over the run. A gap well above the arithmetic's error
means that any engine with f32 accumulation gives the same ids.
"""

import argparse
import json
import os

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def load(directory):
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    for key in ("architectures", "auto_map", "model_type", "torch_dtype", "transformers_version"):
        config.pop(key, None)
    llama = LlamaConfig(**config)
    llama._attn_implementation = "eager"
    tensors = {}
    for name in sorted(os.listdir(directory)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(directory, name)))
    with torch.device("meta"):
        model = LlamaForCausalLM(llama)
    model = model.to_empty(device="cpu").float()
    model.model.rotary_emb.__init__(llama)  # its table is no stored tensor
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    model.tie_weights()
    return model.eval(), config


def continuation(model, tokenizer, prompt, new, eos):
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    rows, cache, given = [], None, torch.tensor([ids])
    for _ in range(new):
        step = model(given, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        rows.append(step.logits[0, -1])
        given = rows[-1].argmax().reshape(1, 1)
        if given.item() == eos:
            break
    top = torch.stack(rows).topk(5)
    new_ids = top.indices[:, 0].tolist()
    return {
        "prompt": prompt,
        "prompt_ids": ids,
        "new_ids": new_ids,
        "text": tokenizer.decode(new_ids, skip_special_tokens=False),
        "first_top5": [[int(i), round(float(v), 5)] for i, v in zip(top.indices[0], top.values[0])],
        "min_top1_top2_gap": round(float((top.values[:, 0] - top.values[:, 1]).min()), 5),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("out")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--chat", action="store_true")
    a = parser.parse_args()
    if a.chat:
        a.prompts = [f"<|im_start|>user\n{p}<|im_end|>\n<|im_start|>assistant\n" for p in a.prompts]
    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(a.directory, "tokenizer.json"))
    with torch.no_grad():
        model, config = load(a.directory)
        runs = [continuation(model, tokenizer, p, a.new, config["eos_token_id"]) for p in a.prompts]
    with open(a.out, "w", encoding="utf-8") as file:
        json.dump(runs, file, ensure_ascii=False, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
