//! The threads of one engine, and the jobs that all of them run together.
//!
//! A job is one closure that every worker runs at once; the calling thread is worker 0. Inside it the
//! workers meet at barriers ([`Worker::barrier`]) and between two barriers share out numbered chunks
//! of work ([`Worker::chunks`]): who is early takes more, so a core that the system takes away costs
//! its share and no more. Publishing a job, the barriers and the end of a job are each one
//! [`Signal`]; nothing is allocated and no lock is taken after `new`.
//!
//! A worker that panics poisons the pool: the others leave at their next barrier, `run` gives
//! `Internal`, and every later `run` gives `State`. No thread hangs and none is lost.

use super::float_mode::FloatMode;
use super::signal::{Padded, Signal};
use super::threads;
use crate::base::error::Result;
use crate::base::fork::Process;
use crate::base::thread;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::*};
use std::thread::JoinHandle;
use std::time::Duration;

/// The longest that a worker spins before it sleeps: a few times what a sleep and a wake-up cost.
const SPIN: Duration = Duration::from_micros(50);

/// A worker of this job panicked; leave the job.
#[derive(Clone, Copy, Debug)]
pub struct Poisoned;

/// The threads of one engine. Dropping it ends and joins them.
pub struct Pool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    process: Process,
}

/// One thread's view of the job it runs.
pub struct Worker<'a> {
    index: usize,
    shared: &'a Shared,
}

/// A job without its type: a closure behind a pointer, and the function that calls it.
#[derive(Clone, Copy)]
struct Job {
    closure: *const (),
    call: unsafe fn(*const (), &Worker<'_>) -> std::result::Result<(), Poisoned>,
}

struct Shared {
    threads: usize,
    /// Written by `run` while all workers wait for `started`, read by them after it.
    job: UnsafeCell<Option<Job>>,
    started: Signal,
    unfinished: Padded<AtomicU32>,
    finished: Signal,
    arrived: Padded<AtomicUsize>,
    passed: Signal,
    next_chunk: Padded<AtomicUsize>,
    poisoned: AtomicBool,
    closing: AtomicBool,
}

// SAFETY: `job` is the only field that is not Sync or Send by itself. It is written by the thread that
// runs a job, before it advances `started`, and read by workers after they saw that advance; the next
// write follows the advance of `finished`, which follows the last read.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointers in `job` are used only while `Pool::run` borrows the closure.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads, the caller's among them.
    pub fn new(threads: usize) -> Result<Pool> {
        let threads = threads.max(1);
        // More workers than processors: whoever spins keeps the one it waits for from running.
        let spin = if threads > threads::allowed_count() { Duration::ZERO } else { SPIN };
        let shared = Arc::new(Shared {
            threads,
            job: UnsafeCell::new(None),
            started: Signal::new(spin),
            unfinished: Padded::default(),
            finished: Signal::new(spin),
            arrived: Padded::default(),
            passed: Signal::new(spin),
            next_chunk: Padded::default(),
            poisoned: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, handles: Vec::new(), process: Process::current() };
        for index in 1..threads {
            let shared = pool.shared.clone();
            // On failure the drop of `pool` ends those that run.
            let handle = thread::spawn(&format!("aquila-w{index}"), move || shared.work(index))?;
            pool.handles.push(handle);
        }
        Ok(pool)
    }

    /// Threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `job` once on every thread and returns when all are done. `Internal` where one panicked,
    /// `State` ever after.
    pub fn run<F>(&mut self, job: &F) -> Result<()>
    where
        F: Fn(&Worker<'_>) -> std::result::Result<(), Poisoned> + Sync,
    {
        let shared = &*self.shared;
        crate::ensure!(
            !shared.poisoned.load(Acquire),
            State,
            "a worker thread failed earlier; load the model again"
        );
        // SAFETY: all workers wait for `started`; nobody else looks at `job`.
        unsafe { *shared.job.get() = Some(Job { closure: std::ptr::from_ref(job).cast(), call: call::<F> }) };
        shared.next_chunk.0.store(0, Relaxed);
        shared.unfinished.0.store(shared.threads as u32 - 1, Relaxed);
        let before = shared.finished.value();
        shared.started.advance();
        let mode = FloatMode::enter();
        shared.run_as(0);
        if shared.threads > 1 {
            shared.finished.wait_past(before);
        }
        drop(mode);
        crate::ensure!(!shared.poisoned.load(Acquire), Internal, "a worker thread panicked");
        Ok(())
    }
}

/// # Safety
/// `closure` points to an `F` that lives through the call.
unsafe fn call<F>(closure: *const (), worker: &Worker<'_>) -> std::result::Result<(), Poisoned>
where
    F: Fn(&Worker<'_>) -> std::result::Result<(), Poisoned> + Sync,
{
    // SAFETY: the caller's promise.
    let job = unsafe { &*closure.cast::<F>() };
    job(worker)
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // In the child of a fork the threads do not exist; waiting for them would never end.
            self.handles.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.closing.store(true, Release);
        self.shared.started.advance();
        for handle in self.handles.drain(..) {
            // A worker catches every panic of a job, so there is nothing to learn from the result.
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// The life of worker `index`.
    fn work(&self, index: usize) {
        let _mode = FloatMode::enter();
        let mut seen = 0;
        loop {
            self.started.wait_past(seen);
            if self.closing.load(Acquire) {
                return;
            }
            seen = seen.wrapping_add(1);
            self.run_as(index);
            if self.unfinished.0.fetch_sub(1, AcqRel) == 1 {
                self.finished.advance();
            }
        }
    }

    /// Runs the published job as worker `index`; a panic poisons the pool.
    fn run_as(&self, index: usize) {
        // SAFETY: published before `started` advanced; not written again before this worker is done.
        let Some(job) = (unsafe { *self.job.get() }) else { return };
        let worker = Worker { index, shared: self };
        // SAFETY: `Pool::run` borrows the closure until every worker has finished.
        let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.closure, &worker) }));
        if outcome.is_err() {
            self.poisoned.store(true, SeqCst);
            // Those that already wait at a barrier wake and see it; those to come see it first.
            self.passed.advance();
        }
    }
}

impl Worker<'_> {
    /// From 0 (the calling thread) to `threads() - 1`.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Workers of this job.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Waits for all workers. What any of them wrote before it, all see after it; the chunks are
    /// numbered from 0 again.
    pub fn barrier(&self) -> std::result::Result<(), Poisoned> {
        let shared = self.shared;
        let before = shared.passed.value();
        if shared.poisoned.load(Acquire) {
            return Err(Poisoned);
        }
        if shared.arrived.0.fetch_add(1, AcqRel) + 1 == shared.threads {
            shared.arrived.0.store(0, Relaxed);
            shared.next_chunk.0.store(0, Relaxed);
            shared.passed.advance();
        } else {
            shared.passed.wait_past(before);
        }
        if shared.poisoned.load(Acquire) { Err(Poisoned) } else { Ok(()) }
    }

    /// The chunks of `0..count` that fall to this worker, each to exactly one. At most one use between
    /// two barriers.
    pub fn chunks(&self, count: usize) -> impl Iterator<Item = usize> {
        std::iter::from_fn(move || {
            let chunk = self.shared.next_chunk.0.fetch_add(1, Relaxed);
            (chunk < count).then_some(chunk)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use std::sync::atomic::AtomicU64;

    /// A job of `phases` phases: every chunk is done once, and nobody passes a barrier early.
    fn stress(pool: &mut Pool, jobs: usize, phases: usize) {
        let sums: Vec<AtomicU64> = (0..phases).map(|_| AtomicU64::new(0)).collect();
        for job in 1..=jobs as u64 {
            pool.run(&|worker| {
                for (phase, sum) in sums.iter().enumerate() {
                    for chunk in worker.chunks(17) {
                        sum.fetch_add(chunk as u64, Relaxed);
                    }
                    worker.barrier()?;
                    assert_eq!(sum.load(Relaxed), job * 136, "phase {phase}");
                }
                Ok(())
            })
            .unwrap();
        }
    }

    #[test]
    fn thousands_of_jobs() {
        for threads in [1, 2, 3] {
            stress(&mut Pool::new(threads).unwrap(), 2000, 4);
        }
    }

    #[test]
    fn oversubscribed() {
        stress(&mut Pool::new(16).unwrap(), 200, 5);
    }

    #[test]
    fn sleeping_workers_wake() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            stress(&mut pool, 1, 1);
        }
    }

    #[test]
    fn every_worker_runs_once_with_its_name_and_without_signals() {
        let mut pool = Pool::new(3).unwrap();
        let seen = [const { AtomicU32::new(0) }; 3];
        pool.run(&|worker| {
            seen[worker.index()].fetch_add(1, Relaxed);
            if worker.index() > 0 {
                let name = format!("aquila-w{}", worker.index());
                assert_eq!(std::thread::current().name(), Some(&*name));
                // SAFETY: reads this thread's mask into a local set.
                unsafe {
                    let mut set = std::mem::zeroed();
                    libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &mut set);
                    assert_eq!(libc::sigismember(&set, libc::SIGTERM), 1);
                }
            }
            Ok(())
        })
        .unwrap();
        assert!(seen.iter().all(|n| n.load(Relaxed) == 1));
    }

    #[test]
    fn a_panic_is_an_error_and_nobody_hangs() {
        for (threads, culprit) in [(1, 0), (2, 0), (2, 1), (5, 3)] {
            let mut pool = Pool::new(threads).unwrap();
            stress(&mut pool, 3, 2);
            let error = pool
                .run(&|worker| {
                    worker.barrier()?;
                    assert!(worker.index() != culprit, "provoked");
                    worker.barrier()?;
                    worker.barrier()
                })
                .unwrap_err();
            assert_eq!(error.status, Status::Internal);
            assert_eq!(pool.run(&|_| Ok(())).unwrap_err().status, Status::State);
        }
    }

    #[test]
    fn dropping_idle_and_fresh_pools() {
        for threads in 1..6 {
            drop(Pool::new(threads).unwrap());
            let mut pool = Pool::new(threads).unwrap();
            stress(&mut pool, 1, 1);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
