//! How much memory this process may still take, and what it has taken.

use std::fs;
use std::path::Path;

/// Bytes that the process can take now: the least of the machine's `MemAvailable` and what the
/// control group leaves. `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let machine = meminfo("MemAvailable:");
    match (machine, cgroup_available()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn meminfo(key: &str) -> Option<u64> {
    kib_of(&fs::read_to_string("/proc/meminfo").ok()?, key)
}

/// The value of a `Key:   123 kB` line, in bytes.
fn kib_of(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let kib: u64 = line[key.len()..].trim().trim_end_matches("kB").trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the control groups of this process leave; `None` where none of them has a limit.
fn cgroup_available() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    least_left(Path::new("/sys/fs/cgroup"), &groups)
}

/// The least that any group leaves which holds the process, its own and all above it: a limit often
/// stands on a parent (a systemd slice, a pod). In a container the paths may be those of the host and
/// not exist; the root of the mount is then the container's own group. `groups` is /proc/self/cgroup.
fn least_left(mount: &Path, groups: &str) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, limit, used) = if controllers.is_empty() {
            (mount.to_owned(), "memory.max", "memory.current")
        } else if controllers.split(',').any(|c| c == "memory") {
            (mount.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            least = [least, left(&root.join(group), limit, used)].into_iter().flatten().min();
        }
    }
    least
}

/// Limit minus use of one group; `None` where it has no limit. Page cache counts as use although the
/// kernel gives it back, and mapped weights that were loaded before are page cache: it is added again.
fn left(group: &Path, limit: &str, used: &str) -> Option<u64> {
    let read = |file: &str| fs::read_to_string(group.join(file)).ok();
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    // Where there is no limit, version 2 says "max"; version 1 says a number beyond any memory.
    let (limit, used) = (number(limit)?, number(used)?);
    let stat = read("memory.stat").unwrap_or_default();
    // Version 1 counts the groups below only in the lines with `total_`.
    let cache = |key: &str| stat_of(&stat, &format!("total_{key}")).or(stat_of(&stat, key)).unwrap_or(0);
    let cache = cache("inactive_file").saturating_add(cache("active_file"));
    Some(limit.saturating_sub(used.saturating_sub(cache)))
}

/// The value of a `key 123` line.
fn stat_of(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of control groups: directories with files. Gone when dropped.
    struct Groups(std::path::PathBuf);

    impl Groups {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("aquila-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Groups(root)
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_tightest_group_above_the_process_counts() {
        // The process's own group has no limit; a slice above it has one, and the pod above that another.
        let tree = Groups::new(
            "cgroup2",
            &[
                ("pod/memory.max", "9000\n"),
                ("pod/memory.current", "1000\n"),
                ("pod/a.slice/memory.max", "4000\n"),
                ("pod/a.slice/memory.current", "700\n"),
                ("pod/a.slice/b.service/memory.max", "max\n"),
                ("pod/a.slice/b.service/memory.current", "600\n"),
            ],
        );
        assert_eq!(least_left(&tree.0, "0::/pod/a.slice/b.service\n"), Some(3300));
        assert_eq!(least_left(&tree.0, "0::/pod\n"), Some(8000));
        assert_eq!(least_left(&tree.0, "0::/\n"), None);
        assert_eq!(least_left(&tree.0, "0::/elsewhere\n7:cpu:/pod\nnonsense\n"), None);
    }

    #[test]
    fn page_cache_is_given_back_whether_it_was_read_once_or_often() {
        // 14 GiB of weights in a group of 16: pages that were read twice are active, and the same model must
        // load again.
        let stat = "anon 500\ninactive_file 3000\nactive_file 11000\n";
        let tree = Groups::new(
            "cache",
            &[("memory.max", "16000"), ("memory.current", "14500"), ("memory.stat", stat)],
        );
        assert_eq!(least_left(&tree.0, "0::/\n"), Some(15500));
    }

    #[test]
    fn version_1_with_the_paths_of_the_host() {
        // Docker without a namespace of control groups: the path is the host's, the mount the container's.
        let stat = "inactive_file 1\nactive_file 1\ntotal_inactive_file 200\ntotal_active_file 100\n";
        let tree = Groups::new(
            "cgroup1",
            &[
                ("memory/memory.limit_in_bytes", "5000\n"),
                ("memory/memory.usage_in_bytes", "1300\n"),
                ("memory/memory.stat", stat),
            ],
        );
        assert_eq!(least_left(&tree.0, "4:cpu,memory:/docker/0123\n0::/\n"), Some(4000));
    }

    #[test]
    fn reads_meminfo_lines() {
        let text = "MemTotal:       24689428 kB\nMemAvailable:   12345 kB\n";
        assert_eq!(kib_of(text, "MemAvailable:"), Some(12345 * 1024));
        assert_eq!(kib_of(text, "Swap:"), None);
        assert!(available_bytes().is_some_and(|n| n > 1 << 20));
    }
}
