//! Runs a program that must end: one that hangs fails its test, and the failure says where it hung.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Far longer than any program of these tests runs, on a slow machine too.
const LONGEST: Duration = Duration::from_secs(300);

/// What a program that ended in time said.
pub fn output(command: &mut Command) -> Output {
    output_of(command, b"")
}

/// The same, with something on its standard input.
pub fn output_of(command: &mut Command, input: &[u8]) -> Output {
    ended(command, input, LONGEST).unwrap_or_else(|hang| panic!("{command:?}: {hang}"))
}

/// A program that had to be killed.
struct Hang {
    after: Duration,
    /// Each of its threads: name, state, where in the kernel.
    threads: String,
    said: String,
}

impl std::fmt::Display for Hang {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Hang { after, threads, said } = self;
        write!(f, "still running after {} s\n{threads}{said}", after.as_secs())
    }
}

fn ended(command: &mut Command, input: &[u8], longest: Duration) -> Result<Output, Hang> {
    // A group of its own: what it started ends with it, and no pipe stays open.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    // A program may end without reading its input.
    let _ = child.stdin.take().expect("piped").write_all(input);
    let out = reader(child.stdout.take().expect("piped"));
    let err = reader(child.stderr.take().expect("piped"));
    let read = |reader: thread::JoinHandle<Vec<u8>>| reader.join().expect("a reader does not panic");
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return Ok(Output { status, stdout: read(out), stderr: read(err) });
        }
        if start.elapsed() > longest {
            let threads = threads_of(child.id());
            // SAFETY: a plain system call; the group lives, for its first process was not waited for yet.
            unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
            child.wait().expect("a child of ours");
            let said = String::from_utf8_lossy(&[read(out), read(err)].concat()).chars().take(4000).collect();
            return Err(Hang { after: longest, threads, said });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads a pipe to its end, so that the program never waits for it.
fn reader(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// The threads of a process, a line each.
fn threads_of(pid: u32) -> String {
    let mut lines = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read = |file: &str| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').trim()
        };
        let (name, state) = (field("Name"), field("State"));
        lines += &format!("  {name}: {state}, {} {}\n", read("wchan"), read("syscall").trim());
    }
    lines
}

#[test]
fn a_hang_is_ended_and_described() {
    let start = Instant::now();
    let mut command = Command::new("sh");
    command.args(["-c", "echo begun; sleep 60; true"]);
    let hang = ended(&mut command, b"", Duration::from_millis(300)).expect_err("it sleeps");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(hang.to_string().contains("begun") && hang.threads.contains("sh: S"), "{hang}");
}
