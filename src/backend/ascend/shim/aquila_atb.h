/* The C side of the shim over ATB, Huawei's C++ library of transformer operations. Rust mirrors every struct here
 * (`shim.rs`), and a test compares the two field by field.
 *
 * Structs are plain data without hidden padding. Every function returns 0, or one of AQATB_ERROR_... after it has filled
 * `error`, which may be NULL; none throws. Element types and formats are numbers of ACL (aclDataType, aclFormat);
 * -1 leaves them to ATB.
 *
 * Threads: an operation, a pack and a context belong to one thread at a time; the library may be used from many. */
#ifndef AQUILA_ATB_H
#define AQUILA_ATB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of this file: library and shim must agree. */
#define AQATB_INTERFACE 1

#define AQATB_EXPORT __attribute__((visibility("default")))

#define AQATB_DIMS 8     /* dimensions of a tensor */
#define AQATB_TENSORS 64 /* tensors of an operation's one side: beyond it ATB's own vector is not sound */

#define AQATB_ERROR_ATB 1       /* ATB answered a number, in `code` */
#define AQATB_ERROR_EXCEPTION 2 /* C++ code threw */
#define AQATB_ERROR_ARGUMENT 3  /* the shim was asked for something it cannot pass on */
#define AQATB_ERROR_SYMBOL 4    /* this libatb.so lacks a function */
#define AQATB_ERROR_MEMORY 5    /* host memory is exhausted */

typedef struct aqatb_error {
    int32_t kind;
    int32_t code;
    char message[504]; /* ends with NUL */
} aqatb_error;

typedef struct aqatb_library aqatb_library;
typedef struct aqatb_context aqatb_context;
typedef struct aqatb_operation aqatb_operation;
typedef struct aqatb_pack aqatb_pack;

/* ---- the library ------------------------------------------------------------------------------------------------ */

/* AQATB_INTERFACE of this shim, and the C++ ABI it was built for: 0 or 1. */
AQATB_EXPORT uint32_t aqatb_interface(void);
AQATB_EXPORT uint32_t aqatb_abi(void);

/* `libatb` is what dlopen gave. The result is freed by no one: libatb.so is never closed. */
AQATB_EXPORT int32_t aqatb_open(void *libatb, aqatb_library **library, aqatb_error *error);
/* What ATB says of its version, which may be nothing. */
AQATB_EXPORT int32_t aqatb_version(const aqatb_library *library, char *text, size_t capacity, aqatb_error *error);

/* ---- a context: one stream's ------------------------------------------------------------------------------------ */

/* After aclrtSetDevice, on the thread that will use it. It takes 96 MiB of the device for tiling data. */
AQATB_EXPORT int32_t aqatb_context_create(const aqatb_library *library, aqatb_context **context, aqatb_error *error);
AQATB_EXPORT int32_t aqatb_context_set_stream(aqatb_context *context, void *stream, aqatb_error *error);
/* Whether tiling data is copied on a stream of its own. */
AQATB_EXPORT int32_t aqatb_context_set_async_tiling(aqatb_context *context, int32_t on, aqatb_error *error);
/* After its operations, before its stream. */
AQATB_EXPORT int32_t aqatb_context_destroy(const aqatb_library *library, aqatb_context *context, aqatb_error *error);

/* ---- tensors ---------------------------------------------------------------------------------------------------- */

typedef struct aqatb_desc {
    int32_t dtype;
    int32_t format;
    int64_t dims[AQATB_DIMS];
    uint64_t dim_count;
} aqatb_desc;

/* Laid out as ATB's own tensor. `bytes` must be the product of the dims times the element's size, exactly. */
typedef struct aqatb_tensor {
    aqatb_desc desc;
    void *device;
    void *host;
    uint64_t bytes;
} aqatb_tensor;

/* The tensors of one call: a pack's arrays are what ATB reads, so a pack is made once and written into. */
AQATB_EXPORT int32_t aqatb_pack_create(uint32_t inputs, uint32_t outputs, aqatb_pack **pack, aqatb_tensor **in,
                                       aqatb_tensor **out, aqatb_error *error);
AQATB_EXPORT void aqatb_pack_destroy(aqatb_pack *pack);

/* ---- operations ------------------------------------------------------------------------------------------------- */

typedef struct aqatb_rms_norm {
    int32_t layer;   /* 1 norm, 2 prenorm (sum and norm), 3 postnorm */
    int32_t quant;   /* 0 none, 2 int8 */
    int32_t dynamic; /* of int8: 0 static, 1 symmetric */
    float epsilon;
    int32_t has_bias; /* of prenorm and postnorm */
} aqatb_rms_norm;

typedef struct aqatb_linear {
    int32_t transpose_a;
    int32_t transpose_b; /* 1: weights are [out, in] */
    int32_t has_bias;
    int32_t out_dtype; /* -1 for floats; f16 or bf16 for int8 */
    int32_t accumulate;
    int32_t quant_mode; /* of int8: 0 as the library does it, 1 per channel, 2 per token (ATB 8.2) */
} aqatb_linear;

typedef struct aqatb_rope {
    int32_t rotary_coeff; /* 2: halves, as LLaMA */
    int32_t cos_format;
} aqatb_rope;

typedef struct aqatb_reshape_cache {
    int32_t kv_cache_cfg; /* 0 as the chip does it, 2 tiled on 910B */
    int32_t compress;
} aqatb_reshape_cache;

typedef struct aqatb_self_attention {
    int32_t calc;   /* 3: a prompt without cache */
    int32_t kernel; /* 0 default, 1 high precision */
    int32_t heads;
    int32_t kv_heads;
    float q_scale;
    float qk_scale; /* 1/sqrt(head_dim) */
    int32_t mask;   /* 0 none, 1 as given, 3 compressed */
    int32_t triangular;
    int32_t clamp; /* 0 none, 1 the scores stay within the two values */
    float clamp_min;
    float clamp_max;
} aqatb_self_attention;

typedef struct aqatb_paged_attention {
    int32_t heads;
    int32_t kv_heads;
    float qk_scale;
    int32_t mask; /* 0 none, 3 several rows a sequence */
    int32_t calc; /* 0 one row a sequence, 1 several */
} aqatb_paged_attention;

typedef struct aqatb_elewise {
    int32_t type; /* 1 cast, 2 times a number, 6 quantise, 8 add, 9 multiply, 17 quantise per channel, 19 dynamic */
    int32_t out_dtype;
    float factor;      /* of type 2 */
    float input_scale; /* of type 6 */
    int32_t input_offset;
} aqatb_elewise;

typedef struct aqatb_activation {
    int32_t type; /* 4 SiLU, 6 SwiGLU */
    int32_t dim;
    float scale;
} aqatb_activation;

typedef struct aqatb_gather {
    int64_t axis;
    int64_t batch_dims;
} aqatb_gather;

typedef struct aqatb_split {
    int32_t dim;
    int32_t count;    /* 2 or 3 */
    int32_t sizes[3]; /* all 0: equal parts */
} aqatb_split;

typedef struct aqatb_slice {
    uint32_t dim_count;
    uint32_t reserved;
    int64_t offsets[AQATB_DIMS];
    int64_t sizes[AQATB_DIMS]; /* -1: to the end */
} aqatb_slice;

typedef struct aqatb_concat {
    int32_t dim;
} aqatb_concat;

typedef struct aqatb_transpose {
    uint32_t dim_count;
    int32_t order[AQATB_DIMS];
} aqatb_transpose;

typedef struct aqatb_softmax {
    int64_t axis;
} aqatb_softmax;

typedef struct aqatb_sort {
    int32_t count;
} aqatb_sort;

typedef struct aqatb_top {
    int32_t type; /* 0 one k for all rows */
    uint32_t seed;
    uint32_t k;
    int32_t log_probs;
} aqatb_top;

typedef struct aqatb_transdata {
    int64_t rows; /* to rows only: what to cut to */
    int64_t cols;
    int32_t type; /* 1 tiles to rows, 2 rows to tiles */
    int32_t reserved;
} aqatb_transdata;

typedef struct aqatb_all_reduce {
    const char *type;    /* "sum", "max" */
    const char *backend; /* "hccl", "lccl" */
    void *comm;          /* an HcclComm */
    int32_t rank;
    int32_t ranks;
} aqatb_all_reduce;

typedef struct aqatb_all_gather {
    const char *backend;
    void *comm;
    int32_t rank;
    int32_t ranks;
} aqatb_all_gather;

#define AQATB_CREATE(name)                                                                                         \
    AQATB_EXPORT int32_t aqatb_##name##_create(const aqatb_library *library, const aqatb_##name *arguments,         \
                                               aqatb_operation **operation, aqatb_error *error)
AQATB_CREATE(rms_norm);
AQATB_CREATE(linear);
AQATB_CREATE(rope);
AQATB_CREATE(reshape_cache);
AQATB_CREATE(self_attention);
AQATB_CREATE(paged_attention);
AQATB_CREATE(elewise);
AQATB_CREATE(activation);
AQATB_CREATE(gather);
AQATB_CREATE(split);
AQATB_CREATE(slice);
AQATB_CREATE(concat);
AQATB_CREATE(transpose);
AQATB_CREATE(softmax);
AQATB_CREATE(sort);
AQATB_CREATE(top);
AQATB_CREATE(transdata);
AQATB_CREATE(all_reduce);
AQATB_CREATE(all_gather);

/* ---- graphs ----------------------------------------------------------------------------------------------------- */

/* A dimension: dimension `dim` of tensor `tensor`, times `factor`, divided by `divisor`; with `tensor` -1 the factor
 * itself. */
typedef struct aqatb_dim {
    int32_t tensor;
    int32_t dim;
    int64_t factor;
    int64_t divisor;
} aqatb_dim;

/* How a node sees one of its inputs: the same elements with other dims. `tensor` of a dim is 0: the input itself. */
typedef struct aqatb_reshape {
    uint32_t input; /* which of the node's inputs */
    uint32_t dim_count;
    aqatb_dim dims[AQATB_DIMS];
} aqatb_reshape;

/* Tensors of a graph are numbered: inputs, then outputs, then internal ones. An input that is listed as a node's output
 * is written in place. */
typedef struct aqatb_node {
    aqatb_operation *operation;
    const uint32_t *inputs;
    const uint32_t *outputs;
    const aqatb_reshape *reshapes;
    uint32_t input_count;
    uint32_t output_count;
    uint32_t reshape_count;
    uint32_t reserved;
} aqatb_node;

/* What an output of a graph is: as graph input `like`, but for what is not -1 or 0. */
typedef struct aqatb_output {
    int32_t like;
    int32_t dtype;
    int32_t format;
    uint32_t dim_count; /* 0: the dims of `like`; in `dims`, `tensor` is a graph input */
    aqatb_dim dims[AQATB_DIMS];
} aqatb_output;

typedef struct aqatb_graph {
    const char *name; /* letters, digits and underscores, at most 128 */
    const aqatb_node *nodes;
    const aqatb_output *output_descs; /* NULL: ATB derives them; else one an output */
    uint32_t node_count;
    uint32_t inputs;
    uint32_t outputs;
    uint32_t internals;
} aqatb_graph;

/* On success the graph owns the nodes' operations, which are never destroyed themselves; on failure they remain the
 * caller's. */
AQATB_EXPORT int32_t aqatb_graph_create(const aqatb_library *library, const aqatb_graph *graph,
                                        aqatb_operation **operation, aqatb_error *error);

/* ---- running ---------------------------------------------------------------------------------------------------- */

AQATB_EXPORT int32_t aqatb_operation_counts(const aqatb_operation *operation, uint32_t *inputs, uint32_t *outputs,
                                            aqatb_error *error);
/* What the outputs will be: `out` has room for `outputs` descriptions. */
AQATB_EXPORT int32_t aqatb_operation_infer(const aqatb_operation *operation, const aqatb_desc *in, uint32_t inputs,
                                           aqatb_desc *out, uint32_t outputs, aqatb_error *error);
AQATB_EXPORT int32_t aqatb_operation_destroy(const aqatb_library *library, aqatb_operation *operation,
                                             aqatb_error *error);

/* Before each execute, with the same pack and context; says how many bytes of the device the execute needs. */
AQATB_EXPORT int32_t aqatb_setup(aqatb_operation *operation, const aqatb_pack *pack, aqatb_context *context,
                                 uint64_t *workspace_bytes, aqatb_error *error);
/* Puts the operation into the context's stream and returns. */
AQATB_EXPORT int32_t aqatb_execute(aqatb_operation *operation, const aqatb_pack *pack, aqatb_context *context,
                                   void *workspace, uint64_t workspace_bytes, aqatb_error *error);

#ifdef __cplusplus
}
#endif

#endif
