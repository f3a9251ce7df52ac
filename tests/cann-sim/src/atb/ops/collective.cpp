// AllReduce and AllGather between ranks, over HCCL.
#include "../kernel.h"

extern "C" int HcclGetRankSize(void *comm, uint32_t *rankSize);

namespace sim {
namespace {

// aclDataType to HcclDataType; -1: HCCL has none.
int hcclType(int dtype) {
    switch (dtype) {
        case INT8: return 0;
        case INT16: return 1;
        case INT32: return 2;
        case F16: return 3;
        case F32: return 4;
        case INT64: return 5;
        case BF16: return 11;
        default: return -1;
    }
}

class Collective final : public Kernel {
  public:
    Collective(bool gather, int reduce, void *comm, int ranks)
        : Kernel(gather ? "AllGather" : "AllReduce", gather ? "AllGather" : "AllReduce", 1, 1),
          gather_(gather),
          reduce_(reduce),
          comm_(comm),
          ranks_(ranks) {}

    Status infer(const std::vector<Desc> &in, std::vector<Desc> &out) const override {
        out = {in[0]};
        if (!gather_) return atb::NO_ERROR;
        Dims &shape = out[0].shape;
        if (shape.count == MAX_DIM) return refuse(atb::ERROR_INVALID_TENSOR_DIM_NUM, "AllGather: 8 dimensions");
        shape = {{ranks_}, shape.count + 1};
        std::memcpy(shape.dims + 1, in[0].shape.dims, in[0].shape.count * 8);
        return atb::NO_ERROR;
    }

    Status prepare(const std::vector<Tensor> &in, const std::vector<Tensor> &out, void **prepared) const override {
        const int kind = gather_ ? SIM_ALL_GATHER : SIM_ALL_REDUCE;
        const int code = aquilaSimHcclPrepare(kind, in[0].device, out[0].device, uint64_t(numel(in[0].desc.shape)),
                                              hcclType(in[0].desc.dtype), reduce_, 0, comm_, prepared);
        return code ? refuse(atb::ERROR_HCCL_FAIL, "%s: HCCL gave %d", this->kind.c_str(), code)
                    : Status(atb::NO_ERROR);
    }

    bool isCollective() const override { return true; }
    int run(Launch &launch) const override { return aquilaSimHcclRun(launch.prepared, launch.stream); }

  private:
    const bool gather_;
    const int reduce_;
    void *const comm_;
    const int64_t ranks_;
};

// The communicator of the parameters, or one that ATB makes itself for their domain.
Status findOrJoin(Bytes param, void *given, const std::string &backend, const std::string &domain, void **comm,
                  int *ranks) {
    const int rank = param.i32(0);
    *ranks = param.i32(4);
    if (backend != "hccl") return refuse(atb::ERROR_INVALID_PARAM, "backend %s is not simulated", backend.c_str());
    if (given) {
        uint32_t size = 0;
        if (HcclGetRankSize(given, &size)) return refuse(atb::ERROR_INVALID_PARAM, "hcclComm is no communicator");
        *comm = given;
        *ranks = int(size);
        return atb::NO_ERROR;
    }
    if (*ranks <= 0 || rank < 0 || rank >= *ranks)
        return refuse(atb::ERROR_INVALID_PARAM, "rank %d of %d", rank, *ranks);
    if (aquilaSimHcclJoin(domain.c_str(), uint32_t(*ranks), uint32_t(rank), comm))
        return refuse(atb::ERROR_COMM_EMPTY, "no communicator for domain %s", domain.c_str());
    return atb::NO_ERROR;
}

}  // namespace

Status makeAllReduce(Bytes param, Made *made) {
    static const char *const kinds[] = {"sum", "prod", "max", "min"};
    if (!param.zero(AllReduceAt::RSV, AllReduceAt::SIZE))
        return refuse(atb::ERROR_INVALID_PARAM, "AllReduceParam: rsv is not zero");
    if (param.i32(AllReduceAt::QUANT) != 0 || param.i32(AllReduceAt::OUT_TYPE) > 0)
        return refuse(atb::ERROR_INVALID_PARAM, "AllReduceParam: quantisation is not simulated");
    int reduce = 0, ranks;
    while (reduce < 4 && param.text(AllReduceAt::KIND) != kinds[reduce]) reduce++;
    if (reduce == 4)
        return refuse(atb::ERROR_INVALID_PARAM, "AllReduceParam: allReduceType %s",
                      param.text(AllReduceAt::KIND).c_str());
    void *comm = nullptr;
    if (Status code = findOrJoin(param, param.at<void *>(AllReduceAt::COMM), param.text(AllReduceAt::BACKEND),
                                 param.text(AllReduceAt::DOMAIN), &comm, &ranks))
        return code;
    *made = std::make_unique<Collective>(false, reduce, comm, ranks);
    return atb::NO_ERROR;
}

Status makeAllGather(Bytes param, Made *made) {
    if (!param.zero(AllGatherAt::RSV, AllGatherAt::SIZE))
        return refuse(atb::ERROR_INVALID_PARAM, "AllGatherParam: rsv is not zero");
    void *comm = nullptr;
    int ranks;
    if (Status code = findOrJoin(param, param.at<void *>(AllGatherAt::COMM), param.text(AllGatherAt::BACKEND),
                                 param.text(AllGatherAt::DOMAIN), &comm, &ranks))
        return code;
    *made = std::make_unique<Collective>(true, 0, comm, ranks);
    return atb::NO_ERROR;
}

}  // namespace sim
