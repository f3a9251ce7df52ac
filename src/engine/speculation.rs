//! Speculation by prompt lookup: tokens that may come next are copied from where the sequence said the
//! same before, and a step computes their rows beside the one that decodes.
//!
//! Reading the weights takes most of a decode step, so some further rows cost little. When the text
//! repeats its prompt (a rewritten document, an edited program, a quoted source), what followed the last
//! few tokens there follows them here. The engine draws from each row's logits in turn as it always
//! does, and goes on while the token drawn is the one proposed: a row behind it was computed over
//! exactly the tokens of the text. On a device whose results do not depend on the batch the text is
//! therefore the same, token for token, under every way of sampling; only the number of steps changes.
//! Rows behind a wrong one are forgotten, and their KV positions are written again.
//!
//! A text under a constraint is proposed what the constraint forces, too: the names of a schema's fields, for
//! example, as the tokenizer would write them. The model may write the same bytes with other tokens.
//!
//! Pure: nothing here knows of the scheduler or the executor.

/// Tokens at the end of a text that must have stood before for a proposal. One alone says too little.
const MATCH_MIN: usize = 2;
/// Longest end that is compared. Two places that agree in so many tokens are as good as each other.
const MATCH_MAX: usize = 8;
/// Places that one lookup compares at most, newest first: a pair of tokens that stands everywhere must
/// not make a lookup as long as the text.
const PLACES_MAX: usize = 32;
/// Most buckets: 256 KiB a sequence. In longer texts more pairs share a bucket.
const BUCKETS_MAX: usize = 1 << 16;
/// Longest pause after proposals that were wrong, in steps: at worst one step in 33 carries a useless row.
const PAUSE_MAX: u32 = 32;
/// Tokens of the first proposal.
const FIRST_WIDTH: usize = 2;

const NONE: u32 = u32::MAX;

/// Finds earlier places of a text that read as its end does.
///
/// Hash chains as in dictionary compressors: positions whose token and the one before it hash alike are
/// linked from the newest back. A token is added in constant time, and a lookup follows one chain.
#[derive(Debug)]
pub struct Lookup {
    /// Newest position of each bucket; the length is a power of two.
    newest: Vec<u32>,
    /// For each indexed position the one before it in the same bucket.
    before: Vec<u32>,
}

impl Lookup {
    /// An empty index with room for `tokens` tokens, beyond which it grows. `None`: no memory.
    pub fn new(tokens: usize) -> Option<Self> {
        let buckets = tokens.next_power_of_two().clamp(256, BUCKETS_MAX);
        let (mut newest, mut before) = (Vec::new(), Vec::new());
        newest.try_reserve_exact(buckets).ok()?;
        newest.resize(buckets, NONE);
        before.try_reserve(tokens).ok()?;
        Some(Lookup { newest, before })
    }

    fn bucket(&self, first: u32, second: u32) -> usize {
        // Fibonacci hashing: the high bits of a product with 2^64 divided by the golden ratio.
        let pair = u64::from(first) << 32 | u64::from(second);
        let mixed = (pair ^ pair >> 29).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> 40) as usize & (self.newest.len() - 1)
    }

    /// Indexes what is new in `tokens`, but for the last: the end must not find itself. `tokens` must go
    /// on from what it was.
    fn extend(&mut self, tokens: &[u32]) {
        for position in self.before.len()..tokens.len().saturating_sub(1) {
            if position == 0 {
                self.before.push(NONE);
                continue;
            }
            let bucket = self.bucket(tokens[position - 1], tokens[position]);
            self.before.push(std::mem::replace(&mut self.newest[bucket], position as u32));
        }
    }

    /// Where what followed an earlier place that reads as the end of `tokens` does begins: the place that
    /// agrees in most tokens, of equals the newest. `None` where none agrees in two.
    fn find(&self, tokens: &[u32]) -> Option<usize> {
        let [.., first, second] = *tokens else { return None };
        let mut place = self.newest[self.bucket(first, second)];
        let (mut best, mut best_length) = (None, MATCH_MIN - 1);
        for _ in 0..PLACES_MAX {
            if place == NONE || best_length == MATCH_MAX {
                break;
            }
            let length = agreement(tokens, place as usize);
            if length > best_length {
                (best, best_length) = (Some(place as usize + 1), length);
            }
            place = self.before[place as usize];
        }
        best
    }

    /// Writes into `out` the `count` tokens that follow the end of `tokens` if it goes on as it did before;
    /// none where nothing is found. Where the earlier place runs into the end, the text is taken to repeat.
    pub fn propose(&mut self, tokens: &[u32], count: usize, out: &mut Vec<u32>) {
        out.clear();
        self.extend(tokens);
        let Some(start) = self.find(tokens) else { return };
        for at in start..start + count {
            let token = tokens.get(at).or_else(|| out.get(at - tokens.len())).copied();
            out.extend(token);
        }
    }
}

/// In how many tokens, up to [`MATCH_MAX`], the text up to `place` agrees with its end.
fn agreement(tokens: &[u32], place: usize) -> usize {
    let here = tokens.iter().rev();
    let there = tokens[..=place].iter().rev();
    here.zip(there).take(MATCH_MAX).take_while(|(a, b)| a == b).count()
}

/// How many tokens to propose. More after a proposal that was right to its end, as many as were right
/// and one after one that was right in part. A wrong one makes a pause, twice as long each time until
/// something is right again, so that a text without repetition runs as fast as it would alone.
#[derive(Debug)]
struct Pace {
    most: usize,
    width: usize,
    /// Steps still to be left out.
    pause: u32,
    /// Steps that the next wrong proposal will leave out.
    next_pause: u32,
}

impl Pace {
    fn new(most: usize) -> Self {
        Pace { most, width: FIRST_WIDTH.min(most), pause: 0, next_pause: 1 }
    }

    /// Most tokens to propose in this step.
    fn step(&mut self) -> usize {
        if self.pause == 0 {
            return self.width;
        }
        self.pause -= 1;
        0
    }

    fn note(&mut self, proposed: usize, accepted: usize) {
        if accepted > 0 {
            let wider = if accepted == proposed { 2 * accepted } else { accepted + 1 };
            // A busy engine may have taken fewer than the width: that says nothing against the rest.
            self.width = if accepted == proposed { wider.max(self.width) } else { wider }.min(self.most);
            self.next_pause = 1;
        } else if proposed > 0 {
            self.width = (self.width / 2).max(1);
            self.pause = self.next_pause;
            self.next_pause = (2 * self.next_pause).min(PAUSE_MAX);
        }
    }
}

/// The speculation of one sequence.
#[derive(Debug)]
pub struct Speculation {
    pace: Pace,
    /// The pace of forced tokens, and whether the proposals are such.
    forced_pace: Pace,
    forced: bool,
    /// Made with the first proposal: sequences that wait hold none.
    lookup: Option<Lookup>,
    proposals: Vec<u32>,
    /// Of them, those that the step being collected computed, and those that were right so far.
    computed: usize,
    right: usize,
    /// Tokens that were proposed and computed, in all.
    pub proposed: u32,
    /// Those of them that were drawn, so that the row behind them counted.
    pub accepted: u32,
}

impl Speculation {
    /// Proposes up to `most` tokens a step, 1 or more.
    pub fn new(most: usize) -> Self {
        let proposals = Vec::with_capacity(most);
        Speculation {
            pace: Pace::new(most),
            // Only how they are cut can be wrong.
            forced_pace: Pace { width: most, ..Pace::new(most) },
            forced: false,
            lookup: None,
            proposals,
            computed: 0,
            right: 0,
            proposed: 0,
            accepted: 0,
        }
    }

    /// Proposes up to `room` of the tokens that must follow, and gives how many; 0 where there are none, or they
    /// proved wrong just now.
    pub fn propose_forced(&mut self, tokens: &[u32], room: usize) -> usize {
        self.proposals.clear();
        if !tokens.is_empty() {
            let width = self.forced_pace.step().min(room).min(tokens.len());
            self.proposals.extend_from_slice(&tokens[..width]);
            self.forced = true;
        }
        self.proposals.len()
    }

    /// Withdraws all proposals but the first `count`.
    pub fn keep(&mut self, count: usize) {
        self.proposals.truncate(count);
    }

    /// Forgets the text, which goes on as another one.
    pub fn forget(&mut self) {
        self.lookup = None;
        self.proposals.clear();
    }

    /// Proposes what follows `tokens`, up to `room` tokens, and gives how many there are. `expected`: tokens
    /// that the text may have in the end, which sizes the index.
    pub fn propose(&mut self, tokens: &[u32], room: usize, expected: usize) -> usize {
        self.proposals.clear();
        self.forced = false;
        let width = if room == 0 { 0 } else { self.pace.step().min(room) };
        if width == 0 {
            return 0;
        }
        if self.lookup.is_none() {
            // Without memory for it the text is made without it.
            self.lookup = Lookup::new(expected);
        }
        if let Some(lookup) = &mut self.lookup {
            lookup.propose(tokens, width, &mut self.proposals);
        }
        self.proposals.len()
    }

    /// The proposals of the last call of [`Speculation::propose`].
    pub fn proposals(&self) -> &[u32] {
        &self.proposals
    }

    /// Begins to verify the first `computed` proposals, which a step computed.
    pub fn begin(&mut self, computed: usize) {
        (self.computed, self.right) = (computed.min(self.proposals.len()), 0);
        self.proposed = self.proposed.saturating_add(self.computed as u32);
    }

    /// Whether the token drawn next is the one proposed, so that the next row's result counts too.
    pub fn accepts(&mut self, token: u32) -> bool {
        let accepts = self.right < self.computed && self.proposals[self.right] == token;
        self.right += usize::from(accepts);
        self.accepted = self.accepted.saturating_add(accepts.into());
        accepts
    }

    /// Ends the verification, and learns from it.
    pub fn end(&mut self) {
        let pace = if self.forced { &mut self.forced_pace } else { &mut self.pace };
        pace.note(self.computed, self.right);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by comparing all places of the text.
    fn naive(tokens: &[u32], count: usize) -> Vec<u32> {
        let mut best: Option<(usize, usize)> = None;
        for end in (1..tokens.len()).rev() {
            let length = (0..MATCH_MAX.min(end))
                .take_while(|&i| tokens[end - 1 - i] == tokens[tokens.len() - 1 - i])
                .count();
            if length >= MATCH_MIN && best.is_none_or(|(most, _)| length > most) {
                best = Some((length, end));
            }
        }
        let Some((_, start)) = best else { return Vec::new() };
        let mut whole = tokens.to_vec();
        for i in 0..count {
            whole.push(whole[start + i]);
        }
        whole.split_off(tokens.len())
    }

    #[test]
    fn the_longest_agreement_counts_and_then_the_newest() {
        let mut lookup = Lookup::new(8).unwrap();
        let mut out = Vec::new();
        let mut propose = |tokens: &[u32], count| {
            lookup = Lookup::new(8).unwrap();
            lookup.propose(tokens, count, &mut out);
            out.clone()
        };
        assert_eq!(propose(&[9, 1, 2, 7, 8, 1, 2, 5, 9, 1, 2], 2), [7, 8], "9 1 2 before 1 2");
        assert_eq!(propose(&[1, 2, 7, 1, 2, 5, 1, 2], 1), [5]);
        assert_eq!(propose(&[3, 4, 3, 4, 3, 4], 5), [3, 4, 3, 4, 3], "on past the end");
        for without in [&[][..], &[1], &[1, 1], &[1, 2, 3, 2], &[1, 2, 3, 4]] {
            assert_eq!(propose(without, 3), [0u32; 0], "{without:?}");
        }
    }

    proptest! {
        /// Texts of few ids, told bit by bit, as the naive search has it. They are short enough that
        /// the bound on places is not reached.
        #[test]
        fn a_lookup_finds_what_a_search_finds(
            tokens in proptest::collection::vec(0u32..6, 0..34),
            steps in proptest::collection::vec(1usize..9, 1..20),
            count in 0usize..10,
        ) {
            let mut lookup = Lookup::new(tokens.len()).unwrap();
            let (mut length, mut out) = (0, Vec::new());
            for step in steps {
                length = (length + step).min(tokens.len());
                lookup.propose(&tokens[..length], count, &mut out);
                prop_assert_eq!(&out, &naive(&tokens[..length], count));
            }
        }

        /// Long texts: whatever is proposed did follow a place that agrees in two tokens or more.
        #[test]
        fn proposals_are_quotations(tokens in proptest::collection::vec(0u32..4, 0..2000)) {
            let mut lookup = Lookup::new(16).unwrap();
            let mut out = Vec::new();
            lookup.propose(&tokens, 4, &mut out);
            if let [.., a, b] = *tokens {
                let whole: Vec<u32> = tokens.iter().chain(&out).copied().collect();
                let quoted: Vec<u32> = [a, b].iter().chain(&out).copied().collect();
                let found = whole[..whole.len() - 1].windows(quoted.len()).any(|w| w == quoted);
                prop_assert!(out.is_empty() || (out.len() == 4 && found));
                prop_assert!(!out.is_empty() || naive(&tokens, 4).is_empty());
            }
        }

        /// Whatever is right or wrong, the width stays in its bounds, and a text that never repeats itself
        /// carries few useless rows.
        #[test]
        fn the_pace_keeps_its_bounds(most in 1usize..20, outcomes in proptest::collection::vec(0usize..20, 0..300)) {
            let mut pace = Pace::new(most);
            for &outcome in &outcomes {
                let width = pace.step();
                prop_assert!(width <= most && (width > 0 || pace.next_pause > 1));
                pace.note(width, outcome.min(width));
            }
            pace.note(1, 0);
            let useless: usize = (0..3300).map(|_| {
                let width = pace.step();
                pace.note(width, 0);
                width
            }).sum();
            prop_assert!(useless <= 100 + 8 + most, "{}", useless);
        }
    }

    #[test]
    fn a_text_that_repeats_itself_is_proposed_in_full_width_soon() {
        let verify = |speculation: &mut Speculation, computed, right| {
            let proposals = speculation.proposals().to_vec();
            speculation.begin(computed);
            assert!(proposals[..right].iter().all(|&token| speculation.accepts(token)));
            assert!(!speculation.accepts(1000));
            speculation.end();
        };
        let mut speculation = Speculation::new(7);
        let mut tokens: Vec<u32> = (0..40).collect();
        tokens.extend([5, 6]);
        let mut widths = Vec::new();
        for _ in 0..4 {
            let proposed = speculation.propose(&tokens, 100, 100);
            assert_eq!(speculation.proposals()[0], tokens.last().unwrap() + 1);
            tokens.extend_from_slice(speculation.proposals());
            tokens.push(tokens.last().unwrap() + 1);
            verify(&mut speculation, proposed, proposed);
            widths.push(proposed);
        }
        assert_eq!(widths, [2, 4, 7, 7]);
        assert_eq!((speculation.proposed, speculation.accepted), (20, 20));
        assert_eq!(speculation.propose(&tokens, 3, 100), 3, "no more than there is room for");
        verify(&mut speculation, 3, 0);
        assert_eq!(speculation.propose(&tokens, 9, 100), 0, "a pause");
        assert_eq!(speculation.propose(&tokens, 0, 100), 0, "no room");
        assert_eq!(speculation.propose(&tokens, 9, 100), 3, "half of seven");
    }

    /// Forced tokens are proposed in full width at once, and their pauses are their own.
    #[test]
    fn what_is_forced_is_proposed_at_its_own_pace() {
        let mut speculation = Speculation::new(4);
        assert_eq!(speculation.propose_forced(&[], 9), 0);
        assert_eq!(speculation.propose_forced(&[1, 2, 3, 4, 5, 6], 9), 4);
        assert_eq!(speculation.proposals(), [1, 2, 3, 4]);
        speculation.begin(4);
        assert!(!speculation.accepts(7));
        speculation.end();
        assert_eq!(speculation.propose_forced(&[1, 2], 9), 0, "a pause");
        assert_eq!(speculation.propose(&[1, 2, 3, 4, 1, 2], 9, 9), 2, "the lookup has none");
        speculation.keep(1);
        assert_eq!(speculation.proposals(), [3]);
        speculation.begin(2);
        assert!(speculation.accepts(3) && !speculation.accepts(4));
        speculation.end();
        assert_eq!((speculation.proposed, speculation.accepted), (5, 1));
        assert_eq!(speculation.propose_forced(&[1, 2, 3], 1), 1, "no more than there is room for");
    }
}
