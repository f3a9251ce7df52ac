"""Reads and writes GGUF, the one-file checkpoint format of llama.cpp, as far as the test models need it.

The layout (version 3, little endian): magic, version, number of tensors, number of metadata pairs; the pairs; for each
tensor its name, its dimensions (fastest first), its type and its offset; padding; the data.
"""

import struct
from typing import NamedTuple

import numpy as np

ALIGNMENT = 32
# Metadata value types that are plain numbers, by their code in the file.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
# Tensor types: code, numbers a block, bytes a block.
F32, F16, Q4_1, Q8_0, BF16 = 0, 1, 3, 8, 30
BLOCKS = {F32: (1, 4), F16: (1, 2), BF16: (1, 2), Q4_1: (32, 20), Q8_0: (32, 34)}


class Tensor(NamedTuple):
    shape: tuple  # slowest dimension first, as numpy and safetensors have it
    kind: int
    start: int  # from the beginning of the file


class Gguf:
    """The header of a GGUF file, and its tensors as f32 on demand."""

    def __init__(self, path):
        self.bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self.at = 0
        magic, version, tensors, pairs = self._unpack("<4sIQQ")
        if magic != b"GGUF" or version not in (2, 3):
            raise SystemExit(f"{path}: expected GGUF version 2 or 3, found {magic!r} version {version}")
        self.metadata = {}
        self.raw = {}  # each pair as it stands in the file: for copying into another file
        for _ in range(pairs):
            start = self.at
            key = self._string()
            self.metadata[key] = self._value(self._unpack("<I")[0])
            self.raw[key] = bytes(self.bytes[start : self.at])
        infos = []
        for _ in range(tensors):
            name = self._string()
            count = self._unpack("<I")[0]
            dims = self._unpack(f"<{count}Q")
            kind, offset = self._unpack("<IQ")
            infos.append((name, tuple(reversed(dims)), kind, offset))
        data = align(self.at, self.metadata.get("general.alignment", ALIGNMENT))
        self.tensors = {name: Tensor(shape, kind, data + offset) for name, shape, kind, offset in infos}

    def get(self, key, default=None):
        return self.metadata.get(key, default)

    def f32(self, name):
        """A tensor as f32, in its shape."""
        shape, kind, start = self.tensors[name]
        numbers = int(np.prod(shape))
        if kind not in BLOCKS:
            raise SystemExit(f"{name}: tensor type {kind} is not one of {sorted(BLOCKS)}")
        per_block, block_bytes = BLOCKS[kind]
        blocks = numbers // per_block
        data = self.bytes[start : start + blocks * block_bytes].reshape(blocks, block_bytes)
        return DECODERS[kind](data).reshape(shape)

    def _unpack(self, form):
        values = struct.unpack_from(form, self.bytes, self.at)
        self.at += struct.calcsize(form)
        return values

    def _string(self):
        length = self._unpack("<Q")[0]
        self.at += length
        return bytes(self.bytes[self.at - length : self.at]).decode("utf-8")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            item, length = self._unpack("<IQ")
            if item in SCALARS:
                form = SCALARS[item]
                return list(self._unpack(f"<{length}{form[1]}"))
            return [self._value(item) for _ in range(length)]
        return self._unpack(SCALARS[kind])[0]


def _q4_1(data):
    # A block: scale (f16), least value (f16), 16 bytes of which the low halves are numbers 0 to 15, the high 16 to 31.
    scale, least = (data[:, i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
    quants = np.concatenate([data[:, 4:] & 15, data[:, 4:] >> 4], axis=1).astype(np.float32)
    return scale * quants + least


def _q8_0(data):
    # A block: scale (f16), 32 signed bytes.
    scale = data[:, :2].copy().view(np.float16).astype(np.float32)
    return scale * data[:, 2:].copy().view(np.int8).astype(np.float32)


DECODERS = {
    F32: lambda data: data.copy().view(np.float32),
    F16: lambda data: data.copy().view(np.float16).astype(np.float32),
    BF16: lambda data: from_bf16(data.copy().view(np.uint16)),
    Q4_1: _q4_1,
    Q8_0: _q8_0,
}


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(numbers):
    """f32 to the bits of bf16, to the nearest, ties to even. Not for NaN."""
    bits = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def align(position, alignment=ALIGNMENT):
    return -(-position // alignment) * alignment


def pair(key, kind, value):
    """One metadata pair as bytes. `kind` is a code of SCALARS or STRING."""
    text = lambda s: struct.pack("<Q", len(s.encode())) + s.encode()
    body = text(value) if kind == STRING else struct.pack(SCALARS[kind], value)
    return text(key) + struct.pack("<I", kind) + body


def header(pairs, tensors):
    """All that stands before the data: `pairs` as bytes each, `tensors` as (name, shape, kind). Ends aligned."""
    out = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)), *pairs]
    offset = 0
    for name, shape, kind in tensors:
        encoded = name.encode()
        out.append(struct.pack("<Q", len(encoded)) + encoded)
        out.append(struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset))
        offset = align(offset + tensor_bytes(shape, kind))
    joined = b"".join(out)
    return joined + bytes(align(len(joined)) - len(joined))


def tensor_bytes(shape, kind):
    per_block, block_bytes = BLOCKS[kind]
    return int(np.prod(shape)) // per_block * block_bytes
