//! The floating-point mode of the threads that compute.
//!
//! A thread inherits rounding mode and denormal handling from the thread that made it, and a host
//! built with `-ffast-math`, or one that rounds upward, would change our numbers. So every worker
//! computes in one fixed mode: round to nearest, no exceptions, denormals flushed to zero (some cores
//! need a hundred cycles for each). The engine's own thread gets its mode back after each job.

/// While it lives, the thread computes in the library's mode; then the former mode is restored.
pub struct FloatMode {
    former: u64,
}

/// Flush-to-zero (15), all exceptions masked (12–7), round to nearest (14–13), denormals are zero (6).
#[cfg(target_arch = "x86_64")]
const MODE: u64 = 0x9fc0;
/// FPCR bit 24: denormals, operands and results, are zero. All other bits are 0: round to nearest (23–22), no
/// traps (15, 12–8), IEEE half precision (26: its alternative has no infinities), NaN kept (25). Conversions from
/// and to f16 keep the denormals of f16 in this mode too.
#[cfg(target_arch = "aarch64")]
const MODE: u64 = 1 << 24;
/// Elsewhere the mode is left alone.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MODE: u64 = 0;

impl FloatMode {
    /// Sets the mode of the calling thread.
    pub fn enter() -> Self {
        let former = read();
        write(MODE);
        FloatMode { former }
    }
}

impl Drop for FloatMode {
    fn drop(&mut self) {
        write(self.former);
    }
}

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    let mut word = 0u32;
    // SAFETY: stores the 32-bit MXCSR to a valid local.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut word, options(nostack, preserves_flags)) };
    u64::from(word)
}

#[cfg(target_arch = "x86_64")]
fn write(mode: u64) {
    let word = mode as u32;
    // SAFETY: loads a value that was either read from MXCSR or is MODE, whose reserved bits are 0. The
    // compiler assumes round to nearest, which MODE keeps; the denormal bits change only which tiny
    // results become zero. Exceptions stay masked, so no instruction can trap.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &word, options(nostack, preserves_flags)) };
}

#[cfg(target_arch = "aarch64")]
fn read() -> u64 {
    let word: u64;
    // SAFETY: reads a register that every level may read.
    unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) word, options(nomem, nostack)) };
    word
}

#[cfg(target_arch = "aarch64")]
fn write(mode: u64) {
    // SAFETY: as on x86: a value read before, or MODE, which rounds to nearest and traps nothing.
    unsafe { std::arch::asm!("msr fpcr, {}", in(reg) mode, options(nostack)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn read() -> u64 {
    MODE
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn write(_: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_is_set_and_given_back() {
        let before = read();
        {
            let _mode = FloatMode::enter();
            assert_eq!(read() & MODE, MODE);
        }
        // Bits 0–5 are sticky exception flags.
        assert_eq!(read() & !0x3f, before & !0x3f);
    }

    /// Rounds upward; on aarch64 the alternative half precision and the default NaN too.
    #[cfg(target_arch = "x86_64")]
    const HOSTILE: u64 = 0x5f80;
    #[cfg(target_arch = "aarch64")]
    const HOSTILE: u64 = 1 << 22 | 1 << 25 | 1 << 26;

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn a_host_that_computes_otherwise_changes_nothing() {
        use std::hint::black_box;
        // Nearest to −1/3 is a number below it.
        let third = || black_box(black_box(-1f32) / black_box(3f32)).to_bits();
        let tiny = || black_box(black_box(f32::MIN_POSITIVE) * black_box(0.5));
        let expected = (-1f32 / 3f32).to_bits();
        let before = read();
        write(HOSTILE);
        let upward = third();
        let inside = {
            let _mode = FloatMode::enter();
            (read() & !0x3f, third(), tiny())
        };
        let (after, denormal) = (read() & !0x3f, tiny());
        write(before);
        assert_eq!(inside, (MODE, expected, 0.0));
        assert_eq!(after, HOSTILE);
        assert!(denormal > 0.0);
        assert_ne!(upward, expected);
    }
}
