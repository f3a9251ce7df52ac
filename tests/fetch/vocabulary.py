"""Writes the tokenizer of a GGUF file as the files of a Hugging Face directory."""

import json
import os

NORMAL, CONTROL, USER, UNUSED = 1, 3, 4, 5
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# How text is cut before merging, by `tokenizer.ggml.pre`. Aquila's vocabulary file has no such key: GPT-2's rule.
PRE_TOKENIZERS = {
    "gpt2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
}


def dump(directory, name, value, **options):
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, **options)


class Vocabulary:
    """The tokens of a GGUF file. `bos` and `eos` hold where they are given: Aquila's vocabulary file has 0 for both."""

    def __init__(self, gguf, bos=None, eos=None):
        key = lambda name, default=None: gguf.get("tokenizer.ggml." + name, default)
        self.tokens, self.types, self.merges = key("tokens"), key("token_type"), key("merges")
        self.bos = key("bos_token_id") if bos is None else bos
        self.eos = key("eos_token_id") if eos is None else eos
        self.pad, self.unk = key("padding_token_id", 0), key("unknown_token_id")
        self.pre = key("pre", "gpt2")
        self.template = gguf.get("tokenizer.chat_template")
        self.context = gguf.get(gguf.get("general.architecture") + ".context_length")

    def write(self, directory, wrap=False):
        """Writes the six tokenizer files. `wrap`: the tokenizer puts bos before and eos behind a text."""
        tokens = self.tokens
        special = [i for i, kind in enumerate(self.types) if kind in (CONTROL, USER)]
        last_normal = max(i for i, kind in enumerate(self.types) if kind == NORMAL)
        # vocab.json holds the trained tokens and the special ones among them; those behind stand in the added ones only.
        behind = [i for i in special if i >= last_normal]
        vocab = {t: i for i, t in enumerate(tokens) if self.types[i] != UNUSED and i not in set(behind)}
        if self.pre == "gpt2" and 0 not in special:
            special.insert(0, 0)  # Aquila's <|endoftext|> is added and in vocab.json
        added = [
            {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": self.types[i] != USER}
            for i in special
        ]  # fmt: skip
        dump(directory, "tokenizer.json", {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": PRE_TOKENIZERS[self.pre], "post_processor": self._post_processor(wrap),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": self.merges},
        })  # fmt: skip
        dump(directory, "vocab.json", vocab, separators=(",", ":"))
        with open(os.path.join(directory, "merges.txt"), "w", encoding="utf-8", newline="\n") as file:
            file.write("\n".join(["#version: 0.2 - Trained by `huggingface/tokenizers`", *self.merges, ""]))
        dump(directory, "added_tokens.json", {tokens[i]: i for i in behind}, indent=2)
        ids = {"bos_token": self.bos, "eos_token": self.eos, "unk_token": self.unk, "pad_token": self.pad}
        names = {name: tokens[i] for name, i in ids.items() if i is not None}
        dump(directory, "special_tokens_map.json", names, indent=2)
        config = {"add_prefix_space": False, **names, "clean_up_tokenization_spaces": False,
                  "model_max_length": self.context, "tokenizer_class": "GPT2Tokenizer"}  # fmt: skip
        if self.template:
            config["chat_template"] = self.template
        dump(directory, "tokenizer_config.json", config, indent=2)

    def _post_processor(self, wrap):
        if not wrap:
            return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
        special = lambda i: {"SpecialToken": {"id": self.tokens[i], "type_id": 0}}
        text = lambda name: [special(self.bos), {"Sequence": {"id": name, "type_id": 0}}, special(self.eos)]
        return {
            "type": "TemplateProcessing", "single": text("A"), "pair": text("A") + text("B"),
            "special_tokens": {self.tokens[i]: {"id": self.tokens[i], "ids": [i], "tokens": [self.tokens[i]]}
                               for i in (self.bos, self.eos)},
        }  # fmt: skip
