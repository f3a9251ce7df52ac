//! ATB: contexts, operations, graphs of them, and the tensors that go in and out.
//!
//! An operation is made once and run many times. A run is [`Operation::setup`] with a [`Pack`] of tensors, which checks
//! them and says how much workspace it needs, and [`Operation::execute`] with the same pack, which puts it into the
//! context's stream. One workspace serves all operations of a stream, because they run one after the other.
//!
//! An operation holds its context and a context its stream, so they go in the order that ATB wants.

use super::acl::{self, aclDataType, aclFormat};
use super::comm::Comm;
use super::device::{DevicePointer, Stream};
use super::open::{AtbLibrary, Cann};
use super::shim::{
    Shim, TENSORS, aqatb_context, aqatb_desc, aqatb_dim, aqatb_error, aqatb_graph, aqatb_library, aqatb_node,
    aqatb_operation, aqatb_output, aqatb_pack, aqatb_reshape, aqatb_tensor, checked,
};
use super::{shim, soc};
use crate::base::error::Result;
use std::ffi::{CStr, c_void};
use std::rc::Rc;

/// Bytes of an element. `Internal` for a type that no tensor of this backend has.
pub fn element_bytes(dtype: aclDataType) -> Result<u64> {
    match dtype {
        acl::ACL_INT8 | acl::ACL_UINT8 | acl::ACL_BOOL => Ok(1),
        acl::ACL_FLOAT16 | acl::ACL_BF16 => Ok(2),
        acl::ACL_FLOAT | acl::ACL_INT32 | acl::ACL_UINT32 => Ok(4),
        acl::ACL_INT64 | acl::ACL_UINT64 => Ok(8),
        other => Err(crate::error!(Internal, "no tensor has elements of aclDataType {other}")),
    }
}

/// The type and shape of a tensor.
pub type Desc = aqatb_desc;

impl Desc {
    /// A tensor of 1 to 8 dimensions, none of them 0.
    pub fn new(dtype: aclDataType, format: aclFormat, dims: &[i64]) -> Result<Desc> {
        crate::ensure!(
            (1..=shim::DIMS).contains(&dims.len()) && dims.iter().all(|&dim| dim > 0),
            Internal,
            "a tensor of ATB has 1 to 8 dimensions, none of them 0, found {dims:?}"
        );
        let mut desc = Desc { dtype, format, dims: [0; 8], dim_count: dims.len() as u64 };
        desc.dims[..dims.len()].copy_from_slice(dims);
        Ok(desc)
    }

    /// Its dimensions.
    pub fn dims(&self) -> &[i64] {
        &self.dims[..(self.dim_count as usize).min(shim::DIMS)]
    }

    /// Bytes of all elements: what ATB wants to be told to the byte.
    pub fn bytes(&self) -> Result<u64> {
        let elements = self.dims().iter().try_fold(element_bytes(self.dtype)?, |product, &dim| {
            u64::try_from(dim).ok().and_then(|dim| product.checked_mul(dim))
        });
        elements.ok_or_else(|| crate::error!(Internal, "a tensor of {:?} is too large", self.dims()))
    }
}

/// A tensor: type, shape, and where its bytes lie.
pub type Tensor = aqatb_tensor;

impl Tensor {
    /// A tensor on the device.
    pub fn new(desc: Desc, device: DevicePointer) -> Result<Tensor> {
        Ok(Tensor { desc, device, host: std::ptr::null_mut(), bytes: desc.bytes()? })
    }

    /// The same with a copy on the host, which setup reads: lengths of sequences.
    pub fn with_host(self, host: *mut c_void) -> Tensor {
        Tensor { host, ..self }
    }
}

/// The tensors of a run, in the order that the operation documents. Made once, written before each run.
#[derive(Debug)]
pub struct Pack {
    shim: &'static Shim,
    pack: *mut aqatb_pack,
    inputs: *mut Tensor,
    outputs: *mut Tensor,
    counts: (usize, usize),
}

impl Pack {
    /// Room for so many tensors, at most 64 on either side. All are empty at first.
    pub fn new(cann: &'static Cann, inputs: usize, outputs: usize) -> Result<Pack> {
        crate::ensure!(
            inputs <= TENSORS && outputs <= TENSORS,
            Internal,
            "{inputs} inputs and {outputs} outputs of an operation, at most {TENSORS} each"
        );
        let mut pack = Pack {
            shim: &cann.shim,
            pack: std::ptr::null_mut(),
            inputs: std::ptr::null_mut(),
            outputs: std::ptr::null_mut(),
            counts: (inputs, outputs),
        };
        // SAFETY: three valid pointers are written to.
        checked(|error| unsafe {
            (pack.shim.aqatb_pack_create)(
                inputs as u32,
                outputs as u32,
                &mut pack.pack,
                &mut pack.inputs,
                &mut pack.outputs,
                error,
            )
        })?;
        Ok(pack)
    }

    /// The inputs, to be written.
    pub fn inputs(&mut self) -> &mut [Tensor] {
        // SAFETY: the shim made as many, as plain data; they live as long as the pack, which is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.inputs, self.counts.0) }
    }

    /// The outputs, to be written.
    pub fn outputs(&mut self) -> &mut [Tensor] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.outputs, self.counts.1) }
    }
}

impl Drop for Pack {
    fn drop(&mut self) {
        if !self.pack.is_null() {
            // SAFETY: made by `new`, destroyed once.
            unsafe { (self.shim.aqatb_pack_destroy)(self.pack) };
        }
    }
}

/// ATB's context: what operations need of a stream. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct AtbContext(Rc<ContextInner>);

#[derive(Debug)]
struct ContextInner {
    stream: Stream,
    context: *mut aqatb_context,
}

impl AtbContext {
    /// A context for a stream. It takes [`AtbContext::DEVICE_BYTES`] of the device. Whether tiling data gets a stream of
    /// its own is the chip's choice, unless `ATB_USE_TILING_COPY_STREAM` is 0 or 1.
    pub fn new(stream: &Stream) -> Result<AtbContext> {
        let (shim, atb) = (&stream.device().cann().shim, stream.device().cann().atb);
        let mut inner = ContextInner { stream: stream.clone(), context: std::ptr::null_mut() };
        // SAFETY: the library is open; a valid pointer is written to.
        checked(|error| unsafe { (shim.aqatb_context_create)(atb.0, &mut inner.context, error) })?;
        // SAFETY: context and stream are alive.
        checked(|error| unsafe { (shim.aqatb_context_set_stream)(inner.context, stream.as_raw(), error) })?;
        let own_stream = tiling_copy_stream(stream.device().facts());
        // SAFETY: the context is alive.
        checked(|error| unsafe {
            (shim.aqatb_context_set_async_tiling)(inner.context, own_stream.into(), error)
        })?;
        Ok(AtbContext(Rc::new(inner)))
    }

    /// What a context takes of the device for tiling data: 32 blocks of 3 MiB.
    pub const DEVICE_BYTES: u64 = 96 << 20;

    fn parts(&self) -> (&'static Shim, AtbLibrary, *mut aqatb_context) {
        let cann = self.0.stream.device().cann();
        (&cann.shim, cann.atb, self.0.context)
    }
}

/// The guide's variable, else what is good for the chip.
fn tiling_copy_stream(facts: &soc::Facts) -> bool {
    match std::env::var("ATB_USE_TILING_COPY_STREAM").as_deref() {
        Ok("1") => true,
        Ok("0") => false,
        _ => facts.tiling_copy_stream,
    }
}

impl Drop for ContextInner {
    fn drop(&mut self) {
        if self.context.is_null() {
            return;
        }
        let cann = self.stream.device().cann();
        // SAFETY: made by `new`, destroyed once, after its operations, which held it.
        let result =
            checked(|error| unsafe { (cann.shim.aqatb_context_destroy)(cann.atb.0, self.context, error) });
        if let Err(error) = result {
            log::warn!(target: "aquila::npu", "while giving back: {error}");
        }
    }
}

/// What an operation does: the arguments of the shim, a struct each.
pub trait Arguments {
    /// Makes the operation.
    ///
    /// # Safety
    /// `library` is open, `operation` and `error` may be written, and pointers within the arguments are valid.
    unsafe fn create(
        &self,
        shim: &Shim,
        library: *const aqatb_library,
        operation: *mut *mut aqatb_operation,
        error: *mut aqatb_error,
    ) -> i32;

    /// The communicator that the operation uses as long as it lives.
    fn comm(&self) -> Option<&Comm> {
        None
    }
}

macro_rules! arguments {
    ($($arguments:ident by $function:ident;)*) => {
        $(impl Arguments for shim::$arguments {
            unsafe fn create(
                &self,
                shim: &Shim,
                library: *const aqatb_library,
                operation: *mut *mut aqatb_operation,
                error: *mut aqatb_error,
            ) -> i32 {
                // SAFETY: the caller says it.
                unsafe { (shim.$function)(library, self, operation, error) }
            }
        })*
    };
}

arguments! {
    aqatb_rms_norm by aqatb_rms_norm_create;
    aqatb_linear by aqatb_linear_create;
    aqatb_rope by aqatb_rope_create;
    aqatb_reshape_cache by aqatb_reshape_cache_create;
    aqatb_self_attention by aqatb_self_attention_create;
    aqatb_paged_attention by aqatb_paged_attention_create;
    aqatb_elewise by aqatb_elewise_create;
    aqatb_activation by aqatb_activation_create;
    aqatb_gather by aqatb_gather_create;
    aqatb_split by aqatb_split_create;
    aqatb_slice by aqatb_slice_create;
    aqatb_concat by aqatb_concat_create;
    aqatb_transpose by aqatb_transpose_create;
    aqatb_softmax by aqatb_softmax_create;
    aqatb_sort by aqatb_sort_create;
    aqatb_top by aqatb_top_create;
    aqatb_transdata by aqatb_transdata_create;
}

/// The sum over all ranks, as a node of a graph.
#[derive(Debug)]
pub struct AllReduce<'a>(pub &'a Comm);

impl Arguments for AllReduce<'_> {
    unsafe fn create(
        &self,
        shim: &Shim,
        library: *const aqatb_library,
        operation: *mut *mut aqatb_operation,
        error: *mut aqatb_error,
    ) -> i32 {
        // With a communicator of our own ATB does not look at the ranks.
        let arguments = shim::aqatb_all_reduce {
            r#type: c"sum".as_ptr(),
            backend: c"hccl".as_ptr(),
            comm: self.0.as_raw(),
            rank: 0,
            ranks: 0,
        };
        // SAFETY: the caller says it; the strings are static.
        unsafe { (shim.aqatb_all_reduce_create)(library, &arguments, operation, error) }
    }

    fn comm(&self) -> Option<&Comm> {
        Some(self.0)
    }
}

/// The ranks' parts one after the other, as a node of a graph.
#[derive(Debug)]
pub struct AllGather<'a>(pub &'a Comm);

impl Arguments for AllGather<'_> {
    unsafe fn create(
        &self,
        shim: &Shim,
        library: *const aqatb_library,
        operation: *mut *mut aqatb_operation,
        error: *mut aqatb_error,
    ) -> i32 {
        let arguments =
            shim::aqatb_all_gather { backend: c"hccl".as_ptr(), comm: self.0.as_raw(), rank: 0, ranks: 0 };
        // SAFETY: the caller says it; the string is static.
        unsafe { (shim.aqatb_all_gather_create)(library, &arguments, operation, error) }
    }

    fn comm(&self) -> Option<&Comm> {
        Some(self.0)
    }
}

/// One of ATB's operations, or a graph of them.
#[derive(Debug)]
pub struct Operation {
    context: AtbContext,
    operation: *mut aqatb_operation,
    /// What it, or a node of it, uses as long as it lives.
    comms: Vec<Comm>,
}

impl Operation {
    /// An operation by its arguments.
    pub fn new(context: &AtbContext, arguments: &impl Arguments) -> Result<Operation> {
        let (shim, atb, _) = context.parts();
        let mut operation = std::ptr::null_mut();
        // SAFETY: the library is open; pointers within the arguments are static or CANN's handles of living values.
        checked(|error| unsafe { arguments.create(shim, atb.0, &mut operation, error) })?;
        let comms = arguments.comm().cloned().into_iter().collect();
        Ok(Operation { context: context.clone(), operation, comms })
    }

    /// A graph. Its operations belong to it from now on; on an error they are given back.
    pub fn graph(context: &AtbContext, graph: Graph<'_>) -> Result<Operation> {
        let (shim, atb, _) = context.parts();
        let nodes: Vec<_> = graph.nodes.iter().map(Node::as_shim).collect();
        let outputs = graph.output_descs.as_deref();
        let description = aqatb_graph {
            name: graph.name.as_ptr(),
            nodes: nodes.as_ptr(),
            output_descs: outputs.map_or(std::ptr::null(), <[aqatb_output]>::as_ptr),
            node_count: nodes.len() as u32,
            inputs: graph.inputs,
            outputs: graph.outputs,
            internals: graph.internals,
        };
        crate::ensure!(
            outputs.is_none_or(|descs| descs.len() == graph.outputs as usize),
            Internal,
            "graph {:?}: one description for each of its {} outputs",
            graph.name,
            graph.outputs
        );
        let mut operation = std::ptr::null_mut();
        // SAFETY: the description and all that it points to live until the call returns.
        checked(|error| unsafe { (shim.aqatb_graph_create)(atb.0, &description, &mut operation, error) })?;
        let comms = graph.nodes.into_iter().flat_map(|node| node.operation.release()).collect();
        Ok(Operation { context: context.clone(), operation, comms })
    }

    /// Gives up the operation without destroying it: it is a graph's from now on, and so is what it uses.
    fn release(mut self) -> Vec<Comm> {
        self.operation = std::ptr::null_mut();
        std::mem::take(&mut self.comms)
    }

    /// Numbers of inputs and outputs.
    pub fn counts(&self) -> Result<(usize, usize)> {
        let (shim, _, _) = self.context.parts();
        let (mut inputs, mut outputs) = (0, 0);
        // SAFETY: the operation is alive; two valid numbers are written to.
        checked(|error| unsafe {
            (shim.aqatb_operation_counts)(self.operation, &mut inputs, &mut outputs, error)
        })?;
        Ok((inputs as usize, outputs as usize))
    }

    /// What the outputs will be for such inputs.
    pub fn infer(&self, inputs: &[Desc]) -> Result<Vec<Desc>> {
        let (shim, _, _) = self.context.parts();
        let empty = Desc { dtype: -1, format: -1, dims: [0; 8], dim_count: 0 };
        let mut outputs = vec![empty; self.counts()?.1];
        let (given, made) = (inputs.len() as u32, outputs.len() as u32);
        // SAFETY: the operation is alive; as many descriptions are read and written as are said.
        checked(|error| unsafe {
            let operation = self.operation;
            (shim.aqatb_operation_infer)(operation, inputs.as_ptr(), given, outputs.as_mut_ptr(), made, error)
        })?;
        Ok(outputs)
    }

    /// Checks the tensors and readies a run with them; the bytes of workspace that it needs. Before each execute.
    ///
    /// # Safety
    /// Where a tensor has a copy on the host, that has as many bytes as the tensor, and stays until the execute.
    pub unsafe fn setup(&mut self, pack: &Pack) -> Result<u64> {
        let (shim, _, context) = self.context.parts();
        let mut bytes = 0;
        // SAFETY: operation, pack and context are alive; the caller says the rest.
        checked(|error| unsafe {
            (shim.aqatb_setup)(self.operation, pack.pack, context, &mut bytes, error)
        })?;
        Ok(bytes)
    }

    /// Puts the run that was set up into the context's stream, and returns at once.
    ///
    /// # Safety
    /// `workspace` has as many bytes on the device as `setup` said, or is NULL with 0 bytes. It, and all that the pack's
    /// tensors point to, stays until the stream has done the run, and no other stream uses it meanwhile.
    pub unsafe fn execute(&mut self, pack: &Pack, workspace: DevicePointer, bytes: u64) -> Result<()> {
        let (shim, _, context) = self.context.parts();
        let operation = self.operation;
        // SAFETY: operation, pack and context are alive; the caller says the rest.
        checked(|error| unsafe {
            (shim.aqatb_execute)(operation, pack.pack, context, workspace, bytes, error)
        })
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.operation.is_null() {
            return;
        }
        let (shim, atb, _) = self.context.parts();
        // SAFETY: made by `new` or `graph`, destroyed once; a graph's nodes were released to it.
        let result = checked(|error| unsafe { (shim.aqatb_operation_destroy)(atb.0, self.operation, error) });
        if let Err(error) = result {
            log::warn!(target: "aquila::npu", "while giving back: {error}");
        }
    }
}

/// One operation in a graph. Tensors are numbered: the graph's inputs, then its outputs, then those between nodes. A graph
/// input among `outputs` is written in place: KV caches are.
#[derive(Debug)]
pub struct Node {
    /// What it does.
    pub operation: Operation,
    /// What it reads.
    pub inputs: Vec<u32>,
    /// What it writes.
    pub outputs: Vec<u32>,
    /// Inputs that it sees with other dims.
    pub reshapes: Vec<aqatb_reshape>,
}

impl Node {
    fn as_shim(&self) -> aqatb_node {
        aqatb_node {
            operation: self.operation.operation,
            inputs: self.inputs.as_ptr(),
            outputs: self.outputs.as_ptr(),
            reshapes: self.reshapes.as_ptr(),
            input_count: self.inputs.len() as u32,
            output_count: self.outputs.len() as u32,
            reshape_count: self.reshapes.len() as u32,
            reserved: 0,
        }
    }
}

/// A graph that is to become one operation.
#[derive(Debug)]
pub struct Graph<'a> {
    /// Letters, digits and underscores, at most 128.
    pub name: &'a CStr,
    /// In the order of their run.
    pub nodes: Vec<Node>,
    /// Tensors that come in.
    pub inputs: u32,
    /// Tensors that go out.
    pub outputs: u32,
    /// Tensors between nodes.
    pub internals: u32,
    /// What the outputs are, one each; `None` where ATB derives it.
    pub output_descs: Option<Vec<aqatb_output>>,
}

/// Dimension `dim` of a tensor as it is.
pub fn same(tensor: i32, dim: i32) -> aqatb_dim {
    aqatb_dim { tensor, dim, factor: 1, divisor: 1 }
}

/// A dimension of a size that is known.
pub fn fixed(size: i64) -> aqatb_dim {
    aqatb_dim { tensor: -1, dim: 0, factor: size, divisor: 1 }
}

/// A node's input `input` seen with other dims, which are its own ([`same`] of tensor 0) or [`fixed`].
pub fn reshape(input: u32, dims: &[aqatb_dim]) -> Result<aqatb_reshape> {
    Ok(aqatb_reshape { input, dim_count: dims.len() as u32, dims: eight(dims)? })
}

/// A graph's output: of the type and format of graph input `like`, with other dims unless `dims` is empty.
pub fn output_like(like: i32, dims: &[aqatb_dim]) -> Result<aqatb_output> {
    Ok(aqatb_output { like, dtype: -1, format: -1, dim_count: dims.len() as u32, dims: eight(dims)? })
}

fn eight(dims: &[aqatb_dim]) -> Result<[aqatb_dim; shim::DIMS]> {
    crate::ensure!(dims.len() <= shim::DIMS, Internal, "a tensor of {} dimensions, at most 8", dims.len());
    let mut all = [fixed(0); shim::DIMS];
    all[..dims.len()].copy_from_slice(dims);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn sizes_are_exact_and_impossible_shapes_are_refused() {
        let of =
            |dtype, dims: &[i64]| Desc::new(dtype, acl::ACL_FORMAT_ND, dims).and_then(|desc| desc.bytes());
        assert_eq!(of(acl::ACL_FLOAT16, &[3, 4096]).unwrap(), 3 * 4096 * 2);
        assert_eq!(of(acl::ACL_INT8, &[5]).unwrap(), 5);
        assert_eq!(of(acl::ACL_FLOAT, &[2, 3, 4]).unwrap(), 96);
        for dims in [&[][..], &[0], &[1, -1], &[1; 9], &[i64::MAX, i64::MAX]] {
            assert_eq!(of(acl::ACL_FLOAT, dims).unwrap_err().status, Status::Internal, "{dims:?}");
        }
        assert!(of(-1, &[1]).is_err());
    }
}
