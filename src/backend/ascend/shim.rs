//! The shim over ATB as Rust sees it: the structs and functions of `shim/aquila_atb.h`, where each is explained.
//!
//! It is a shared object of its own, because ATB is C++ and comes in two variants that differ in the layout of
//! `std::string`; `open` picks the right one. Names and layouts are compared with the header by `tests/ascend`.

use super::errors::{self, ATB_CODES};
use super::table::{functions, structs};
use crate::base::error::{Error, Result, Status};
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};

/// What `aqatb_interface` of a fitting shim answers.
pub const INTERFACE: u32 = 1;
/// Most dimensions of a tensor.
pub const DIMS: usize = 8;
/// Most tensors on one side of an operation.
pub const TENSORS: usize = 64;

/// ATB answered a number.
pub const ERROR_ATB: i32 = 1;
/// Host memory is exhausted.
pub const ERROR_MEMORY: i32 = 5;
/// This libatb.so lacks a function.
pub const ERROR_SYMBOL: i32 = 4;

/// The functions of libatb.so behind the shim.
#[allow(non_camel_case_types)]
pub enum aqatb_library {}
/// ATB's context.
#[allow(non_camel_case_types)]
pub enum aqatb_context {}
/// ATB's operation, or a graph of them.
#[allow(non_camel_case_types)]
pub enum aqatb_operation {}
/// The tensors of a call.
#[allow(non_camel_case_types)]
pub enum aqatb_pack {}

structs! {
    /// Why a call failed.
    aqatb_error(512) {
        /// One of `AQATB_ERROR_…`.
        kind: i32,
        /// ATB's number.
        code: i32,
        /// Words, ending with NUL.
        message: [c_char; 504],
    }
    /// A tensor's type and shape.
    aqatb_desc(80) {
        /// aclDataType.
        dtype: i32,
        /// aclFormat.
        format: i32,
        /// The first `dim_count` of them count.
        dims: [i64; 8],
        /// 1 to 8.
        dim_count: u64,
    }
    /// A tensor.
    aqatb_tensor(104) {
        /// Type and shape.
        desc: aqatb_desc,
        /// Its bytes on the device, or NULL.
        device: *mut c_void,
        /// Its bytes on the host, where the operation reads lengths there, or NULL.
        host: *mut c_void,
        /// The product of the dims times the element's size.
        bytes: u64,
    }
    /// Root mean square norm.
    aqatb_rms_norm(20) {
        /// 1 norm, 2 prenorm, 3 postnorm.
        layer: i32,
        /// 0 none, 2 int8.
        quant: i32,
        /// Of int8: 0 static, 1 symmetric.
        dynamic: i32,
        /// Added to the mean square.
        epsilon: f32,
        /// Of prenorm and postnorm.
        has_bias: i32,
    }
    /// Matrix product.
    aqatb_linear(24) {
        /// Whether the left side is transposed.
        transpose_a: i32,
        /// Whether weights are `[out, in]`.
        transpose_b: i32,
        /// Whether a bias is added.
        has_bias: i32,
        /// -1 for floats; f16 or bf16 for int8.
        out_dtype: i32,
        /// Whether the result is added to what is there.
        accumulate: i32,
        /// Of int8: 0, 1 per channel, 2 per token.
        quant_mode: i32,
    }
    /// Rotary position embedding.
    aqatb_rope(8) {
        /// 2: halves.
        rotary_coeff: i32,
        /// 0: a row of cosines and sines for each token.
        cos_format: i32,
    }
    /// Keys and values into the paged cache.
    aqatb_reshape_cache(8) {
        /// 0 as the chip does it, 2 tiled on 910B.
        kv_cache_cfg: i32,
        /// 0.
        compress: i32,
    }
    /// Attention within prompts.
    aqatb_self_attention(44) {
        /// 3: prompts without a cache.
        calc: i32,
        /// 0 default, 1 high precision.
        kernel: i32,
        /// Heads of queries.
        heads: i32,
        /// Heads of keys and values.
        kv_heads: i32,
        /// 1.
        q_scale: f32,
        /// 1/√head_dim.
        qk_scale: f32,
        /// 0 none, 1 as given, 3 compressed.
        mask: i32,
        /// Whether the mask is an upper triangle.
        triangular: i32,
        /// Whether the scores are clamped.
        clamp: i32,
        /// The least score.
        clamp_min: f32,
        /// The greatest.
        clamp_max: f32,
    }
    /// Attention over the paged cache.
    aqatb_paged_attention(20) {
        /// Heads of queries.
        heads: i32,
        /// Heads of keys and values.
        kv_heads: i32,
        /// 1/√head_dim.
        qk_scale: f32,
        /// 0 none, 3 several rows a sequence.
        mask: i32,
        /// 0 one row a sequence, 1 several.
        calc: i32,
    }
    /// Element by element.
    aqatb_elewise(20) {
        /// `ElewiseType`.
        r#type: i32,
        /// Of a cast; else -1.
        out_dtype: i32,
        /// Of the product with a number.
        factor: f32,
        /// Of quantisation.
        input_scale: f32,
        /// Of quantisation.
        input_offset: i32,
    }
    /// Activation functions.
    aqatb_activation(12) {
        /// 4 SiLU, 6 SwiGLU.
        r#type: i32,
        /// The dimension that SwiGLU halves.
        dim: i32,
        /// 1.
        scale: f32,
    }
    /// Rows by index.
    aqatb_gather(16) {
        /// 0: rows.
        axis: i64,
        /// 0.
        batch_dims: i64,
    }
    /// Into 2 or 3 parts.
    aqatb_split(20) {
        /// The dimension.
        dim: i32,
        /// 2 or 3.
        count: i32,
        /// All 0: equal parts.
        sizes: [i32; 3],
    }
    /// A part.
    aqatb_slice(136) {
        /// Dimensions.
        dim_count: u32,
        /// 0.
        reserved: u32,
        /// Where it begins.
        offsets: [i64; 8],
        /// How much; -1 to the end.
        sizes: [i64; 8],
    }
    /// Two tensors one after the other.
    aqatb_concat(4) {
        /// The dimension.
        dim: i32,
    }
    /// Dimensions in another order.
    aqatb_transpose(36) {
        /// Dimensions.
        dim_count: u32,
        /// The order.
        order: [i32; 8],
    }
    /// Softmax.
    aqatb_softmax(8) {
        /// The dimension.
        axis: i64,
    }
    /// The largest of a row, with their places.
    aqatb_sort(4) {
        /// How many.
        count: i32,
    }
    /// Sampling on the device.
    aqatb_top(16) {
        /// 0: one k for all rows.
        r#type: i32,
        /// Of its random numbers.
        seed: u32,
        /// How many tokens to choose among.
        k: u32,
        /// How many probabilities to give.
        log_probs: i32,
    }
    /// Rows to tiles or back.
    aqatb_transdata(24) {
        /// To rows: what to cut to.
        rows: i64,
        /// To rows: what to cut to.
        cols: i64,
        /// 1 tiles to rows, 2 rows to tiles.
        r#type: i32,
        /// 0.
        reserved: i32,
    }
    /// The ranks' sum.
    aqatb_all_reduce(32) {
        /// "sum".
        r#type: *const c_char,
        /// "hccl".
        backend: *const c_char,
        /// An HcclComm.
        comm: *mut c_void,
        /// This rank.
        rank: i32,
        /// How many.
        ranks: i32,
    }
    /// The ranks' parts, one after the other.
    aqatb_all_gather(24) {
        /// "hccl".
        backend: *const c_char,
        /// An HcclComm.
        comm: *mut c_void,
        /// This rank.
        rank: i32,
        /// How many.
        ranks: i32,
    }
    /// A dimension of a shape.
    aqatb_dim(24) {
        /// Of which tensor; -1: `factor` itself.
        tensor: i32,
        /// Which of its dimensions.
        dim: i32,
        /// Times this.
        factor: i64,
        /// By this.
        divisor: i64,
    }
    /// How a node sees one of its inputs.
    aqatb_reshape(200) {
        /// Which.
        input: u32,
        /// 1 to 8.
        dim_count: u32,
        /// Its dims.
        dims: [aqatb_dim; 8],
    }
    /// One operation of a graph.
    aqatb_node(48) {
        /// The operation.
        operation: *mut aqatb_operation,
        /// Numbers of tensors.
        inputs: *const u32,
        /// Numbers of tensors.
        outputs: *const u32,
        /// Inputs that it sees otherwise.
        reshapes: *const aqatb_reshape,
        /// Of `inputs`.
        input_count: u32,
        /// Of `outputs`.
        output_count: u32,
        /// Of `reshapes`.
        reshape_count: u32,
        /// 0.
        reserved: u32,
    }
    /// What an output of a graph is.
    aqatb_output(208) {
        /// As this graph input.
        like: i32,
        /// -1: the same.
        dtype: i32,
        /// -1: the same.
        format: i32,
        /// 0: the same.
        dim_count: u32,
        /// Its dims.
        dims: [aqatb_dim; 8],
    }
    /// A graph.
    aqatb_graph(40) {
        /// Letters, digits and underscores.
        name: *const c_char,
        /// The nodes, each after those whose outputs it reads.
        nodes: *const aqatb_node,
        /// NULL, or one an output.
        output_descs: *const aqatb_output,
        /// Of `nodes`.
        node_count: u32,
        /// Tensors that come in.
        inputs: u32,
        /// Tensors that go out.
        outputs: u32,
        /// Tensors between nodes.
        internals: u32,
    }
}

functions! {
    /// The functions of the shim.
    Shim;
    needed aqatb_interface() -> u32;
    needed aqatb_abi() -> u32;
    needed aqatb_open(*mut c_void, *mut *mut aqatb_library, *mut aqatb_error) -> i32;
    needed aqatb_version(*const aqatb_library, *mut c_char, usize, *mut aqatb_error) -> i32;
    needed aqatb_context_create(*const aqatb_library, *mut *mut aqatb_context, *mut aqatb_error) -> i32;
    needed aqatb_context_set_stream(*mut aqatb_context, *mut c_void, *mut aqatb_error) -> i32;
    needed aqatb_context_set_async_tiling(*mut aqatb_context, i32, *mut aqatb_error) -> i32;
    needed aqatb_context_destroy(*const aqatb_library, *mut aqatb_context, *mut aqatb_error) -> i32;
    needed aqatb_pack_create(u32, u32, *mut *mut aqatb_pack, *mut *mut aqatb_tensor, *mut *mut aqatb_tensor, *mut aqatb_error) -> i32;
    needed aqatb_rms_norm_create(*const aqatb_library, *const aqatb_rms_norm, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_linear_create(*const aqatb_library, *const aqatb_linear, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_rope_create(*const aqatb_library, *const aqatb_rope, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_reshape_cache_create(*const aqatb_library, *const aqatb_reshape_cache, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_self_attention_create(*const aqatb_library, *const aqatb_self_attention, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_paged_attention_create(*const aqatb_library, *const aqatb_paged_attention, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_elewise_create(*const aqatb_library, *const aqatb_elewise, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_activation_create(*const aqatb_library, *const aqatb_activation, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_gather_create(*const aqatb_library, *const aqatb_gather, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_split_create(*const aqatb_library, *const aqatb_split, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_slice_create(*const aqatb_library, *const aqatb_slice, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_concat_create(*const aqatb_library, *const aqatb_concat, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_transpose_create(*const aqatb_library, *const aqatb_transpose, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_softmax_create(*const aqatb_library, *const aqatb_softmax, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_sort_create(*const aqatb_library, *const aqatb_sort, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_top_create(*const aqatb_library, *const aqatb_top, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_transdata_create(*const aqatb_library, *const aqatb_transdata, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_all_reduce_create(*const aqatb_library, *const aqatb_all_reduce, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_all_gather_create(*const aqatb_library, *const aqatb_all_gather, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_graph_create(*const aqatb_library, *const aqatb_graph, *mut *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_operation_counts(*const aqatb_operation, *mut u32, *mut u32, *mut aqatb_error) -> i32;
    needed aqatb_operation_infer(*const aqatb_operation, *const aqatb_desc, u32, *mut aqatb_desc, u32, *mut aqatb_error) -> i32;
    needed aqatb_operation_destroy(*const aqatb_library, *mut aqatb_operation, *mut aqatb_error) -> i32;
    needed aqatb_setup(*mut aqatb_operation, *const aqatb_pack, *mut aqatb_context, *mut u64, *mut aqatb_error) -> i32;
    needed aqatb_execute(*mut aqatb_operation, *const aqatb_pack, *mut aqatb_context, *mut c_void, u64, *mut aqatb_error) -> i32;
    needed aqatb_pack_destroy(*mut aqatb_pack) -> ();
}

/// Calls the shim: `call` is given the place for an error and returns 0 or a kind of error.
pub fn checked(call: impl FnOnce(*mut aqatb_error) -> i32) -> Result<()> {
    let mut error = aqatb_error { kind: 0, code: 0, message: [0; 504] };
    match call(&mut error) {
        0 => Ok(()),
        kind => Err(error.into_error(kind)),
    }
}

impl aqatb_error {
    fn into_error(mut self, kind: i32) -> Error {
        self.message[503] = 0;
        // SAFETY: the array ends with NUL, set above.
        let words = unsafe { CStr::from_ptr(self.message.as_ptr()) }.to_string_lossy();
        match kind {
            ERROR_ATB => errors::of_code(ATB_CODES, &format!("ATB {words}"), self.code, None),
            ERROR_MEMORY => Error::new(Status::NoMemory, format!("ATB: {words}")),
            ERROR_SYMBOL => Error::new(Status::Unsupported, format!("ATB: {words}")),
            _ => Error::new(Status::Internal, format!("ATB: {words}")),
        }
    }
}

/// The file of a variant.
pub fn file_name(abi: u32) -> String {
    format!("libaquila-atb-abi{abi}.so")
}

/// Where the shim may lie, best first: where `AQUILA_ASCEND_SHIM` says; beside this library or program; in `aquila/`
/// beside it, where it is installed; for an installed program in the `lib` beside its `bin`; and cargo's folder for
/// its tests, which stand one deeper.
pub fn places(variable: Option<&Path>, this: Option<&Path>) -> Vec<PathBuf> {
    if let Some(asked) = variable {
        return vec![asked.to_path_buf()];
    }
    let Some(dir) = this.and_then(Path::parent) else { return Vec::new() };
    let mut places = vec![dir.to_path_buf(), dir.join("aquila")];
    if let Some(above) = dir.parent() {
        if dir.ends_with("deps") || dir.ends_with("examples") {
            places.push(above.to_path_buf());
        }
        if dir.ends_with("bin") {
            let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
            places.extend(["lib", "lib64"].map(|lib| above.join(lib).join("aquila")));
            places.push(above.join("lib").join(multiarch).join("aquila"));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_beside_the_library_or_where_it_is_installed() {
        let of = |this: &str| places(None, Some(Path::new(this)));
        let has = |this: &str, dir: &str| of(this).contains(&PathBuf::from(dir));
        assert!(has("/opt/x/libaquila.so.1", "/opt/x"));
        assert!(has("/usr/lib/libaquila.so.1", "/usr/lib/aquila"));
        assert!(has("/usr/bin/aquila", "/usr/lib/aquila"));
        assert!(has("/src/target/debug/deps/cli-1234", "/src/target/debug"));
        assert!(!has("/usr/lib/libaquila.so.1", "/usr"));
        let asked = places(Some(Path::new("/mine")), Some(Path::new("/usr/lib/libaquila.so")));
        assert_eq!(asked, [PathBuf::from("/mine")]);
    }

    #[test]
    fn an_error_of_atb_has_its_number_and_name() {
        let mut error = aqatb_error { kind: 1, code: 9, message: [0; 504] };
        for (to, from) in error.message.iter_mut().zip(b"Setup") {
            *to = *from as c_char;
        }
        let error = error.into_error(ERROR_ATB);
        assert_eq!((error.status, error.native_code), (Status::Internal, 9));
        assert_eq!(error.message, "ATB Setup: error 9 INVALID_TENSOR_SIZE");
    }
}
