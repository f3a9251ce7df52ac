//! Stop strings: text is held back while it could still become one, so that none leaks, not even in
//! part.

/// Looks for stop strings across the borders of pieces.
///
/// The result does not depend on how the text was cut into pieces: the stop string that is complete
/// first wins, and of several that are complete at the same byte the longest.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<Stop>,
    /// The end of the text so far: the longest that could begin a stop string.
    held: String,
    done: bool,
}

#[derive(Clone, Debug)]
struct Stop {
    text: String,
    /// For each length of a matched beginning the length of the next shorter one that also fits
    /// (Knuth, Morris and Pratt's table), so that each byte of text costs constant time.
    shorter: Vec<usize>,
    /// Bytes of `text` that the end of the generated text matches.
    matched: usize,
}

impl Stop {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut shorter = vec![0; bytes.len()];
        let mut length = 0;
        for at in 1..bytes.len() {
            while length > 0 && bytes[at] != bytes[length] {
                length = shorter[length - 1];
            }
            length += usize::from(bytes[at] == bytes[length]);
            shorter[at] = length;
        }
        Stop { text, shorter, matched: 0 }
    }

    /// Adds a byte; whether the stop string is now complete.
    fn step(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.matched > 0 && bytes[self.matched] != byte {
            self.matched = self.shorter[self.matched - 1];
        }
        self.matched += usize::from(bytes[self.matched] == byte);
        self.matched == bytes.len()
    }
}

impl StopMatcher {
    /// A matcher for these strings; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).map(Stop::new).collect();
        StopMatcher { stops, held: String::new(), done: false }
    }

    /// Adds text; appends to `out` what can no longer be part of a stop string. Returns `true` when a
    /// stop string is complete: `out` then ends before it, or after it with `keep`; the rest of `text`
    /// and everything pushed later is dropped.
    pub fn push(&mut self, text: &str, keep: bool, out: &mut String) -> bool {
        if self.done {
            return true;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            let mut complete = 0;
            for stop in &mut self.stops {
                if stop.step(byte) {
                    complete = complete.max(stop.text.len());
                }
            }
            if complete > 0 {
                let end = before + at + 1;
                let end = if keep { end } else { end - complete };
                out.push_str(self.held.get(..end).unwrap_or(""));
                self.held.clear();
                self.done = true;
                return true;
            }
        }
        let keep_back = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let free = self.held.len() - keep_back;
        out.extend(self.held.drain(..free));
        false
    }

    /// Appends what is held back: generation ended otherwise. Nothing after a stop string.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.stops.iter_mut().for_each(|stop| stop.matched = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[String], pieces: &[&str], keep: bool) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.to_vec());
        let (mut out, mut stopped) = (String::new(), false);
        for piece in pieces {
            stopped |= matcher.push(piece, keep, &mut out);
        }
        matcher.finish(&mut out);
        (out, stopped)
    }

    /// The rule in its plainest form, on the whole text.
    fn naive(stops: &[String], text: &str, keep: bool) -> (String, bool) {
        for end in (1..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let ending =
                stops.iter().filter(|stop| text[..end].ends_with(stop.as_str())).map(|stop| stop.len()).max();
            if let Some(length) = ending {
                return (text[..if keep { end } else { end - length }].to_string(), true);
            }
        }
        (text.to_string(), false)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, ..ProptestConfig::default() })]
        #[test]
        fn pieces_do_not_matter_and_nothing_leaks(
            stops in prop::collection::vec("[ab中é]{1,5}", 0..4),
            pieces in prop::collection::vec("[ab中é]{0,4}", 0..10),
            keep in any::<bool>(),
        ) {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let whole = pieces.concat();
            let expected = naive(&stops, &whole, keep);
            prop_assert_eq!(run(&stops, &pieces, keep), expected.clone());
            // What has left at any time is a front part of the final text.
            let mut matcher = StopMatcher::new(stops);
            let mut out = String::new();
            for piece in pieces {
                matcher.push(piece, keep, &mut out);
                prop_assert!(expected.0.starts_with(&out));
            }
        }
    }

    #[test]
    fn holds_no_more_than_it_must() {
        let mut matcher = StopMatcher::new(vec!["###".into(), "</s>".into()]);
        let mut out = String::new();
        for (piece, expected) in
            [("a#", "a"), ("#b", "a##b"), ("</", "a##b"), ("t>", "a##b</t>"), ("x##", "a##b</t>x")]
        {
            assert!(!matcher.push(piece, false, &mut out));
            assert_eq!(out, expected);
        }
        assert!(matcher.push("# and more", false, &mut out));
        assert!(matcher.push("later", false, &mut out));
        matcher.finish(&mut out);
        assert_eq!(out, "a##b</t>x");
    }

    #[test]
    fn many_long_stops_cost_linear_time() {
        let stops = (0..64).map(|i| format!("{}{i}", "a".repeat(4000))).collect();
        let mut matcher = StopMatcher::new(stops);
        let mut out = String::new();
        let text = "a".repeat(1000);
        for _ in 0..100 {
            matcher.push(&text, false, &mut out);
        }
        assert_eq!(out.len(), 100 * 1000 - 4000);
    }
}
