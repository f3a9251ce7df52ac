#!/usr/bin/env python3
"""Random blocks of every quantised GGUF type with the values that ggml's reference dequantiser gives.

    pip install gguf==0.19.0 numpy==2.4.6
    python tests/oracle/make_quant.py tests/oracle/data

writes one file a type: the number of blocks (u32, little endian), the blocks, the f32 values.
The f16 scales are finite; every other byte is random.
"""
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, dequantize

# Where the f16 numbers of a block stand.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}

random = np.random.default_rng(20240229)
for kind, halves in HALVES.items():
    elements, size = GGML_QUANT_SIZES[kind]
    count = 4096 // elements
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:
        scale = (random.standard_normal(count) * 0.02).astype(np.float16)
        scale[0], scale[1] = 6e-8, -65504  # the smallest subnormal and the largest number
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(count, 2)
    values = dequantize(blocks, kind).astype("<f4").reshape(-1)
    assert values.size == count * elements
    with open(f"{sys.argv[1]}/{kind.name.lower()}.bin", "wb") as f:
        f.write(np.uint32(count).tobytes() + blocks.tobytes() + values.tobytes())
