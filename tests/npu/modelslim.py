#!/usr/bin/env python3
"""Makes of a Hugging Face directory (one model.safetensors in f32) a directory such as msModelSlim writes: static W8A8.

    modelslim.py MODEL OUT TOKENS [--bf16] [--smooth] [--float SUFFIX]...

TOKENS is a file of token ids, by which the inputs of the products are calibrated: the least and the largest number that
came. --bf16 stores f32 scales and bf16 entries, --smooth moves the spread and the middle of a norm's results into the
products behind it (norm.module.weight and .bias), --float leaves the matrices whose names end so as they were. Needs
numpy and nothing else. Written from the format's public description; it is not msModelSlim.
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy as np


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    out = {}
    for name, info in header.items():
        assert info["dtype"] == "F32", f"{name}: {info['dtype']}"
        start, end = info["data_offsets"]
        out[name] = np.frombuffer(data, np.float32, offset=8 + length + start, count=(end - start) // 4)
        out[name] = out[name].reshape(info["shape"])
    return out


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


class Model:
    """The decoder in f32, which tells what comes into its products."""

    def __init__(self, config, tensors):
        self.config, self.tensors, self.seen = config, tensors, {}

    def product(self, name, x):
        if name not in self.seen:
            self.seen[name] = (x.min(0), x.max(0))
        return x @ self.tensors[name + ".weight"].T

    def norm(self, name, x):
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return x * scale * self.tensors[name + ".weight"]

    def run(self, ids):
        c, t = self.config, len(ids)
        heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
        width = c.get("head_dim") or c["hidden_size"] // heads
        angles = np.arange(t)[:, None] / c["rope_theta"] ** (np.arange(0, width, 2) / width)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

        def turn(x):
            a, b = x[..., : width // 2], x[..., width // 2 :]
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

        x = self.tensors["model.embed_tokens.weight"][ids]
        mask = np.triu(np.full((t, t), -np.inf, np.float32), 1)
        for layer in range(c["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            h = self.norm(at + "input_layernorm", x)
            q = turn(self.product(at + "self_attn.q_proj", h).reshape(t, heads, width))
            k = turn(self.product(at + "self_attn.k_proj", h).reshape(t, kv, width))
            v = self.product(at + "self_attn.v_proj", h).reshape(t, kv, width)
            k, v = (np.repeat(a, heads // kv, axis=1) for a in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(width) + mask
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            scores /= scores.sum(-1, keepdims=True)
            attended = np.einsum("hqk,khd->qhd", scores, v).reshape(t, -1)
            x = x + self.product(at + "self_attn.o_proj", attended)
            h = self.norm(at + "post_attention_layernorm", x)
            gate, up = self.product(at + "mlp.gate_proj", h), self.product(at + "mlp.up_proj", h)
            x = x + self.product(at + "mlp.down_proj", gate / (1 + np.exp(-gate)) * up)
            x = x.astype(np.float32)


def plain(values, bf16):
    values = np.asarray(values, np.float32)
    if not bf16:
        return "F16", values.shape, values.astype("<f2").tobytes()
    bits = values.view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return "BF16", values.shape, bits.astype("<u2").tobytes()


def smoothed(model, layer):
    """For each norm of a layer: what its results are divided by, and what is added then."""
    out = {}
    for norm, names in (("input_layernorm", "qkv"), ("post_attention_layernorm", ("gate", "up"))):
        part = "self_attn" if names == "qkv" else "mlp"
        names = [f"model.layers.{layer}.{part}.{name}_proj" for name in names]
        least, most = model.seen[names[0]]
        weights = np.max([np.abs(model.tensors[name + ".weight"]).max(0) for name in names], axis=0)
        by = np.sqrt(np.maximum(np.maximum(-least, most), 1e-4) / np.maximum(weights, 1e-4)).astype(np.float32)
        out[f"model.layers.{layer}.{norm}"] = (by, (-(least + most) / 2 / by).astype(np.float32), names)
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("tokens", type=Path)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--smooth", action="store_true")
    parser.add_argument("--float", action="append", default=[])
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    model = Model(config, read_safetensors(args.model / "model.safetensors"))
    model.run(np.array(args.tokens.read_text().split(), np.int64))

    tensors, said = {}, {"model_quant_type": "W8A8", "version": "1.0.0", "group_size": 0}

    def put(name, value, kind="FLOAT"):
        tensors[name], said[name] = value, kind

    behind = {}
    if args.smooth:
        for layer in range(config["num_hidden_layers"]):
            for norm, (by, shift, names) in smoothed(model, layer).items():
                if any(name.endswith(tuple(args.float)) for name in names):
                    continue
                put(norm + ".module.weight", plain(model.tensors[norm + ".weight"] / by, args.bf16))
                put(norm + ".module.bias", plain(shift, args.bf16))
                behind.update(dict.fromkeys(names, (by, shift)))
    for name, value in model.tensors.items():
        linear = name.removesuffix(".weight")
        if linear not in model.seen or linear.endswith(tuple(args.float)):
            put(name, plain(value, args.bf16))
            continue
        least, most = model.seen[linear]
        bias = np.zeros(len(value), np.float32)
        if linear in behind:
            by, shift = behind[linear]
            value = value * by
            least, most, bias = least / by + shift, most / by + shift, -value @ shift
        least, most = min(least.min(), 0), max(most.max(), 0)
        scale = np.float32(max(most - least, 1e-3) / 255)
        offset = np.float32(np.clip(np.round(-128 - least / scale), -128, 127))
        weight_scale = np.maximum(np.abs(value).max(1), 1e-8) / 127
        codes = np.clip(np.round(value / weight_scale[:, None]), -127, 127).astype(np.int8)
        deq = (scale * weight_scale).astype(np.float32)
        correction = np.round(bias / deq - codes.sum(1, dtype=np.int64) * offset).astype("<i4")
        rows = (len(value),)
        put(name, ("I8", value.shape, codes.tobytes()), "W8A8")
        put(linear + ".input_scale", plain([scale], args.bf16), "W8A8")
        put(linear + ".input_offset", plain([offset], args.bf16), "W8A8")
        put(linear + ".quant_bias", ("I32", rows, correction.tobytes()), "W8A8")
        wide = ("F32", rows, deq.tobytes()) if args.bf16 else ("I64", rows, deq.view("<u4").astype("<i8").tobytes())
        put(linear + ".deq_scale", wide, "W8A8")

    args.out.mkdir(parents=True, exist_ok=True)
    for file in args.model.iterdir():
        if file.suffix in (".json", ".txt") and file.name != "config.json":
            shutil.copy(file, args.out)
    config["torch_dtype"] = "bfloat16" if args.bf16 else "float16"
    config["quantize"] = "w8a8"
    (args.out / "config.json").write_text(json.dumps(config))
    (args.out / "quant_model_description_w8a8.json").write_text(json.dumps(said))
    write_safetensors(args.out / "quant_model_weight_w8a8.safetensors", tensors)


main()
