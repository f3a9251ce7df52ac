//! One constrained text on its way.

use super::vocabulary::Vocabulary;
use crate::base::error::{Error, Result, Status};
use llguidance::toktrie::SimpleVob;
use std::sync::Arc;

/// The ids that end a text. They are allowed when it is complete.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// The model's own, which are allowed at no other place, even if a grammar names one.
    pub eos: Vec<u32>,
    /// The request's. One that spells text is allowed wherever that text is, and ends it there.
    pub stops: Vec<u32>,
}

/// The state of one text: what was chosen, as the parser sees it, and what may follow.
pub struct Matcher {
    parser: llguidance::Matcher,
    vocabulary: Arc<Vocabulary>,
    ends: Ends,
    /// `[rows + 1]` bits: the ids that are allowed now.
    allowed: SimpleVob,
    complete: bool,
    /// Whether a token is allowed, beside those that end the text.
    goes_on: bool,
}

impl Matcher {
    /// The beginning of a text. `Constraint` where nothing can begin it.
    pub(super) fn new(parser: llguidance::Matcher, vocabulary: Arc<Vocabulary>, ends: Ends) -> Result<Self> {
        let allowed = SimpleVob::new();
        let mut matcher = Matcher { parser, vocabulary, ends, allowed, complete: false, goes_on: false };
        if !matcher.look()? {
            crate::bail!(Constraint, "no text fits it, or none of the model's tokens");
        }
        Ok(matcher)
    }

    /// One bit for each id that may be chosen now, the lowest ids in the low bits of the first word. Bits beyond the
    /// model's ids are 0.
    pub fn allowed(&self) -> &[u32] {
        self.allowed.as_slice()
    }

    /// Whether the text may end here.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the text is complete and nothing can follow.
    pub fn has_ended(&self) -> bool {
        self.complete && !self.goes_on
    }

    /// Whether an id is allowed that is not one of `ids`.
    pub fn allows_other_than(&self, ids: &[u32]) -> bool {
        let allowed = |id: u32| (id as usize) < self.vocabulary.rows() && self.allowed.is_allowed(id);
        let count = |(at, &id): (usize, &u32)| usize::from(allowed(id) && !ids[..at].contains(&id));
        self.allowed.num_set() > ids.iter().enumerate().map(count).sum()
    }

    /// Takes in a token that was chosen among the allowed ones and does not end the text. `Constraint` where nothing
    /// can follow it although the text is not complete, or where what may follow takes too long to find.
    pub fn advance(&mut self, token: u32) -> Result<()> {
        let place = |error: Error| error.at("constraint");
        self.parser.consume_token(token).map_err(|cause| place(failed(&cause)))?;
        if !self.look().map_err(place)? {
            crate::bail!(
                Constraint,
                "constraint: the text is not complete, and no token can go on from here"
            );
        }
        Ok(())
    }

    /// How many of `tokens`, from the first on, may follow one another here.
    pub fn count_allowed(&mut self, tokens: &[u32]) -> usize {
        self.parser.validate_tokens(tokens).unwrap_or(0)
    }

    /// The bytes that must follow, as far as there is no choice.
    pub fn forced(&mut self) -> Vec<u8> {
        if self.complete { Vec::new() } else { self.parser.compute_ff_bytes() }
    }

    /// Finds what may follow. `false`: nothing, and the text is not complete.
    fn look(&mut self) -> Result<bool> {
        self.complete = self.parser.is_accepting().map_err(|cause| failed(&cause))?;
        self.allowed = if self.parser.is_stopped() {
            self.vocabulary.tree.tok_trie().alloc_token_set()
        } else {
            match self.parser.compute_mask() {
                Ok(allowed) => allowed,
                Err(cause) if cause.to_string().contains(NOTHING_FOLLOWS) => return Ok(false),
                Err(cause) => return Err(failed(&cause)),
            }
        };
        self.allowed.and(&self.vocabulary.usable);
        let rows = self.vocabulary.rows() as u32;
        for &id in self.ends.eos.iter().filter(|&&id| id < rows) {
            self.allowed.disallow_token(id);
        }
        self.goes_on = !self.allowed.is_zero();
        if self.complete {
            for &id in self.ends.eos.iter().chain(&self.ends.stops).filter(|&&id| id < rows) {
                self.allowed.allow_token(id);
            }
        }
        Ok(self.complete || self.goes_on)
    }
}

impl std::fmt::Debug for Matcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matcher(complete: {}, goes on: {})", self.complete, self.goes_on)
    }
}

/// How the parser says that no token can follow a text that is not complete.
const NOTHING_FOLLOWS: &str = "NoExtensionBias";

fn failed(cause: &impl std::fmt::Display) -> Error {
    Error::new(Status::Constraint, sentence(&cause.to_string()))
}

/// What the crate says as one line, without the excerpts, states and backtraces that follow.
pub(super) fn sentence(said: &str) -> String {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or("it cannot be used");
    let line = if let Some(bug) = first.strip_prefix("panic: ") {
        // It was caught inside. It ends this text and leaves all others alone.
        format!("a bug of the parser was caught: {bug}")
    } else if let Some(what) = first.strip_suffix("regex parse error:") {
        format!("{what}{}", lines.find_map(|line| line.strip_prefix("error: ")).unwrap_or("no expression"))
    } else {
        first.to_string()
    };
    line[..line.floor_char_boundary(SENTENCE_MAX)].to_string()
}

/// Bytes of a message that quote the crate: what a grammar quotes of itself may be as long as the grammar.
const SENTENCE_MAX: usize = 300;
