"""What torch's own reader finds in the .bin files of a directory, with code forbidden: python3 torch_reads.py DIR

Prints the types, how many tensors there are, and the sum of all elements, each times its place in its tensor modulo 97.
"""

import glob
import json
import sys

import torch

tensors = {}
for path in sorted(glob.glob(sys.argv[1] + "/*.bin")):
    part = torch.load(path, map_location="cpu", weights_only=True)
    assert not tensors.keys() & part.keys(), path
    tensors.update(part)
if glob.glob(sys.argv[1] + "/*.index.json"):
    with open(glob.glob(sys.argv[1] + "/*.index.json")[0]) as file:
        assert json.load(file)["weight_map"].keys() == tensors.keys()
total = 0.0
for tensor in tensors.values():
    flat = tensor.double().flatten()
    total += float((flat * (torch.arange(flat.numel()) % 97).double()).sum())
print(json.dumps({"dtypes": sorted({str(t.dtype) for t in tensors.values()}), "tensors": len(tensors), "sum": total}))
