//! How many rows of prompts a step may take along while answers are being made, so that these are not held up long.
//!
//! A long prompt in one step would stop every running answer for as long as it takes. So it comes in chunks, as large
//! as keep a step with a chunk within [`STRETCH`] times one without. What that is depends on model, device and
//! load, so it is measured: the time of steps without prompt rows, and what a prompt row adds.

/// By how much of the time of a step without prompts a chunk may lengthen it. With 2.25 times in all, the delay between
/// tokens stays within three times, and prompts lose little: a chunk still uses the weights that the step reads anyway.
const STRETCH: f64 = 1.25;
/// The least rows of a chunk: fewer cost about as much, since the weights are read once.
const LEAST: usize = 16;
/// How much a new measurement counts.
const WEIGHT: f64 = 0.25;

/// Measured times, and what follows from them.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    /// A step without prompt rows, in nanoseconds; 0: none was seen.
    decode_ns: f64,
    /// What a prompt row adds; 0: none was seen.
    row_ns: f64,
    /// Before anything is known.
    first: usize,
    most: usize,
}

impl Pace {
    /// For steps of at most `most` rows; `first` prompt rows beside answers until both times are known.
    pub(crate) fn new(first: usize, most: usize) -> Self {
        Pace { decode_ns: 0.0, row_ns: 0.0, first, most }
    }

    /// A step with so many rows of answers and of prompts took `ns`.
    pub(crate) fn took(&mut self, answers: usize, prompts: usize, ns: u64) {
        let ns = ns as f64;
        if prompts == 0 {
            smooth(&mut self.decode_ns, ns);
        } else if answers == 0 || self.decode_ns > 0.0 {
            let without = if answers == 0 { 0.0 } else { self.decode_ns };
            smooth(&mut self.row_ns, (ns - without).max(0.0) / prompts as f64);
        }
    }

    /// Rows of prompts that a step with answers may have.
    pub(crate) fn prompt_rows(&self) -> usize {
        if self.decode_ns == 0.0 || self.row_ns == 0.0 {
            return self.first;
        }
        let rows = STRETCH * self.decode_ns / self.row_ns;
        (rows as usize).clamp(LEAST.min(self.most), self.most)
    }
}

fn smooth(value: &mut f64, new: f64) {
    *value = if *value == 0.0 { new } else { *value + WEIGHT * (new - *value) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device whose steps take `base` ns and `row` more for each row beyond the first.
    fn settle(base: u64, row: u64) -> (usize, f64) {
        let mut pace = Pace::new(128, 512);
        let time = |rows: usize| base + row * rows as u64;
        for _ in 0..50 {
            pace.took(4, 0, time(4));
            let rows = pace.prompt_rows();
            pace.took(4, rows, time(4 + rows));
        }
        let rows = pace.prompt_rows();
        (rows, time(4 + rows) as f64 / time(4) as f64)
    }

    #[test]
    fn a_chunk_is_as_large_as_keeps_answers_coming() {
        for (base, row) in [(50_000_000, 2_000_000), (10_000_000, 100_000), (100_000_000, 900_000)] {
            let (rows, stretch) = settle(base, row);
            assert!((1.9..=2.4).contains(&stretch), "{base} + {row} a row: {rows} rows, {stretch} times");
        }
    }

    #[test]
    fn chunks_have_bounds_and_a_beginning() {
        assert_eq!(settle(1_000, 1_000_000).0, 16, "dear rows");
        assert_eq!(settle(1_000_000_000, 10).0, 512, "cheap rows");
        let mut pace = Pace::new(128, 512);
        assert_eq!(pace.prompt_rows(), 128);
        pace.took(0, 512, 1_000_000);
        assert_eq!(pace.prompt_rows(), 128, "no answer was measured yet");
        pace.took(0, 0, 0);
        pace.took(3, 0, 0);
        assert_eq!(pace.prompt_rows(), 128, "a clock that stands still tells nothing");
        assert_eq!(Pace::new(4, 8).prompt_rows(), 4);
    }
}
