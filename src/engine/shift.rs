//! Context shift: a text that reaches the end of the context goes on without its middle.
//!
//! The first tokens are kept (a system prompt, the begin-of-sequence token), and of the others the newest, as many as fill
//! half of what the kept ones leave. What remains is then a text like any other and computed as one: the next token is
//! what the model says after exactly these tokens, on every device, and seeded sampling stays reproducible. Moving
//! the cached keys to their new positions instead would be faster and only nearly that, because each key was computed
//! over the tokens that are gone. A shift computes half a context anew each time that half a context was
//! made, so a token costs one row of a long prompt more, a few per cent of a decode step.

/// How many tokens are left of a text that fills `context`, of which the first `keep` stay.
fn left(keep: usize, context: usize) -> usize {
    keep + (context - keep) / 2
}

/// How many of the first `tokens` stay: `wanted`, but no more than half a context, and one where the text begins with
/// `bos` (-1: there is none).
pub(crate) fn kept(tokens: &[u32], wanted: u32, bos: i32, context: usize) -> usize {
    let begins = tokens.first().is_some_and(|&id| i64::from(id) == i64::from(bos));
    (wanted as usize).max(usize::from(begins)).min(tokens.len()).min(context / 2)
}

/// Takes the middle out of `tokens`, which are too many for `context` or just fill it. `keep` is at most half of it.
pub(crate) fn shift(tokens: &mut Vec<u32>, keep: usize, context: usize) {
    let left = left(keep, context);
    if left < tokens.len() {
        tokens.drain(keep..keep + tokens.len() - left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_newest_stay() {
        let mut tokens: Vec<u32> = (0..10).collect();
        shift(&mut tokens, 2, 10);
        assert_eq!(tokens, [0, 1, 6, 7, 8, 9]);
        let mut tokens: Vec<u32> = (0..100).collect();
        shift(&mut tokens, 0, 10);
        assert_eq!(tokens, [95, 96, 97, 98, 99]);
        let mut tokens: Vec<u32> = (0..3).collect();
        shift(&mut tokens, 1, 3);
        assert_eq!(tokens, [0, 2]);
        let mut tokens = vec![1, 2];
        shift(&mut tokens, 1, 10);
        assert_eq!(tokens, [1, 2], "there is room");
    }
}
