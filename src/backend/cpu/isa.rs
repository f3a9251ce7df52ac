//! Which instructions the kernels may use: found out at run time, chosen once for each engine.
//!
//! The library itself is compiled for the lowest CPU of its architecture. The levels of an architecture are
//! ordered by speed. Each holds the instructions of all levels below it, except that [`Level::AvxVnni`] is a
//! side branch: there are CPUs with AVX-512 that lack it. So a wanted level stands for the best one of this
//! CPU that is not above it.

use crate::base::error::Result;

/// A set of instructions, those of an architecture lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every CPU of the architecture has.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (Haswell, Zen and later).
    Avx2,
    /// As [`Level::Avx2`] with the VEX form of the dot product of bytes (Alder Lake, Zen 5).
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, VL and DQ beside AVX2, FMA and F16C (Skylake-SP, Zen 4 and later).
    Avx512,
    /// As [`Level::Avx512`] with the dot product of bytes (Cascade Lake, Ice Lake, Zen 4).
    Avx512Vnni,
    /// As [`Level::Avx512Vnni`] with the dot product of bf16 pairs (Cooper Lake, Sapphire Rapids, Zen 4).
    Avx512Bf16,
    /// aarch64 with Advanced SIMD, which every such CPU has (Cortex-A57, A72 and later).
    Neon,
    /// As [`Level::Neon`] with the dot product of bytes (Cortex-A76, Neoverse N1, Kunpeng 920, Apple M1 and
    /// later).
    NeonDot,
}

impl Level {
    /// Every level of this architecture, lowest first.
    #[cfg(target_arch = "x86_64")]
    pub const ALL: [Level; 6] =
        [Level::Scalar, Level::Avx2, Level::AvxVnni, Level::Avx512, Level::Avx512Vnni, Level::Avx512Bf16];
    /// Every level of this architecture, lowest first.
    #[cfg(target_arch = "aarch64")]
    pub const ALL: [Level; 3] = [Level::Scalar, Level::Neon, Level::NeonDot];
    /// Every level of this architecture, lowest first.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const ALL: [Level; 1] = [Level::Scalar];

    /// Whether this CPU has all instructions of the level.
    pub fn exists(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            let avx512 = avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq");
            match self {
                Level::Scalar => true,
                Level::Avx2 => avx2,
                Level::AvxVnni => avx2 && has!("avxvnni"),
                Level::Avx512 => avx512,
                Level::Avx512Vnni => avx512 && has!("avx512vnni"),
                Level::Avx512Bf16 => avx512 && has!("avx512vnni") && has!("avx512bf16"),
                Level::Neon | Level::NeonDot => false,
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            match self {
                Level::Scalar | Level::Neon => true,
                Level::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
                _ => false,
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        {
            self == Level::Scalar
        }
    }

    /// The highest level of this CPU.
    pub fn detect() -> Level {
        Level::ALL.last().map_or(Level::Scalar, |level| level.lowered())
    }

    /// The highest level of this CPU that is not above this one; scalar for a level of another
    /// architecture.
    pub fn lowered(self) -> Level {
        if !Level::ALL.contains(&self) {
            return Level::Scalar;
        }
        let known = Level::ALL.into_iter().rev().filter(|&level| level <= self);
        known.into_iter().find(|level| level.exists()).unwrap_or(Level::Scalar)
    }

    /// The level of an engine: what this CPU has, lowered to `wanted` (the value of `AQUILA_CPU`) where
    /// that is a lower one. A higher one is clamped; an unknown name, or one of another architecture, is an
    /// `Argument` error.
    pub fn choose(wanted: Option<&str>) -> Result<Level> {
        let Some(name) = wanted else { return Ok(Level::detect()) };
        match Level::ALL.into_iter().find(|level| level.name() == name) {
            Some(level) => Ok(level.lowered()),
            None => Err(crate::error!(
                Argument,
                "AQUILA_CPU: expected one of {}, found \"{}\"",
                Level::ALL.map(Level::name).join(", "),
                name.escape_default()
            )),
        }
    }

    /// The levels that this CPU can run, lowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| level.exists())
    }

    /// The name in lower case, as `AQUILA_CPU` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::AvxVnni => "avxvnni",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512vnni",
            Level::Avx512Bf16 => "avx512bf16",
            Level::Neon => "neon",
            Level::NeonDot => "dotprod",
        }
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Status;

    #[test]
    fn a_name_lowers_and_never_raises() {
        let detected = Level::detect();
        assert_eq!(Level::choose(None).unwrap(), detected);
        assert_eq!(Level::choose(Some("scalar")).unwrap(), Level::Scalar);
        for level in Level::ALL {
            let chosen = Level::choose(Some(level.name())).unwrap();
            assert!(chosen <= level && chosen.exists());
            assert!(!level.exists() || chosen == level);
        }
        assert_eq!(Level::available().last(), Some(detected));
        let foreign = if cfg!(target_arch = "aarch64") { Level::Avx512Bf16 } else { Level::NeonDot };
        assert_eq!(foreign.lowered(), Level::Scalar);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        // Names of another architecture are as unknown as none at all.
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        for (name, shown) in [("sse9\n", "\"sse9\\n\""), (foreign, foreign)] {
            let error = Level::choose(Some(name)).unwrap_err();
            assert_eq!(error.status, Status::Argument);
            assert!(Level::ALL.iter().all(|level| error.message.contains(level.name())), "{error}");
            assert!(error.message.contains(shown), "{error}");
        }
    }
}
