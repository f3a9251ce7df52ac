//! Which instructions the kernels may use: found out at run time, chosen once for each engine.
//!
//! The library itself is compiled for the lowest CPU of its architecture. Levels are ordered: each
//! holds the instructions of all levels below it, so a level can always be lowered.

use crate::base::error::Result;

/// A set of instructions, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every CPU of the architecture has.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C (Haswell, Zen and later).
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and DQ beside the above (Skylake-SP, Zen 4 and later).
    Avx512,
    /// As [`Level::Avx512`] with the dot product of bf16 pairs (Cooper Lake, Sapphire Rapids, Zen 4).
    Avx512Bf16,
}

impl Level {
    /// Every level that the library knows, lowest first.
    pub const ALL: [Level; 4] = [Level::Scalar, Level::Avx2, Level::Avx512, Level::Avx512Bf16];

    /// The highest level of this CPU.
    pub fn detect() -> Level {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if !(has!("avx2") && has!("fma") && has!("f16c")) {
                return Level::Scalar;
            }
            if !(has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq")) {
                return Level::Avx2;
            }
            if has!("avx512bf16") { Level::Avx512Bf16 } else { Level::Avx512 }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Level::Scalar
    }

    /// The level of an engine: what this CPU has, lowered to `wanted` (the value of `AQUILA_CPU`) where
    /// that is a lower one. A higher one is clamped; an unknown name is an `Argument` error.
    pub fn choose(wanted: Option<&str>) -> Result<Level> {
        let detected = Level::detect();
        let Some(name) = wanted else { return Ok(detected) };
        match Level::ALL.into_iter().find(|level| level.name() == name) {
            Some(level) => Ok(level.min(detected)),
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
        let detected = Level::detect();
        Level::ALL.into_iter().filter(move |&level| level <= detected)
    }

    /// The name in lower case, as `AQUILA_CPU` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Bf16 => "avx512bf16",
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
            assert_eq!(Level::choose(Some(level.name())).unwrap(), level.min(detected));
        }
        assert_eq!(Level::available().last(), Some(detected));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = Level::choose(Some("sse9\n")).unwrap_err();
        assert_eq!(error.status, Status::Argument);
        assert!(error.message.contains("avx512bf16") && error.message.contains("sse9\\n"), "{error}");
    }
}
