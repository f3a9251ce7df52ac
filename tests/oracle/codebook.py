"""Finds the sixteen levels of the 4-bit codebook (src/backend/cpu/kernels/panels.rs).

    python3 codebook.py            needs numpy; takes a minute

Rows of a trained matrix look normally distributed within a few dozen weights, with a spread of their own. So the
levels are those that quantise blocks of 32 normal numbers with the least error, where each block has a
scale that is searched for, as the packer does, and a weight counts the more the larger it is. Lloyd's
algorithm: for fixed levels the best scale and codes of every block, for fixed scales and codes the best
levels. The levels are signed bytes; the largest magnitude is 127.
"""

import numpy

random = numpy.random.default_rng(20260101)
blocks = random.standard_normal((60000, 32)).astype(numpy.float32)
importance = numpy.sqrt((blocks**2).mean(1, keepdims=True) + blocks**2)
extreme = numpy.take_along_axis(blocks, numpy.abs(blocks).argmax(1)[:, None], 1)


def quantise(levels):
    """The best scale of each block and its codes."""
    best = numpy.full(len(blocks), -1.0)
    scales, codes = numpy.zeros(len(blocks)), numpy.zeros(blocks.shape, int)
    middles = (levels[1:] + levels[:-1]) / 2
    for end in (levels[0], levels[-1]):
        for step in range(-6, 7):
            inverse = end * (1 + 0.03 * step) / extreme
            code = numpy.searchsorted(middles, blocks * inverse)
            level = levels[code]
            along, length = (importance * blocks * level).sum(1), (importance * level**2).sum(1)
            gain = along**2 / length
            better = gain > best
            best[better], scales[better], codes[better] = gain[better], (along / length)[better], code[better]
    return scales, codes


levels = numpy.linspace(-127, 113, 16)
for turn in range(60):
    scales, codes = quantise(levels)
    weight = importance * scales[:, None] ** 2
    sums = numpy.bincount(codes.ravel(), (importance * blocks * scales[:, None]).ravel(), 16)
    levels = sums / numpy.bincount(codes.ravel(), weight.ravel(), 16)
    levels *= 127 / abs(levels).max()
    if levels[-1] > -levels[0]:
        levels = -levels[::-1]
    scales, codes = quantise(levels)
    error = (importance * (blocks - scales[:, None] * levels[codes]) ** 2).sum() / (importance * blocks**2).sum()
    if turn % 10 == 9:
        print(turn + 1, f"{error:.6f}", levels.round(2).tolist())
whole = levels.round()
scales, codes = quantise(whole)
error = (importance * (blocks - scales[:, None] * whole[codes]) ** 2).sum() / (importance * blocks**2).sum()
print("levels", whole.astype(int).tolist(), f"error {error:.6f}")
