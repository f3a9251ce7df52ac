#!/usr/bin/env python3
"""Makes tests/golden/torch/VERSION/: small files written by torch.save, and what they hold.

    make_torch_golden.py OUT        (with any torch; OUT gets a directory named after its version)

expected.json: {file: {tensor: {"dtype", "shape", "values"}}}, the values as torch reads them, row by row.
"""

import collections
import json
import os
import sys

import torch


def numbers(count, dtype):
    """Numbers that every type holds exactly."""
    return (torch.arange(count) % 61 - 30).to(dtype)


def plain():
    state = torch.nn.Sequential(torch.nn.Linear(3, 2)).state_dict()  # an OrderedDict with metadata of its modules
    state["0.weight"].copy_(numbers(6, torch.float32).reshape(2, 3))
    state["0.bias"].copy_(numbers(2, torch.float32))
    state["half"] = numbers(40, torch.float16).reshape(5, 8)
    state["brain"] = numbers(24, torch.bfloat16).reshape(2, 3, 4)
    state["double"] = numbers(3, torch.float64)
    state["long"] = numbers(3, torch.int64)
    state["bytes"] = numbers(3, torch.uint8)
    state["flags"] = torch.tensor([True, False])
    state["scalar"] = torch.tensor(5.5)
    state["nothing"] = torch.zeros(0, 4)
    return state


def views():
    base = numbers(60, torch.float32).reshape(6, 10)
    return {
        "base": base,
        "same": base,
        "rows": base[2:4],
        "one": base[3, 4],
        "columns": base[:, 3:5],
        "transposed": base.t(),
        "every second": base[::2],
        "half transposed": numbers(12, torch.float16).reshape(3, 4).t(),
        "permuted": numbers(24, torch.bfloat16).reshape(2, 3, 4).permute(2, 0, 1),
        "single column": base[:, :1].t(),
        "parameter": torch.nn.Parameter(base[1]),
    }


def wrapped():
    inner = collections.OrderedDict(("module." + name, tensor) for name, tensor in list(plain().items())[:3])
    return {"epoch": 3, "lr": 0.25, "notes": ["a", ("b", None, True)], "module": inner}


def newer(state):
    """Types that have no storage of their own."""
    for name in ("uint16", "float8_e4m3fn"):
        if hasattr(torch, name):
            state[name] = numbers(4, torch.float32).clamp(0).to(getattr(torch, name))
    return state


def main():
    directory = os.path.join(sys.argv[1], torch.__version__.split("+")[0])
    os.makedirs(directory, exist_ok=True)
    expected = {}

    def save(name, state, tensors=None, **options):
        torch.save(state, os.path.join(directory, name), **options)
        expected[name] = {
            key: {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "values": tensor.detach().double().flatten().tolist(),
            }
            for key, tensor in (tensors or state).items()
        }

    for form, zipped in (("zip", True), ("legacy", False)):
        options = {"_use_new_zipfile_serialization": zipped}
        save(f"plain-{form}.bin", newer(plain()), **options)
        save(f"views-{form}.bin", views(), **options)
        state = wrapped()
        tensors = {name.removeprefix("module."): tensor for name, tensor in state["module"].items()}
        save(f"wrapped-{form}.bin", state, tensors, **options)
        for protocol in (3, 4, 5):
            save(f"protocol{protocol}-{form}.bin", plain(), pickle_protocol=protocol, **options)
    tensor = numbers(4, torch.float32)
    save("alone.bin", tensor, {"": tensor})
    if hasattr(torch.serialization, "set_crc32_options"):
        torch.serialization.set_crc32_options(False)
        save("no-checksums.bin", plain())
    with open(os.path.join(directory, "expected.json"), "w", encoding="ascii") as file:
        json.dump(expected, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
