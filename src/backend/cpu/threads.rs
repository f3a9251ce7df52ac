//! How many threads an engine takes when the caller does not say.

use std::collections::BTreeSet;
use std::fs;

/// One thread for each physical core that affinity allows, within the control group's quota (rounded
/// down), and at least one. Two hardware threads of one core share its vector units and its path to
/// memory, so the second adds barriers and no speed.
pub fn default_count() -> usize {
    // The standard library already takes affinity and the quotas of both cgroup versions together.
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    let cores = physical_cores(&allowed_cpus(), |cpu| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    });
    allowed.min(cores.unwrap_or(allowed)).max(1)
}

/// Processors that this process may run on, whatever its quota; more threads than that never run at once.
pub fn allowed_count() -> usize {
    match allowed_cpus().len() {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    }
}

/// Processors in the affinity mask; empty where the system does not say.
fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is an array of integers, for which zero bytes are a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size into `set`.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Vec::new();
    }
    let bits = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: every index is below the number of bits of the set.
    (0..bits).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

/// Distinct cores among `cpus`; `None` where the siblings of any of them are unknown.
fn physical_cores(cpus: &[usize], siblings: impl Fn(usize) -> Option<String>) -> Option<usize> {
    let cores: Option<BTreeSet<String>> =
        cpus.iter().map(|&cpu| siblings(cpu).map(|list| list.trim().to_owned())).collect();
    cores.map(|cores| cores.len()).filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_count_once() {
        let smt = |cpu: usize| Some(format!("{},{}\n", cpu % 4, cpu % 4 + 4));
        assert_eq!(physical_cores(&[0, 1, 2, 3, 4, 5, 6, 7], smt), Some(4));
        assert_eq!(physical_cores(&[1, 5], smt), Some(1));
        assert_eq!(physical_cores(&[0, 1], |cpu| Some(cpu.to_string())), Some(2));
        assert_eq!(physical_cores(&[0, 1], |cpu| (cpu == 0).then(String::new)), None);
        assert_eq!(physical_cores(&[], smt), None);
    }

    #[test]
    fn this_process_has_some() {
        assert!((1..=allowed_count()).contains(&default_count()));
    }
}
