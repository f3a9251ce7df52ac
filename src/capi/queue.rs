//! Queues: one thread that waits for many requests.

use super::guard::{self, outcome_call, status_call, value_call};
use super::handles::{self, Noun, Table};
use super::request::aquila_request;
use super::status::{AQUILA_OK, AQUILA_TIMEOUT, aquila_error, aquila_status};
use crate::engine::event_queue::{EventQueue, Heard};
use std::sync::Arc;

/// Where requests are given out when they have an event, so that one thread can wait for hundreds. Requests of
/// several engines may share one. A handle, never dereferenced.
pub struct aquila_queue;

/// What a queue's handle stands for.
pub(super) struct QueueObject(Arc<EventQueue>);

impl QueueObject {
    pub fn queue(&self) -> &Arc<EventQueue> {
        &self.0
    }
}

impl Noun for QueueObject {
    const KIND: u64 = 4;
    const NAME: &'static str = "aquila_queue";
    fn table() -> &'static Table<Self> {
        static TABLE: Table<QueueObject> = Table::new();
        &TABLE
    }
}

/// Makes a queue.
///
/// Parameters: `queue`, where the handle is written, NULL on failure.
/// Returns: AQUILA_OK; AQUILA_ERR_IO where the process has no descriptor left; AQUILA_ERR_ARGUMENT,
/// AQUILA_ERR_NO_MEMORY.
/// Ownership: the queue is the caller's, to be given back with aquila_queue_free.
/// Threads: any, at any time.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_queue_create(
    queue: *mut *mut aquila_queue,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        guard::clear(queue);
        status_call(error, || {
            let out = guard::out("queue", queue)?;
            *out = handles::insert(QueueObject(EventQueue::new()?)).map_err(|(error, _)| error)?;
            Ok(())
        })
    }
}

/// Waits until requests have events, and gives these requests out. Read each with aquila_next until that says
/// AQUILA_TIMEOUT or AQUILA_DONE (with a `timeout_ms` of 0), or leave the rest: a request is given out again when it
/// has a new event, and when aquila_next left one unread.
///
/// Parameters: `ready`, room for `capacity` handles, at least one; `count`, where their number is written;
/// `timeout_ms`, 0 to only look, AQUILA_FOREVER without limit.
/// Returns: AQUILA_OK, with a `count` of 0 where aquila_queue_wake ended the wait; AQUILA_TIMEOUT;
/// AQUILA_ERR_CLOSED where the queue was freed, before or meanwhile; AQUILA_ERR_ARGUMENT, AQUILA_ERR_FORKED.
/// Threads: any, many at once: each request is given to one of them.
///
/// # Safety
/// Pointers are NULL or valid as the header says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aquila_queue_wait(
    queue: *mut aquila_queue,
    ready: *mut *mut aquila_request,
    capacity: usize,
    count: *mut usize,
    timeout_ms: i64,
    error: *mut aquila_error,
) -> aquila_status {
    // SAFETY: the caller's promise, for every pointer used below.
    unsafe {
        outcome_call(error, || {
            let count = guard::out("count", count)?;
            *count = 0;
            guard::check_pointer("ready", ready)?;
            crate::ensure!(capacity > 0, Argument, "capacity: 0, expected room for a request");
            let timeout = guard::timeout(timeout_ms)?;
            let queue = handles::pin::<QueueObject, _>(queue).map_err(|e| e.at("queue"))?;
            let mut names = [0usize; 64];
            let room = capacity.min(names.len());
            match queue.0.wait(&mut names[..room], timeout)? {
                Heard::Timeout => Ok(AQUILA_TIMEOUT),
                Heard::Woken => Ok(AQUILA_OK),
                Heard::Requests(found) => {
                    for (at, &name) in names[..found].iter().enumerate() {
                        ready.add(at).write(std::ptr::without_provenance_mut(name));
                    }
                    *count = found;
                    Ok(AQUILA_OK)
                }
            }
        })
    }
}

/// Makes one wait return, with a count of 0: one that waits now, else the next.
///
/// Parameters: `queue`; NULL and a freed handle are fine: nothing happens.
/// Threads: any, at any time. It does not wait. Not from a signal handler.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_queue_wake(queue: *mut aquila_queue) {
    value_call((), || {
        handles::pin::<QueueObject, _>(queue)?.0.wake();
        Ok(())
    })
}

/// A descriptor that is readable while requests have events, after aquila_queue_wake, and now and then for nothing; for
/// poll, select, epoll and event loops. When it is readable call aquila_queue_wait with a `timeout_ms` of 0. Do not
/// read from it.
///
/// Returns: the descriptor; -1 for NULL and for a freed queue.
/// Ownership: the queue's, valid until aquila_queue_free.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_queue_fd(queue: *const aquila_queue) -> i32 {
    value_call(-1, || Ok(handles::pin::<QueueObject, _>(queue)?.0.fd()))
}

/// Frees a queue. Its requests go on; they are not given out any more.
///
/// Parameters: `queue`; NULL and a freed handle are fine: nothing happens.
/// Threads: any, at any time: waits end with AQUILA_ERR_CLOSED.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_queue_free(queue: *mut aquila_queue) {
    value_call((), || {
        if let Some(queue) = handles::close::<QueueObject, _>(queue) {
            queue.0.close();
        }
        Ok(())
    })
}
