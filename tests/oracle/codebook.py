"""Finds the sixteen levels of the 4-bit codebook (src/backend/cpu/kernels/panels.rs), and weighs its form.

    python3 codebook.py            needs numpy; takes two minutes

Rows of a trained matrix look normally distributed within a few dozen weights, with a spread of their own. So the
levels are those that quantise blocks of 32 normal numbers with the least error, where each block has a
scale and an offset of its levels that are searched for, and a weight counts the more the larger it is. Lloyd's
algorithm: for fixed levels the best scale, offset and codes of every block, for fixed scales, offsets and
codes the best levels. The levels are signed bytes; the largest magnitude is 112, so that an offset of up to
15 leaves them bytes.

Prints the levels, then the relative error (root mean square) of normal blocks in four forms: as GGUF's Q4_0; in the
form of GGUF's Q4_K (codes × scale − minimum, which are 6-bit factors of two f16 for 256) with a search for both;
with the codebook and no offset; and with both.
"""

import numpy

MOST = 15  # offsets are −15, −13 … 15
random = numpy.random.default_rng(20260101)


def importance(blocks):
    return numpy.sqrt((blocks**2).mean(1, keepdims=True)) + abs(blocks)


def line(w, level, blocks):
    """The weighted least-squares slope and intercept of each block over its levels."""
    sums = [(w * f).sum(1) for f in (1, level, level**2, level * blocks, blocks)]
    one, first, second, product, value = sums
    determinant = one * second - first**2
    return (one * product - first * value) / determinant, (second * value - first * product) / determinant


def with_offset(blocks, levels, ends, offsets, refine):
    """Scale, offset and codes of each block: candidates put the extreme weight on an end of the levels."""
    w, middles = importance(blocks), (levels[1:] + levels[:-1]) / 2
    extreme = numpy.take_along_axis(blocks, abs(blocks).argmax(1)[:, None], 1)[:, 0]
    best = numpy.zeros((3, len(blocks)))  # gain, scale, offset

    def candidate(scale, offset):
        level = levels[numpy.searchsorted(middles, blocks / scale[:, None] - offset[:, None])]
        slope, intercept = line(w, level, blocks)
        free = intercept / slope
        rounded = numpy.clip(numpy.round((free + MOST) / 2) * 2 - MOST, -MOST, MOST) if len(offsets) > 1 else 0 * free
        shifted = level + rounded[:, None]
        along, length = (w * blocks * shifted).sum(1), (w * shifted**2).sum(1)
        better = along**2 / length > best[0]
        best[:, better] = numpy.array([along**2 / length, along / length, rounded])[:, better]

    for end in ends:
        for offset in offsets:
            candidate(extreme / (levels[end] + offset), numpy.full(len(blocks), float(offset)))
    for _ in range(refine):
        candidate(best[1].copy(), best[2].copy())
    scale, offset = best[1][:, None], best[2][:, None]
    return scale, offset, numpy.searchsorted(middles, blocks / scale - offset)


def with_minimum(blocks):
    """The values of GGUF's Q4_K for rows of 8 blocks: of some first scales, each improved twice, the best."""
    w = importance(blocks)
    low, high = numpy.minimum(blocks.min(1), 0), numpy.maximum(blocks.max(1), 0)
    best = numpy.array([numpy.full(len(blocks), numpy.inf), (high - low) / 15, -low])
    for step in range(-11, 8):
        scale, minimum = (high - low) / (15 * (1 + 0.02 * step)), -low
        for _ in range(3):
            code = numpy.clip(numpy.round((blocks + minimum[:, None]) / scale[:, None]), 0, 15)
            error = (w * (code * scale[:, None] - minimum[:, None] - blocks) ** 2).sum(1)
            better = error < best[0]
            best[:, better] = numpy.array([error, scale, minimum])[:, better]
            slope, intercept = line(w, code, blocks)
            scale, minimum = numpy.maximum(slope, 1e-9), numpy.maximum(-intercept, 0)
    units = best[1:].reshape(2, -1, 8)
    unit = (units.max(2, keepdims=True) / 63).astype(numpy.float16).astype(float)
    scale, minimum = (unit * numpy.clip(numpy.round(units / unit), 0, 63)).reshape(2, -1, 1)
    return numpy.clip(numpy.round((blocks + minimum) / numpy.maximum(scale, 1e-9)), 0, 15) * scale - minimum


def of_range(blocks, levels):
    """As `with_offset`, but candidates stretch the levels over the range of each block: what the levels are found with."""
    w, middles = importance(blocks), (levels[1:] + levels[:-1]) / 2
    low, high = blocks.min(1), blocks.max(1)
    best = numpy.zeros((3, len(blocks)))
    for share in (1, 0.9, 0.8, -1, -0.9, -0.8):
        scale = (high - low) / (levels[-1] - levels[0]) * share
        offset = numpy.clip((high + low) / 2 / scale - (levels[0] + levels[-1]) / 2, -MOST, MOST)
        for _ in range(2):
            level = levels[numpy.searchsorted(middles, blocks / scale[:, None] - offset[:, None])]
            slope, intercept = line(w, level, blocks)
            offset = numpy.clip(numpy.round((intercept / slope + MOST) / 2) * 2 - MOST, -MOST, MOST)
            shifted = level + offset[:, None]
            along, length = (w * blocks * shifted).sum(1), (w * shifted**2).sum(1)
            scale = along / length
            better = along**2 / length > best[0]
            best[:, better] = numpy.array([along**2 / length, scale, offset])[:, better]
    scale, offset = best[1][:, None], best[2][:, None]
    return scale, offset, numpy.searchsorted(middles, blocks / scale - offset)


blocks = random.standard_normal((48000, 32))
# Begins at the levels that are best without an offset.
levels = numpy.array([-127, -105, -84, -67, -51, -37, -23, -10, 3, 15, 28, 40, 54, 69, 86, 110]) * 112 / 127
for turn in range(25):
    scale, offset, code = of_range(blocks, levels)
    weight = importance(blocks) * scale**2
    total = numpy.bincount(code.ravel(), (weight * (blocks / scale - offset)).ravel(), 16)
    levels = total / numpy.bincount(code.ravel(), weight.ravel(), 16)
    levels *= 112 / abs(levels).max()
print("levels", numpy.round(levels, 1).tolist())

# Those in use: of a run of the above with other numbers. A unit more or less does not show in the errors.
levels = numpy.array([-112, -88, -70, -56, -43, -31, -20, -9, 2, 13, 24, 35, 46, 59, 73, 88.0])
blocks = random.standard_normal((64000, 32))


def error(values):
    return numpy.sqrt(((values - blocks) ** 2).sum() / (blocks**2).sum())


extreme = numpy.take_along_axis(blocks, abs(blocks).argmax(1)[:, None], 1)
print("as q4_0         4.5   bits", error(numpy.clip(numpy.round(blocks / (extreme / -8)), -8, 7) * (extreme / -8)))
print("as q4_k         4.5   bits", error(with_minimum(blocks)))
for name, offsets in (("no offset       4.5   bits", [0]), ("offset          4.5   bits", range(-14, 15, 4))):
    scale, offset, code = with_offset(blocks, levels, (0, 15), offsets, 2)
    print(name, error((levels[code] + offset) * scale))
