//! Weights that are used in place are read before they are needed, by all threads.
//!
//! A page that is not in memory yet costs the thread that touches it a wait for the disk, one after the other. Asked for in
//! large parts by several threads the disk has many requests at once, the page tables are filled on the way, and
//! the wait is part of the load, where it is reported and can be abandoned.

use super::cache::REPORT_BYTES;
use super::pool::Pool;
use crate::backend::Progress;
use crate::base::error::Result;
use crate::base::region::Region;

/// Bytes that one thread asks for at a time: several of the requests into which the system cuts them.
const PART_BYTES: usize = 16 << 20;
/// The smallest page of any Linux that this is built for.
const PAGE: usize = 4096;

/// Reads the mapped ones of `regions` into memory, unless they are more than is available: the last pages would then
/// push out the first. Only `Cancelled` and failures of the pool are errors.
pub fn read_ahead<'a>(
    regions: impl Iterator<Item = &'a Region>,
    pool: &mut Pool,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let mut regions: Vec<&[u8]> =
        regions.filter(|region| region.is_mapped()).map(|region| &**region).collect();
    regions.sort_unstable_by_key(|bytes| (bytes.as_ptr() as usize, bytes.len()));
    regions.dedup_by_key(|bytes| (bytes.as_ptr() as usize, bytes.len()));
    let total: u64 = regions.iter().map(|bytes| bytes.len() as u64).sum();
    if crate::base::memory::available_bytes().is_some_and(|available| total > available) {
        return Ok(());
    }
    let parts: Vec<&[u8]> = regions.into_iter().flat_map(|bytes| bytes.chunks(PART_BYTES)).collect();
    let mut done = 0u64;
    for batch in parts.chunks((REPORT_BYTES as usize).div_ceil(PART_BYTES)) {
        pool.run(&|worker| {
            for part in worker.chunks(batch.len()) {
                populate(batch[part]);
            }
            Ok(())
        })?;
        done += batch.iter().map(|part| part.len() as u64).sum::<u64>();
        let flow = progress("reading", done, total);
        crate::ensure!(flow.is_continue(), Cancelled, "the load was abandoned while weights were read");
    }
    Ok(())
}

/// Waits until the pages of `bytes` are in memory; systems before Linux 5.14 are asked to read them and not waited
/// for. Never an error: what it leaves out is read when it is used.
fn populate(bytes: &[u8]) {
    let start = bytes.as_ptr() as usize / PAGE * PAGE;
    let length = bytes.as_ptr() as usize + bytes.len() - start;
    // SAFETY: pages of the mapping that `bytes` borrows; neither advice changes their contents.
    let advise = |advice| unsafe { libc::madvise(start as *mut libc::c_void, length, advice) == 0 };
    // Not both: what WILLNEED reads lies in small pages, what the mapping's own faults read in large ones.
    if !advise(libc::MADV_POPULATE_READ) {
        advise(libc::MADV_WILLNEED);
    }
}
