//! How much memory this process may still take, and what it has taken.

use std::fs;

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

/// Limit minus use of this process's control group, version 2 then 1. Page cache counts as use in
/// `memory.current` although the kernel gives it back, so the inactive file pages are added again.
fn cgroup_available() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let (dir, limit, used) = if controllers.is_empty() {
            (format!("/sys/fs/cgroup{path}"), "memory.max", "memory.current")
        } else if controllers.split(',').any(|c| c == "memory") {
            (format!("/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            continue;
        };
        let read = |file: &str| fs::read_to_string(format!("{dir}/{file}")).ok();
        let Some(limit) = read(limit).and_then(|s| s.trim().parse::<u64>().ok()) else { continue };
        let used = read(used).and_then(|s| s.trim().parse::<u64>().ok())?;
        let cache = read("memory.stat").map_or(0, |stat| {
            stat.lines()
                .find_map(|l| l.strip_prefix("inactive_file ").or(l.strip_prefix("total_inactive_file ")))
                .and_then(|n| n.trim().parse().ok())
                .unwrap_or(0)
        });
        return Some(limit.saturating_sub(used.saturating_sub(cache)));
    }
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_meminfo_lines() {
        let text = "MemTotal:       24689428 kB\nMemAvailable:   12345 kB\n";
        assert_eq!(super::kib_of(text, "MemAvailable:"), Some(12345 * 1024));
        assert_eq!(super::kib_of(text, "Swap:"), None);
        assert!(super::available_bytes().is_some_and(|n| n > 1 << 20));
    }
}
