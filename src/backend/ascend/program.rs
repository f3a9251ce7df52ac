//! Programs: drafts made ready to run, as one operation of ATB each, or, where ATB makes no graph of it, node by node.
//!
//! A program keeps its tensors; who runs it writes those that change. It runs in a [`Lane`]: a stream with ATB's context,
//! one workspace for all programs of it, and a count of what the host does not know to be done: ATB copies the tiling
//! data of each execute into one of [`RING`] blocks of device memory, in turns, and does not look whether the block is
//! still read. So the host never lets more executes than that be open.

use super::atb::{AtbContext, Desc, Operation, Pack, Tensor};
use super::device::{Device, DevicePointer, Event, Stream};
use super::draft::{Draft, DraftNode, Ref};
use super::memory::DeviceBuffer;
use super::shim::{aqatb_dim, aqatb_reshape};
use crate::base::error::{Error, Result, Status};

/// ATB's blocks for tiling data on the device.
pub const RING: u64 = 32;
/// Tensors are laid at multiples of it.
pub const ALIGN: usize = 512;

/// A stream and what programs need to run in it.
#[derive(Debug)]
pub struct Lane {
    // Freed before the stream goes; whoever drops it has waited for the stream.
    workspace: Option<DeviceBuffer>,
    mids: Option<DeviceBuffer>,
    /// ATB's context of the stream.
    pub context: AtbContext,
    /// The stream.
    pub stream: Stream,
    device: Device,
    /// Executes that were put into the stream, and those of them that the host knows to be done.
    issued: u64,
    seen: u64,
    /// Longest wait for the stream.
    milliseconds: u32,
}

impl Lane {
    /// A lane of a device. Waits end after `milliseconds`.
    pub fn new(device: &Device, milliseconds: u32) -> Result<Lane> {
        let stream = Stream::new(device)?;
        let context = AtbContext::new(&stream)?;
        Ok(Lane {
            workspace: None,
            mids: None,
            context,
            stream,
            device: device.clone(),
            issued: 0,
            seen: 0,
            milliseconds,
        })
    }

    /// Executes so far: what an event recorded now stands behind.
    pub fn issued(&self) -> u64 {
        self.issued
    }

    /// An event that stood behind so many executes was reached.
    pub fn saw(&mut self, issued: u64) {
        self.seen = self.seen.max(issued);
    }

    /// Waits for all that is in the stream.
    pub fn synchronize(&mut self) -> Result<()> {
        self.stream.synchronize(self.milliseconds)?;
        self.seen = self.issued;
        Ok(())
    }

    /// Waits for an event that stands behind `issued` executes.
    pub fn wait(&mut self, event: &Event, issued: u64) -> Result<()> {
        event.synchronize(self.milliseconds)?;
        self.saw(issued);
        Ok(())
    }

    /// Makes the workspace so large, which waits for the stream where it has to grow.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.workspace.as_ref().map_or(0, DeviceBuffer::len) < bytes {
            self.synchronize()?;
            self.workspace = None;
            self.workspace = Some(DeviceBuffer::new(&self.device, bytes)?);
        }
        Ok(())
    }

    fn reserve_mids(&mut self, bytes: usize) -> Result<()> {
        if self.mids.as_ref().map_or(0, DeviceBuffer::len) < bytes {
            self.synchronize()?;
            self.mids = None;
            self.mids = Some(DeviceBuffer::new(&self.device, bytes)?);
        }
        Ok(())
    }

    /// Sets an operation up and puts it into the stream.
    ///
    /// # Safety
    /// Memory of the pack's tensors stays until the stream has done it; copies on the host until this returns.
    unsafe fn run(&mut self, operation: &mut Operation, pack: &Pack) -> Result<()> {
        if self.issued - self.seen >= RING {
            self.synchronize()?;
        }
        // SAFETY: the caller says it.
        let bytes = unsafe { operation.setup(pack)? };
        let bytes_here = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.reserve(bytes_here)?;
        let workspace = match &self.workspace {
            Some(workspace) if bytes > 0 => workspace.at(0)?,
            _ => std::ptr::null_mut(),
        };
        // SAFETY: the workspace is large enough and lives until the stream is synchronised; the caller says the rest.
        unsafe { operation.execute(pack, workspace, bytes)? };
        self.issued += 1;
        Ok(())
    }
}

/// A draft that can be run.
#[derive(Debug)]
pub struct Program {
    body: Body,
    pack: Pack,
}

#[derive(Debug)]
enum Body {
    /// One operation.
    Graph(Operation),
    /// Nodes one by one, with a pack each.
    Single { nodes: Vec<(DraftNode, Pack)>, mids: Vec<Option<Desc>> },
}

/// How drafts become programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// As graphs.
    Graphs,
    /// Node by node: where graphs fail, and to compare with.
    Singles,
}

impl Program {
    /// A program of a draft.
    pub fn new(context: &AtbContext, device: &Device, draft: Draft, making: Making) -> Result<Program> {
        let cann = device.cann();
        let name = draft.name;
        let pack = Pack::new(cann, draft.inputs as usize, draft.outputs.len())?;
        let body = match making {
            Making::Graphs => Body::Graph(
                draft.into_operation(context).map_err(|error| error.at(format_args!("graph {name:?}")))?,
            ),
            Making::Singles => {
                let mids = vec![None; draft.mids as usize];
                let with_pack = |node: DraftNode| {
                    let pack = Pack::new(cann, node.inputs.len(), node.outputs.len())?;
                    Ok((node, pack))
                };
                Body::Single { nodes: draft.nodes.into_iter().map(with_pack).collect::<Result<_>>()?, mids }
            }
        };
        Ok(Program { body, pack })
    }

    /// The tensors that come in, to be written.
    pub fn inputs(&mut self) -> &mut [Tensor] {
        self.pack.inputs()
    }

    /// The tensors that go out, to be written.
    pub fn outputs(&mut self) -> &mut [Tensor] {
        self.pack.outputs()
    }

    /// Puts it into the lane's stream.
    ///
    /// # Safety
    /// Memory of its tensors stays until the stream has done it; copies on the host until this returns.
    pub unsafe fn run(&mut self, lane: &mut Lane) -> Result<()> {
        match &mut self.body {
            // SAFETY: the caller says it.
            Body::Graph(operation) => unsafe { lane.run(operation, &self.pack) },
            Body::Single { nodes, mids } => {
                // Places of the tensors between nodes: first what they are, then where.
                mids.fill(None);
                let mut bytes = 0;
                for (node, _) in nodes.iter() {
                    let inputs = node_inputs(node, &mut self.pack, mids, &|_| Ok(std::ptr::null_mut()))?;
                    let descs: Vec<Desc> = inputs.iter().map(|tensor| tensor.desc).collect();
                    for (output, desc) in node.outputs.iter().zip(node.operation.infer(&descs)?) {
                        if let Ref::Mid(n) = output {
                            mids[*n as usize] = Some(desc);
                        }
                    }
                }
                let mut places = Vec::with_capacity(mids.len());
                for desc in mids.iter() {
                    places.push(bytes);
                    bytes += desc.map_or(Ok(0), |desc| desc.bytes())?.next_multiple_of(ALIGN as u64) as usize;
                }
                lane.reserve_mids(bytes)?;
                for (node, pack) in nodes {
                    let at = |n: u32| match &lane.mids {
                        Some(buffer) => buffer.at(places[n as usize]),
                        None => Ok(std::ptr::null_mut()),
                    };
                    let inputs = node_inputs(node, &mut self.pack, mids, &at)?;
                    pack.inputs().copy_from_slice(&inputs);
                    for (output, tensor) in node.outputs.iter().zip(pack.outputs()) {
                        *tensor = tensor_of(*output, &mut self.pack, mids, &at)?;
                    }
                    // SAFETY: tensors between nodes lie in the lane's memory; the caller says the rest.
                    unsafe { lane.run(&mut node.operation, pack)? };
                }
                Ok(())
            }
        }
    }
}

/// A tensor of a draft, as it is now.
fn tensor_of(
    tensor: Ref,
    pack: &mut Pack,
    mids: &[Option<Desc>],
    at: &dyn Fn(u32) -> Result<DevicePointer>,
) -> Result<Tensor> {
    match tensor {
        Ref::In(n) => Ok(pack.inputs()[n as usize]),
        Ref::Out(n) => Ok(pack.outputs()[n as usize]),
        Ref::Mid(n) => {
            let desc = mids[n as usize];
            let desc = desc.ok_or_else(|| Error::new(Status::Internal, "a node reads what none wrote"))?;
            Tensor::new(desc, at(n)?)
        }
    }
}

/// A node's inputs with the dims in which it sees them.
fn node_inputs(
    node: &DraftNode,
    pack: &mut Pack,
    mids: &[Option<Desc>],
    at: &dyn Fn(u32) -> Result<DevicePointer>,
) -> Result<Vec<Tensor>> {
    let tensors = node.inputs.iter().map(|input| tensor_of(*input, pack, mids, at));
    let mut tensors = tensors.collect::<Result<Vec<_>>>()?;
    for view in &node.views {
        let tensor = &mut tensors[view.input as usize];
        *tensor = Tensor { desc: viewed(&tensor.desc, view)?, ..*tensor };
    }
    Ok(tensors)
}

/// A shape seen otherwise: the same elements.
fn viewed(desc: &Desc, view: &aqatb_reshape) -> Result<Desc> {
    let dim = |dim: &aqatb_dim| match dim.tensor {
        -1 => dim.factor,
        _ => desc.dims.get(dim.dim as usize).map_or(0, |n| n * dim.factor / dim.divisor.max(1)),
    };
    let dims: Vec<i64> = view.dims.iter().take(view.dim_count as usize).map(dim).collect();
    let made = Desc::new(desc.dtype, desc.format, &dims)?;
    crate::ensure!(
        made.bytes()? == desc.bytes()?,
        Internal,
        "a tensor of {:?} cannot be seen as {dims:?}",
        desc.dims()
    );
    Ok(made)
}
