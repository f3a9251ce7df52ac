"""Writes safetensors files in the order and form that Hugging Face's own writer uses."""

import json
import struct

import numpy as np

WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


def header(tensors):
    """The bytes before the data. `tensors`: (name, dtype, shape), all of one dtype, sorted by name."""
    entries = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in tensors:
        end = offset + int(np.prod(shape)) * WIDTHS[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write(path, dtype, tensors):
    """Writes arrays of the stored width (bf16 as u16), {name: array}."""
    names = sorted(tensors)
    with open(path, "wb") as file:
        file.write(header([(name, dtype, tensors[name].shape) for name in names]))
        for name in names:
            np.ascontiguousarray(tensors[name]).tofile(file)
