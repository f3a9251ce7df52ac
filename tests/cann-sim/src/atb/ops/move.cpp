// What moves numbers without changing them: Gather, Slice, Split, Concat, Transpose, Transdata.
#include "../kernel.h"

namespace sim {
namespace {

constexpr int ND_TO_NZ = 2, NZ_TO_ND = 1;

// Copies the elements of a box of `from` that begins at `start`, in the order of `to`, whose dimension i is
// dimension perm[i] of `from`.
void copyBox(const Operand &from, const std::vector<int64_t> &start, const std::vector<int32_t> &perm,
             const Operand &to) {
    const size_t item = itemSize(from.desc.dtype), dims = from.desc.shape.count;
    std::vector<int64_t> step(dims, 1), index(dims, 0);
    for (size_t i = dims - 1; i > 0; i--) step[i - 1] = step[i] * from.dim(int(i));
    for (int64_t out = 0; out < to.size(); out++) {
        int64_t at = 0;
        for (size_t i = 0; i < dims; i++) at += (index[i] + start[size_t(perm[i])]) * step[size_t(perm[i])];
        std::memcpy(to.data + size_t(out) * item, from.data + size_t(at) * item, item);
        for (size_t i = dims; i-- > 0;) {
            if (++index[i] < to.dim(int(i))) break;
            index[i] = 0;
        }
    }
}

std::vector<int32_t> inOrder(size_t count) {
    std::vector<int32_t> order;
    for (size_t i = 0; i < count; i++) order.push_back(int32_t(i));
    return order;
}

class Gather final : public Kernel {
  public:
    explicit Gather(int64_t axis) : Kernel("Gather", "Gather", 2, 1), axis_(axis) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const Dims &table = in[0].shape, &ids = in[1].shape;
        if (axis_ >= int64_t(table.count))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Gather: axis %lld", (long long)axis_);
        if (table.count + ids.count - 1 > MAX_DIM)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "Gather: more than 8 dimensions");
        Desc result = in[0];
        result.shape.count = 0;
        const auto add = [&](int64_t dim) { result.shape.dims[result.shape.count++] = dim; };
        for (int64_t i = 0; i < axis_; i++) add(table.dims[i]);
        for (uint64_t i = 0; i < ids.count; i++) add(ids.dims[i]);
        for (uint64_t i = uint64_t(axis_) + 1; i < table.count; i++) add(table.dims[i]);
        out = {result};
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const Operand &table = launch.in[0], &ids = launch.in[1];
        int64_t before = 1, after = 1;
        for (int64_t i = 0; i < axis_; i++) before *= table.dim(int(i));
        for (uint64_t i = uint64_t(axis_) + 1; i < table.desc.shape.count; i++) after *= table.dim(int(i));
        const int64_t rows = table.dim(int(axis_));
        const size_t bytes = size_t(after) * itemSize(table.desc.dtype);
        for (int64_t b = 0; b < before; b++) {
            for (int64_t i = 0; i < ids.size(); i++) {
                const int64_t id = ids.desc.dtype == INT64 ? reinterpret_cast<const int64_t *>(ids.data)[i]
                                                           : ids.ints()[i];
                if (id < 0 || id >= rows)
                    return launch.fail("index " + std::to_string(id) + " of " + std::to_string(rows));
                std::memcpy(launch.out[0].data + size_t(b * ids.size() + i) * bytes,
                            table.data + size_t(b * rows + id) * bytes, bytes);
            }
        }
        return 0;
    }

  private:
    const int64_t axis_;
};

class Slice final : public Kernel {
  public:
    Slice(std::vector<int64_t> offsets, std::vector<int64_t> size)
        : Kernel("Slice", "Slice", 1, 1), offsets_(std::move(offsets)), size_(std::move(size)) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        if (offsets_.size() != in[0].shape.count)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "Slice: an offset for each dimension");
        out = {in[0]};
        for (size_t i = 0; i < offsets_.size(); i++) {
            const int64_t rest = in[0].shape.dims[i] - offsets_[i], size = size_[i] == -1 ? rest : size_[i];
            if (size <= 0 || size > rest) return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Slice: dimension %zu", i);
            out[0].shape.dims[i] = size;
        }
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        copyBox(launch.in[0], offsets_, inOrder(offsets_.size()), launch.out[0]);
        return 0;
    }

  private:
    const std::vector<int64_t> offsets_, size_;
};

class Split final : public Kernel {
  public:
    Split(int dim, int count, std::vector<int32_t> sizes)
        : Kernel("Split", "Split." + std::to_string(count), 1, uint32_t(count)),
          dim_(dim),
          sizes_(std::move(sizes)) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const int64_t dims = int64_t(in[0].shape.count), dim = dim_ < 0 ? dim_ + dims : dim_;
        if (dim < 0 || dim >= dims) return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Split: dimension %d", dim_);
        const int64_t whole = in[0].shape.dims[dim];
        if (sizes_.empty() && whole % outputs)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Split: %lld by %u", (long long)whole, outputs);
        int64_t sum = 0;
        out.clear();
        for (uint32_t i = 0; i < outputs; i++) {
            out.push_back(in[0]);
            sum += out[i].shape.dims[dim] = sizes_.empty() ? whole / outputs : sizes_[i];
        }
        if (sum != whole)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Split: the sizes do not add up to %lld",
                          (long long)whole);
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const Operand &x = launch.in[0];
        const size_t dims = x.desc.shape.count, dim = size_t(dim_ < 0 ? dim_ + int(dims) : dim_);
        std::vector<int64_t> start(dims, 0);
        for (const Operand &part : launch.out) {
            copyBox(x, start, inOrder(dims), part);
            start[dim] += part.dim(int(dim));
        }
        return 0;
    }

  private:
    const int dim_;
    const std::vector<int32_t> sizes_;
};

class Concat final : public Kernel {
  public:
    explicit Concat(int dim) : Kernel("Concat", "Concat", 2, 1), dim_(dim) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const Dims &a = in[0].shape, &b = in[1].shape;
        const int64_t dim = dim_ < 0 ? dim_ + int64_t(a.count) : dim_;
        if (a.count != b.count || dim < 0 || dim >= int64_t(a.count))
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "Concat: dimension %d", dim_);
        out = {in[0]};
        for (uint64_t i = 0; i < a.count; i++) {
            if (int64_t(i) == dim) out[0].shape.dims[i] += b.dims[i];
            else if (a.dims[i] != b.dims[i])
                return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Concat: the other dimensions differ");
        }
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const Dims &shape = launch.out[0].desc.shape;
        const uint64_t dim = uint64_t(dim_ < 0 ? dim_ + int64_t(shape.count) : dim_);
        int64_t before = 1, after = 1;
        for (uint64_t i = 0; i < shape.count; i++) (i < dim ? before : after) *= i == dim ? 1 : shape.dims[i];
        uint8_t *to = launch.out[0].data;
        for (int64_t row = 0; row < before; row++) {
            for (const Operand &part : launch.in) {
                const size_t bytes = size_t(part.dim(int(dim)) * after) * itemSize(part.desc.dtype);
                std::memcpy(to, part.data + size_t(row) * bytes, bytes);
                to += bytes;
            }
        }
        return 0;
    }

  private:
    const int dim_;
};

class Transpose final : public Kernel {
  public:
    explicit Transpose(std::vector<int32_t> perm)
        : Kernel("Transpose", "Transpose", 1, 1), perm_(std::move(perm)) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        if (perm_.size() != in[0].shape.count)
            return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "Transpose: perm has %zu entries", perm_.size());
        out = {in[0]};
        std::vector<bool> seen(perm_.size(), false);
        for (size_t i = 0; i < perm_.size(); i++) {
            if (perm_[i] < 0 || size_t(perm_[i]) >= perm_.size() || seen[size_t(perm_[i])])
                return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Transpose: perm is no permutation");
            seen[size_t(perm_[i])] = true;
            out[0].shape.dims[i] = in[0].shape.dims[perm_[i]];
        }
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        copyBox(launch.in[0], std::vector<int64_t>(perm_.size(), 0), perm_, launch.out[0]);
        return 0;
    }

  private:
    const std::vector<int32_t> perm_;
};

// ND to NZ and back. The padding of an NZ output is zero.
class Transdata final : public Kernel {
  public:
    Transdata(bool toNz, int64_t rows, int64_t columns)
        : Kernel("Transdata", toNz ? "Transdata.ND_TO_NZ" : "Transdata.NZ_TO_ND", 1, 1),
          toNz_(toNz),
          rows_(rows),
          columns_(columns) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        const Dims &shape = in[0].shape;
        const int64_t wide = itemSize(in[0].dtype) == 1 ? 32 : 16;
        if (toNz_) {
            if (shape.count != 2 && shape.count != 3)
                return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "Transdata: 2 or 3 dimensions");
            const int64_t batch = shape.count == 3 ? shape.dims[0] : 1, m = shape.dims[shape.count - 2],
                          n = shape.dims[shape.count - 1];
            out = {makeDesc(in[0].dtype, FORMAT_NZ, {batch, alignUp(n, wide) / wide, alignUp(m, 16), wide})};
            return atb::NO_ERROR;
        }
        if (shape.count != 4) return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "Transdata: NZ has 4 dimensions");
        if (rows_ <= 0 || columns_ <= 0 || rows_ > shape.dims[2] || columns_ > shape.dims[1] * shape.dims[3])
            return refuse(atb::ERROR_INVALID_TENSOR_DIM, "Transdata: outCrops");
        out = {makeDesc(in[0].dtype, FORMAT_ND, {shape.dims[0], rows_, columns_})};
        return atb::NO_ERROR;
    }

    int run(Launch &launch) const override {
        const Operand &nd = toNz_ ? launch.in[0] : launch.out[0], &nz = toNz_ ? launch.out[0] : launch.in[0];
        const size_t item = itemSize(nd.desc.dtype), last = nd.desc.shape.count - 1;
        const int64_t m = nd.dim(int(last) - 1), n = nd.dim(int(last)), matrix = nz.dim(1) * nz.dim(2) * nz.dim(3);
        if (toNz_) std::memset(nz.data, 0, size_t(nz.size()) * item);
        for (int64_t b = 0; b < nz.dim(0); b++) {
            for (int64_t i = 0; i < m * n; i++) {
                uint8_t *plain = nd.data + size_t(b * m * n + i) * item;
                uint8_t *tiled = nz.data + size_t(b * matrix + nzIndex(i / n, i % n, nz.dim(2), nz.dim(3))) * item;
                std::memcpy(toNz_ ? tiled : plain, toNz_ ? plain : tiled, item);
            }
        }
        return 0;
    }

  private:
    const bool toNz_;
    const int64_t rows_, columns_;
};

Status wrong(const char *why) {
    return refuse(atb::ERROR_INVALID_PARAM, "%s", why);
}

}  // namespace

Status makeGather(Bytes param, Made *made) {
    if (!param.zero(16, 32)) return wrong("GatherParam: rsv is not zero");
    if (param.i64(0) < 0 || param.i64(8) != 0)
        return wrong("GatherParam: axis is not negative, batchDims is 0 here");
    *made = std::make_unique<Gather>(param.i64(0));
    return atb::NO_ERROR;
}

Status makeSlice(Bytes param, Made *made) {
    const List<int64_t> offsets(param.place(0)), size(param.place(544));
    if (!param.zero(1088, 1096)) return wrong("SliceParam: rsv is not zero");
    if (offsets.size() != size.size() || offsets.size() == 0 || offsets.size() > MAX_DIM)
        return wrong("SliceParam: offsets and size");
    for (const int64_t offset : offsets.items()) {
        if (offset < 0) return wrong("SliceParam: a negative offset is not simulated");
    }
    *made = std::make_unique<Slice>(offsets.items(), size.items());
    return atb::NO_ERROR;
}

Status makeSplit(Bytes param, Made *made) {
    const List<int32_t> sizes(param.place(8));
    const int dim = param.i32(0), count = param.i32(4);
    if (!param.zero(296, 304)) return wrong("SplitParam: rsv is not zero");
    if (count != 2 && count != 3) return wrong("SplitParam: splitNum is 2 or 3");
    if (sizes.size() != 0 && (dim < 0 || sizes.size() != size_t(count)))
        return wrong("SplitParam: splitSizes want splitDim >= 0 and a size for each part");
    *made = std::make_unique<Split>(dim, count, sizes.items());
    return atb::NO_ERROR;
}

Status makeConcat(Bytes param, Made *made) {
    if (!param.zero(4, 16)) return wrong("ConcatParam: rsv is not zero");
    *made = std::make_unique<Concat>(param.i32(0));
    return atb::NO_ERROR;
}

Status makeTranspose(Bytes param, Made *made) {
    const List<int32_t> perm(param.place(0));
    if (!param.zero(288, 296)) return wrong("TransposeParam: rsv is not zero");
    if (perm.size() == 0 || perm.size() > MAX_DIM) return wrong("TransposeParam: perm");
    *made = std::make_unique<Transpose>(perm.items());
    return atb::NO_ERROR;
}

Status makeTransdata(Bytes param, Made *made) {
    const List<int64_t> crops(param.place(8));
    const int type = param.i32(0);
    if (!param.zero(552, 560)) return wrong("TransdataParam: rsv is not zero");
    if (type != ND_TO_NZ && type != NZ_TO_ND) return wrong("TransdataParam: transdataType");
    if (type == NZ_TO_ND && crops.size() != 2) return wrong("TransdataParam: outCrops are two");
    const std::vector<int64_t> size = crops.items();
    *made = std::make_unique<Transdata>(type == ND_TO_NZ, size.size() == 2 ? size[0] : 0,
                                        size.size() == 2 ? size[1] : 0);
    return atb::NO_ERROR;
}

}  // namespace sim
