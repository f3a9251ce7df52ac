//! Communicators: what the ranks of an engine do together.
//!
//! Rank 0 makes a [`Root`], which every rank is given, or all have a [`RankTable`]; then all join, each on its own thread
//! with its own device, and each waits for the others. On a 310P that must happen before large memory is taken. Collectives
//! are put into a stream in the same order on all ranks.

use super::device::{Device, DevicePointer, Stream};
use super::hccl::{HCCL_REDUCE_SUM, HcclComm, HcclDataType, HcclRootInfo, RootInfo};
use super::open::Cann;
use super::rank_table::RankTable;
use crate::base::error::Result;
use std::rc::Rc;

/// What the ranks must share to find each other. Plain bytes: it may go to any thread.
#[derive(Clone, Copy)]
pub struct Root(HcclRootInfo);

impl Root {
    /// Made once, on the thread of rank 0, whose device is set.
    pub fn new(device: &Device) -> Result<Root> {
        let hccl = device.cann().hccl()?;
        let mut root = RootInfo { internal: [0; 4108] };
        // SAFETY: a valid struct is written to; this thread has its device's context.
        let code = unsafe { (hccl.HcclGetRootInfo)(&mut root) };
        hccl.check(&device.cann().acl, "HcclGetRootInfo", code)?;
        Ok(Root(root))
    }
}

/// One rank's end of a group. Cloning gives another handle to the same.
#[derive(Clone, Debug)]
pub struct Comm(Rc<CommInner>);

#[derive(Debug)]
struct CommInner {
    device: Device,
    comm: HcclComm,
}

impl Comm {
    /// Joins the group: waits until all `ranks` are there, at most as long as HCCL_CONNECT_TIMEOUT says (120 s).
    pub fn join(device: &Device, root: &Root, rank: u32, ranks: u32) -> Result<Comm> {
        let hccl = device.cann().hccl()?;
        let mut comm = std::ptr::null_mut();
        // SAFETY: valid structs are read and written; this thread has its device's context.
        let code = unsafe { (hccl.HcclCommInitRootInfo)(ranks, &root.0, rank, &mut comm) };
        hccl.check(&device.cann().acl, "HcclCommInitRootInfo", code)
            .map_err(|error| error.at(format_args!("rank {rank} of {ranks} on npu:{}", device.id())))?;
        Ok(Comm(Rc::new(CommInner { device: device.clone(), comm })))
    }

    /// Joins the group that a table describes, which has this thread's device as `rank`; waits as [`Comm::join`] does.
    pub fn join_by_table(device: &Device, table: &RankTable, rank: u32) -> Result<Comm> {
        let hccl = device.cann().hccl()?;
        let mut comm = std::ptr::null_mut();
        // SAFETY: a string with its NUL is read and a valid handle written; this thread has its device's context.
        let code = unsafe { (hccl.HcclCommInitClusterInfo)(table.path().as_ptr(), rank, &mut comm) };
        hccl.check(&device.cann().acl, "HcclCommInitClusterInfo", code).map_err(|error| {
            error.at(format_args!("rank {rank} on npu:{} by {}", device.id(), table.name()))
        })?;
        Ok(Comm(Rc::new(CommInner { device: device.clone(), comm })))
    }

    /// HCCL's handle, for operations of ATB; it lives as long as this.
    pub fn as_raw(&self) -> HcclComm {
        self.0.comm
    }

    /// Puts the sum over all ranks into a stream: `to`, which may be `from`, is that on all of them.
    ///
    /// # Safety
    /// Both point to `count` elements of this rank's device, which live until the stream has done it.
    pub unsafe fn all_reduce(
        &self,
        from: DevicePointer,
        to: DevicePointer,
        count: u64,
        dtype: HcclDataType,
        stream: &Stream,
    ) -> Result<()> {
        let hccl = self.cann().hccl()?;
        // SAFETY: the caller says it; communicator and stream are alive.
        let code = unsafe {
            (hccl.HcclAllReduce)(from, to, count, dtype, HCCL_REDUCE_SUM, self.as_raw(), stream.as_raw())
        };
        hccl.check(&self.cann().acl, "HcclAllReduce", code)
    }

    /// Puts the ranks' parts, one after the other, into a stream.
    ///
    /// # Safety
    /// `from` points to `count` elements of this rank's device and `to` to as many for each rank; both live until the
    /// stream has done it.
    pub unsafe fn all_gather(
        &self,
        from: DevicePointer,
        to: DevicePointer,
        count: u64,
        dtype: HcclDataType,
        stream: &Stream,
    ) -> Result<()> {
        let hccl = self.cann().hccl()?;
        // SAFETY: the caller says it; communicator and stream are alive.
        let code = unsafe { (hccl.HcclAllGather)(from, to, count, dtype, self.as_raw(), stream.as_raw()) };
        hccl.check(&self.cann().acl, "HcclAllGather", code)
    }

    /// What went wrong in a collective after its call had returned; nothing where HCCL does not tell.
    pub fn check(&self) -> Result<()> {
        let hccl = self.cann().hccl()?;
        let Some(function) = hccl.HcclGetCommAsyncError else { return Ok(()) };
        let mut later = 0;
        // SAFETY: a valid number is written to; the communicator is alive.
        let code = unsafe { function(self.as_raw(), &mut later) };
        hccl.check(&self.cann().acl, "HcclGetCommAsyncError", code)?;
        hccl.check(&self.cann().acl, "a collective", later)
    }

    fn cann(&self) -> &'static Cann {
        self.0.device.cann()
    }
}

impl Drop for CommInner {
    fn drop(&mut self) {
        let cann = self.device.cann();
        let Ok(hccl) = cann.hccl() else { return };
        // SAFETY: made by `join`, destroyed once; no collective of it is in a stream any more.
        let code = unsafe { (hccl.HcclCommDestroy)(self.comm) };
        if let Err(error) = hccl.check(&cann.acl, "HcclCommDestroy", code) {
            log::warn!(target: "aquila::npu", "while giving back: {error}");
        }
    }
}
