//! Many requests, one waiting thread: a queue lists the requests that have something to say.
//!
//! A request is listed once, however much it says, until the queue hands it out; what it says then lists it
//! anew, and so does reading only a part of what it had to say. Lock order: a queue's lock is never held together with
//! a request's.

use crate::base::error::Result;
use crate::base::event_fd::EventFd;
use crate::base::fork::Process;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What waiting at a queue gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// So many requests have something to say.
    Requests(usize),
    /// Somebody called [`EventQueue::wake`].
    Woken,
    /// The time passed.
    Timeout,
}

#[derive(Debug, Default)]
struct Ready {
    listed: VecDeque<Arc<Place>>,
    woken: bool,
    closed: bool,
    /// Whether the descriptor is raised.
    raised: bool,
}

/// A queue. All methods may be called from any thread.
#[derive(Debug)]
pub struct EventQueue {
    ready: Mutex<Ready>,
    changed: Condvar,
    signal: EventFd,
    process: Process,
}

/// A request's place at a queue.
#[derive(Debug)]
struct Place {
    /// What the queue hands out for it; 0: nothing yet, or nothing any more.
    name: AtomicUsize,
    /// Whether it is listed.
    listed: AtomicBool,
    /// Whether it said something that was not read: else it is not handed out. Written under the lock under which the
    /// request writes down what it says and its reader takes it, so it is never wrong for long.
    unread: AtomicBool,
}

/// What a request has of its queue.
#[derive(Debug)]
pub(crate) struct Listener {
    queue: Arc<EventQueue>,
    place: Arc<Place>,
}

impl Listener {
    pub(crate) fn new(queue: Arc<EventQueue>) -> Self {
        let (name, listed, unread) = Default::default();
        Listener { queue, place: Arc::new(Place { name, listed, unread }) }
    }

    /// What the queue hands out for this request. Before it has a name it is not listed.
    pub(crate) fn set_name(&self, name: usize) {
        self.place.name.store(name, Ordering::Release);
    }

    /// Whether there is something to read. Called under the request's lock.
    pub(crate) fn set_unread(&self, unread: bool) {
        self.place.unread.store(unread, Ordering::Release);
    }

    /// Lists the request, if it is not listed. Called after it let go of its lock.
    pub(crate) fn announce(&self) {
        let place = &self.place;
        if place.name.load(Ordering::Acquire) != 0 && !place.listed.swap(true, Ordering::AcqRel) {
            self.queue.list(place.clone());
        }
    }

    /// The request is not handed out any more.
    pub(crate) fn forget(&self) {
        self.place.name.store(0, Ordering::Release);
    }
}

impl EventQueue {
    /// An empty queue. `IO` where the process has no descriptor left.
    pub fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(EventQueue {
            ready: Mutex::default(),
            changed: Condvar::new(),
            signal: EventFd::new()?,
            process: Process::current(),
        }))
    }

    /// A descriptor that is readable while requests are listed, and after a wake-up. For poll, select and epoll alone; it
    /// lives as long as the queue.
    pub fn fd(&self) -> i32 {
        self.signal.fd()
    }

    /// Waits until requests have something to say, at most `timeout` (`None`: without limit), and writes the
    /// names of as many as `names` holds. `Closed` after [`EventQueue::close`], `Forked` in a child process.
    pub fn wait(&self, names: &mut [usize], timeout: Option<Duration>) -> Result<Heard> {
        self.process.check()?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut ready = self.ready.lock();
        loop {
            crate::ensure!(!ready.closed, Closed, "the queue was freed");
            let count = take(&mut ready, names);
            if count > 0 || ready.woken {
                let heard = if count > 0 { Heard::Requests(count) } else { Heard::Woken };
                ready.woken &= count > 0;
                self.settle(&mut ready);
                return Ok(heard);
            }
            self.settle(&mut ready);
            match deadline {
                None => self.changed.wait(&mut ready),
                Some(deadline) => {
                    if Instant::now() >= deadline {
                        return Ok(Heard::Timeout);
                    }
                    self.changed.wait_until(&mut ready, deadline);
                }
            }
        }
    }

    /// Makes one wait return: one that waits now, else the next.
    pub fn wake(&self) {
        if !self.process.is_current() {
            return;
        }
        let mut ready = self.ready.lock();
        ready.woken = true;
        self.settle(&mut ready);
        self.changed.notify_one();
    }

    /// Ends all waits, now and later, with `Closed`.
    pub fn close(&self) {
        if !self.process.is_current() {
            return;
        }
        let mut ready = self.ready.lock();
        ready.closed = true;
        ready.listed.clear();
        self.settle(&mut ready);
        self.changed.notify_all();
    }

    fn list(&self, place: Arc<Place>) {
        let mut ready = self.ready.lock();
        if !ready.closed {
            ready.listed.push_back(place);
            self.settle(&mut ready);
            self.changed.notify_one();
        }
    }

    /// Raises or lowers the descriptor as it should be.
    fn settle(&self, ready: &mut Ready) {
        let should = !ready.listed.is_empty() || ready.woken || ready.closed;
        match (ready.raised, should) {
            (false, true) => self.signal.raise(),
            (true, false) => self.signal.lower(),
            _ => return,
        }
        ready.raised = should;
    }
}

/// Takes listed requests that still have a name.
fn take(ready: &mut Ready, names: &mut [usize]) -> usize {
    let mut count = 0;
    while count < names.len() {
        let Some(place) = ready.listed.pop_front() else { break };
        // Before its events are read: what it says from now on lists it again.
        place.listed.store(false, Ordering::Release);
        let name = place.name.load(Ordering::Acquire);
        if name != 0 && place.unread.load(Ordering::Acquire) {
            names[count] = name;
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    fn readable(queue: &EventQueue) -> bool {
        let mut poll = libc::pollfd { fd: queue.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry, no waiting.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    fn wait(queue: &EventQueue, most: usize) -> (Heard, Vec<usize>) {
        let mut names = vec![0; most];
        let heard = queue.wait(&mut names, Some(Duration::ZERO)).unwrap();
        names.retain(|&name| name != 0);
        (heard, names)
    }

    #[test]
    fn a_request_is_listed_once_until_it_is_handed_out_and_not_after_it_is_gone() {
        let queue = EventQueue::new().unwrap();
        let listeners = [7, 8, 9].map(|name| {
            let listener = Listener::new(queue.clone());
            listener.announce();
            listener.set_name(name);
            listener
        });
        assert_eq!(wait(&queue, 4).0, Heard::Timeout, "nobody is listed before it has a name");
        assert!(!readable(&queue));
        for listener in &listeners {
            listener.set_unread(true);
            listener.announce();
            listener.announce();
        }
        assert!(readable(&queue));
        listeners[1].forget();
        assert_eq!(wait(&queue, 1), (Heard::Requests(1), vec![7]));
        assert!(readable(&queue));
        listeners[0].announce();
        assert_eq!(wait(&queue, 4), (Heard::Requests(2), vec![9, 7]));
        listeners[0].set_unread(false);
        listeners[0].announce();
        assert_eq!(wait(&queue, 4).0, Heard::Timeout, "all that it said was read");
        listeners[0].set_unread(true);
        listeners[0].announce();
        assert_eq!(wait(&queue, 4), (Heard::Requests(1), vec![7]));
        assert!(!readable(&queue));
        assert_eq!(wait(&queue, 4).0, Heard::Timeout);
    }

    #[test]
    fn waking_is_not_lost_and_counts_once() {
        let queue = EventQueue::new().unwrap();
        queue.wake();
        queue.wake();
        assert!(readable(&queue));
        assert_eq!(wait(&queue, 1).0, Heard::Woken);
        assert!(!readable(&queue));
        let listener = Listener::new(queue.clone());
        listener.set_name(3);
        listener.set_unread(true);
        queue.wake();
        listener.announce();
        assert_eq!(wait(&queue, 1), (Heard::Requests(1), vec![3]));
        assert_eq!(wait(&queue, 1).0, Heard::Woken, "the wake-up comes after the request");
    }

    #[test]
    fn closing_ends_every_wait() {
        let queue = EventQueue::new().unwrap();
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| queue.wait(&mut [0], None))).collect();
            std::thread::sleep(Duration::from_millis(10));
            queue.close();
            for thread in waiting {
                assert_eq!(thread.join().unwrap().unwrap_err().status, Status::Closed);
            }
        });
        assert!(readable(&queue), "whoever polls finds out, too");
        assert_eq!(queue.wait(&mut [0], None).unwrap_err().status, Status::Closed);
    }
}
