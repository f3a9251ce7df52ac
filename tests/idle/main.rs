//! An engine that has nothing to do takes no CPU, nor does who waits for it; its threads are named, deaf to
//! signals, and gone when it is closed.
//!
//! The only test of its program, so that no other test's threads and CPU time are counted.

#[path = "../support/mod.rs"]
mod support;

use aquila::engine::event_queue::{EventQueue, Heard};
use aquila::engine::params::{GenParams, Input};
use aquila::engine::{Job, Next};
use aquila::open::{self, LoadOptions};
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::time::Duration;
use support::{TempDir, TinyModel};

/// CPU time of this process so far.
fn cpu_time() -> Duration {
    // SAFETY: rusage is plain data, and getrusage only writes it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .iter()
        .map(|t| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000))
        .sum()
}

/// Names of the library's threads, each with its mask of blocked signals.
fn threads() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
        let value = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_whitespace().nth(1).unwrap_or_default().to_string()
        };
        let name = value("Name:");
        if name.starts_with("aquila-") {
            found.insert(name, u64::from_str_radix(&value("SigBlk:"), 16).unwrap());
        }
    }
    found
}

#[test]
fn an_idle_engine_sleeps_and_a_closed_one_is_gone() {
    let dir = TempDir::new();
    TinyModel::default().write_dir(dir.path());
    assert!(threads().is_empty(), "no thread exists before the first load");
    let options = LoadOptions { threads: 2, ..LoadOptions::default() };
    let engine = open::load(dir.path(), &options, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
    let params = GenParams { max_tokens: 20, ignore_eos: true, ..GenParams::default() };
    engine.generate(Input::Text("hello".into()), params.clone()).unwrap();

    // One request that was read to its end through a queue, one that was given up while it ran, and a thread that
    // goes on waiting at the queue: none of them leaves anything to do.
    let queue = EventQueue::new().unwrap();
    let submit = |name| {
        let job = Job::new(Input::Text("hello".into()), params.clone());
        let (request, admission) = engine.prepare(Job { queue: Some(queue.clone()), ..job }).unwrap();
        admission.admit(name).unwrap();
        request
    };
    let read = submit(1);
    while !matches!(read.next(None).unwrap(), Next::Done) {}
    drop(submit(2));
    let waiter = std::thread::spawn({
        let queue = queue.clone();
        move || while queue.wait(&mut [0; 4], None).unwrap() != Heard::Woken {}
    });

    let threads_now = threads();
    assert_eq!(threads_now.keys().collect::<Vec<_>>(), ["aquila-engine", "aquila-w1"]);
    // SIGKILL and SIGSTOP cannot be blocked, and the C library keeps 32 and 33 for itself.
    let blockable = !(1u64 << 8 | 1 << 18 | 1 << 31 | 1 << 32);
    for (name, blocked) in threads_now {
        assert_eq!(blocked & blockable, blockable, "{name} blocks {blocked:#x}");
    }

    // Workers spin for at most some 50 µs after a step; then everything sleeps.
    std::thread::sleep(Duration::from_millis(50));
    let before = cpu_time();
    std::thread::sleep(Duration::from_millis(1000));
    let spent = cpu_time() - before;
    assert!(spent < Duration::from_millis(20), "{spent:?} of CPU in a second of idleness");

    queue.wake();
    waiter.join().unwrap();
    engine.close();
    assert!(threads().is_empty(), "{:?} after close", threads());
}
