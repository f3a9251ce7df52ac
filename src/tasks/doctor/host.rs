//! The host: processor, memory, system.

use super::super::console;
use super::Line;
use aquila::backend::cpu::isa::Level;
use std::fs;
use std::path::Path;

pub fn look() -> Vec<Line> {
    let mut lines = vec![library(), processor(), processors()];
    lines.push(governor(Path::new("/sys/devices/system/cpu")));
    lines.extend(memory());
    lines.push(large_pages(&read("/sys/kernel/mm/transparent_hugepage/enabled")));
    lines.push(locked_memory());
    lines.extend(numa(Path::new("/sys/devices/system/node")));
    lines.extend(c_library());
    lines
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn library() -> Line {
    let text = format!("libaquila {} for {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    if cfg!(debug_assertions) {
        return Line::warning("library", text + ", a debug build", "cargo build --release");
    }
    Line::ok("library", text)
}

fn processor() -> Line {
    let info = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let name = field("model name").or(field("CPU implementer").map(|code| format!("implementer {code}")));
    let name = name.unwrap_or_else(|| "of unknown name".into());
    let level = Level::detect();
    let text = format!("{name}, kernels for {level}");
    if level == Level::Scalar {
        return Line::warning(
            "processor",
            text,
            "no vector instructions were found that the library knows; in a virtual machine, let the host's through",
        );
    }
    match std::env::var("AQUILA_CPU") {
        Ok(wanted) if Level::choose(Some(&wanted)).is_err() => Line::problem(
            "processor",
            format!("{text}; AQUILA_CPU is {wanted:?}, which is no level of this architecture"),
            "unset AQUILA_CPU",
        ),
        Ok(wanted) if Level::choose(Some(&wanted)).is_ok_and(|chosen| chosen < level) => Line::warning(
            "processor",
            format!("{text}; AQUILA_CPU lowers them to {wanted}"),
            "unset AQUILA_CPU",
        ),
        _ => Line::ok("processor", text),
    }
}

fn processors() -> Line {
    // SAFETY: sysconf takes any number and touches no memory of ours.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    let allowed = std::thread::available_parallelism().map_or(1, |count| count.get());
    Line::ok("processors", format!("{allowed} of {online} for this process (affinity and control group)"))
}

/// The governors of the processors' clocks; none in most virtual machines.
fn governor(cpus: &Path) -> Line {
    let mut found: Vec<String> = fs::read_dir(cpus)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| read(entry.path().join("cpufreq/scaling_governor")).trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    found.sort();
    found.dedup();
    match &found[..] {
        [] => Line::ok(
            "clock",
            "the system has no governor to set (a virtual machine, or the firmware's matter)",
        ),
        [one] if one == "performance" => Line::ok("clock", "governor performance"),
        others => Line::warning(
            "clock",
            format!(
                "governor {}: the clock follows the load, and a token's delay with it",
                others.join(", ")
            ),
            "sudo cpupower frequency-set -g performance",
        ),
    }
}

/// The value of a `Key:   123 kB` line, in bytes.
fn of_meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let number = line.split_whitespace().nth(1)?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

fn memory() -> Vec<Line> {
    let info = read("/proc/meminfo");
    let (Some(total), Some(available)) = (of_meminfo(&info, "MemTotal:"), of_meminfo(&info, "MemAvailable:"))
    else {
        return vec![Line::warning("memory", "the system does not say", "mount /proc")];
    };
    let mut lines = vec![Line::ok(
        "memory",
        format!("{} available of {}", console::bytes(available), console::bytes(total)),
    )];
    let left = aquila::base::memory::available_bytes().unwrap_or(available);
    // Numbers that are read one after the other differ a little.
    if left < available - available / 20 {
        lines.push(Line::warning(
            "memory limit",
            format!("the control group leaves {}: plans stay within it", console::bytes(left)),
            "raise the limit of the container or service (docker run --memory, MemoryMax=) if a model does not fit",
        ));
    }
    lines
}

fn large_pages(setting: &str) -> Line {
    match setting.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']')) {
        Some("never") => Line::warning(
            "large pages",
            "switched off: weights are read through small pages, up to a quarter slower",
            "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some(word) => Line::ok("large pages", word),
        None => Line::ok("large pages", "this kernel has no such setting"),
    }
}

fn locked_memory() -> Line {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid struct is written to.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    if limit.rlim_cur == libc::RLIM_INFINITY {
        return Line::ok("locked memory", "no limit");
    }
    Line::ok(
        "locked memory",
        format!("at most {} (ulimit -l), for --lock-memory", console::bytes(limit.rlim_cur)),
    )
}

/// One node has nothing to say.
fn numa(nodes: &Path) -> Option<Line> {
    let entries = fs::read_dir(nodes).ok()?.flatten();
    let count = entries
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .count();
    (count > 1).then(|| {
        Line::ok(
            "NUMA",
            format!("{count} nodes; one engine a node is fastest: numactl --cpunodebind=N --membind=N"),
        )
    })
}

/// Ascend's guide wants glibc 2.27.
#[cfg(target_env = "gnu")]
fn c_library() -> Option<Line> {
    // SAFETY: no preconditions; it gives a static string.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }.to_string_lossy();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let text = format!("glibc {version}");
    Some(if number < (2, 27) {
        Line::problem("C library", text, "Ascend needs glibc 2.27 or later: a newer system, or a container")
    } else {
        Line::ok("C library", text)
    })
}

#[cfg(not(target_env = "gnu"))]
fn c_library() -> Option<Line> {
    Some(Line::warning(
        "C library",
        "not glibc: Ascend's libraries need it",
        "a system or container with glibc",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn large_pages_that_are_off_are_a_warning() {
        assert_eq!(large_pages("always madvise [never]\n").verdict, Verdict::Warning);
        assert_eq!(large_pages("[always] madvise never\n").text, "always");
        assert_eq!(large_pages("").verdict, Verdict::Ok);
    }

    #[test]
    fn a_governor_that_follows_the_load_is_a_warning() {
        let root = std::env::temp_dir().join(format!("aquila-doctor-{}", std::process::id()));
        let set = |cpu: u32, name: &str| {
            let dir = root.join(format!("cpu{cpu}/cpufreq"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("scaling_governor"), name).unwrap();
        };
        assert_eq!(governor(&root).verdict, Verdict::Ok);
        set(0, "performance\n");
        assert_eq!(governor(&root).text, "governor performance");
        set(1, "powersave\n");
        let line = governor(&root);
        assert_eq!(line.verdict, Verdict::Warning);
        assert_eq!(line.mend.as_deref(), Some("sudo cpupower frequency-set -g performance"));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn several_memory_nodes_are_told() {
        let root = std::env::temp_dir().join(format!("aquila-numa-{}", std::process::id()));
        for node in ["node0", "node1", "possible"] {
            fs::create_dir_all(root.join(node)).unwrap();
        }
        assert!(numa(&root).unwrap().text.starts_with("2 nodes"));
        fs::remove_dir_all(root.join("node1")).unwrap();
        assert_eq!(numa(&root), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
