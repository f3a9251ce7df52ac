//! A step as the device reads it: one block of 32-bit words with all lists of all passes, which one copy brings over.
//!
//! A step is run in up to three passes, because ATB has an operation of attention for each: whole prompts, which attend to
//! themselves; rows that continue over cached blocks; and single rows, the decode. In each the rows of its sequences stand
//! one after another, so rows change places, and so do results.
//!
//! The device keeps two steps' words and results, in turns: while it computes one step the next one is brought over. A
//! row whose token an earlier step selected reads it there, from among that step's results: `index` lists where in the
//! device's block each token lies.

use crate::backend::{Carry, Step, StepSequence, Ticket, Want, WantedRow};
use crate::base::error::Result;
use std::ops::Range;

/// Lists begin at multiples of so many words: 512 bytes, as CANN's own allocator would lay them.
pub const LIST_WORDS: usize = 128;
/// The ids of each pass begin at multiples of so many words: 32 bytes, the least that a tensor is aligned to.
pub const ID_WORDS: usize = 8;
/// Steps whose words and results the device holds.
pub const SLOTS: usize = 2;

/// How a pass attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PassKind {
    /// Whole prompts, from their first token on.
    Prompt,
    /// Rows behind cached tokens.
    Chunk,
    /// One row a sequence.
    Token,
}

impl PassKind {
    /// All, in the order in which a step runs them.
    pub const ALL: [PassKind; 3] = [PassKind::Prompt, PassKind::Chunk, PassKind::Token];

    /// How a sequence's rows are computed.
    pub fn of(sequence: &StepSequence) -> PassKind {
        match sequence {
            StepSequence { rows: 1, context, .. } if *context > 1 => PassKind::Token,
            StepSequence { rows, context, .. } if rows == context => PassKind::Prompt,
            _ => PassKind::Chunk,
        }
    }
}

/// The most that a step may hold, and where the device's block of words has what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLayout {
    /// Rows of a step.
    pub rows: usize,
    /// Sequences of a step.
    pub sequences: usize,
    /// Entries of a block table: of the longest sequence.
    pub table: usize,
    /// Token positions of a block.
    pub block_tokens: usize,
    /// Rows of logits, of candidates, or selected ids, together.
    pub logit_rows: usize,
    /// Words of a row of logits, filled up.
    pub logit_words: usize,
    /// Candidates of a row: whole pieces of [`ID_WORDS`], and with their ids no more words than the logits have.
    pub candidates: usize,
    /// Words of a hidden state.
    pub hidden_words: usize,
}

impl ImageLayout {
    /// Words that a step's lists take at most.
    pub fn input_words(&self) -> usize {
        // Tokens, index, positions, slots, and a list of rows that want something; lengths, contexts, tables.
        let content = 5 * self.rows + (2 + self.table) * self.sequences;
        (content + PassKind::ALL.len() * 11 * LIST_WORDS).next_multiple_of(LIST_WORDS)
    }

    /// Words of the ids that a step selects.
    pub fn id_words(&self) -> usize {
        (self.logit_rows + PassKind::ALL.len() * ID_WORDS).next_multiple_of(LIST_WORDS)
    }

    /// Words of a step's results at most. Rows of candidates take no more than the logits in whose stead they are.
    pub fn output_words(&self) -> usize {
        let words = self.id_words() + self.logit_rows * self.logit_words + self.rows * self.hidden_words;
        words.next_multiple_of(LIST_WORDS)
    }

    /// Where in a slot's results each kind begins.
    pub fn results(&self, counts: &Counts) -> Results {
        let candidate_logits = self.id_words();
        let candidate_ids = candidate_logits + counts.candidates * self.candidates;
        let logits = candidate_ids + counts.candidates * self.candidates;
        let hiddens = logits + counts.logits * self.logit_words;
        let end = hiddens + counts.hiddens * self.hidden_words;
        Results { candidate_logits, candidate_ids, logits, hiddens, end }
    }

    /// First word of a slot's lists.
    pub fn input_at(&self, slot: usize) -> usize {
        slot * self.input_words()
    }

    /// First word of a slot's results.
    pub fn output_at(&self, slot: usize) -> usize {
        SLOTS * self.input_words() + slot * self.output_words()
    }

    /// Words of the whole block.
    pub fn words(&self) -> usize {
        SLOTS * (self.input_words() + self.output_words())
    }
}

/// Numbers of a step's results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ids, with the gaps between those of two passes.
    pub ids: usize,
    /// Rows of candidates.
    pub candidates: usize,
    /// Rows of logits.
    pub logits: usize,
    /// Hidden states.
    pub hiddens: usize,
}

/// The first word of each kind of results behind the ids, which stand first, and the word behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Results {
    /// Of all rows of candidates.
    pub candidate_logits: usize,
    /// Theirs.
    pub candidate_ids: usize,
    /// Whole rows.
    pub logits: usize,
    /// Hidden states.
    pub hiddens: usize,
    /// Behind them.
    pub end: usize,
}

/// A list in the words of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Its first word.
    pub at: usize,
    /// How many.
    pub len: usize,
}

impl List {
    /// Its words.
    pub fn range(self) -> Range<usize> {
        self.at..self.at + self.len
    }
}

/// The lists of a pass. All are of i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How it attends.
    pub kind: PassKind,
    /// Token ids, one a row.
    pub tokens: List,
    /// Where each row's token lies in the device's block of words; empty where all are in `tokens`.
    pub index: List,
    /// Rotary positions, one a row.
    pub positions: List,
    /// KV slots, one a row.
    pub slots: List,
    /// Rows of each sequence.
    pub lengths: List,
    /// Tokens of each sequence, these rows among them.
    pub contexts: List,
    /// Block tables, each as long as the longest sequence's, filled up with 0.
    pub tables: List,
    /// Rows of this pass whose logits are wanted.
    pub logits: List,
    /// Rows whose largest logit's id is wanted.
    pub selects: List,
    /// Rows whose hidden state is wanted.
    pub hiddens: List,
    /// Rows whose largest logits are wanted.
    pub candidates: List,
}

/// Where a wanted result lies among the step's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The how-manieth row of logits.
    Logits(usize),
    /// The how-manieth hidden state.
    Hidden(usize),
    /// The how-manieth id.
    Selected(usize),
    /// The how-manieth row of candidates.
    Candidates(usize),
}

/// A step's words and what they are. Made once and filled anew: nothing is allocated once it has had the largest step.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Which step.
    pub ticket: Ticket,
    /// The lists.
    pub words: Vec<i32>,
    /// The passes that have rows.
    pub passes: Vec<Pass>,
    /// For each wanted row of the step, its result.
    pub places: Vec<Place>,
    /// Numbers of results.
    pub counts: Counts,
    /// For each row of the step, its pass and its row there.
    pub rows: Vec<(PassKind, usize)>,
}

impl Image {
    /// One with room for the largest step.
    pub fn new(layout: &ImageLayout) -> Image {
        Image {
            ticket: Ticket(0),
            words: Vec::with_capacity(layout.input_words()),
            passes: Vec::with_capacity(PassKind::ALL.len()),
            places: Vec::with_capacity(layout.rows),
            counts: Counts::default(),
            rows: Vec::with_capacity(layout.rows),
        }
    }

    /// Which of the device's slots it takes.
    pub fn slot(&self) -> usize {
        self.ticket.0 as usize % SLOTS
    }

    /// Fills it with a checked step. `earlier` gives the places of the results of a step in flight. `State` where a row
    /// takes a token of a step that is not.
    pub fn fill<'a>(
        &mut self,
        layout: &ImageLayout,
        ticket: Ticket,
        step: &Step<'_>,
        earlier: impl Fn(Ticket) -> Option<&'a [Place]>,
    ) -> Result<()> {
        self.ticket = ticket;
        self.words.clear();
        self.passes.clear();
        self.places.clear();
        self.counts = Counts::default();
        self.rows.clear();
        self.rows.resize(step.tokens.len(), (PassKind::Prompt, 0));
        let mut next = [0; PassKind::ALL.len()];
        for sequence in step.sequences {
            let kind = PassKind::of(sequence);
            for row in sequence.first_row..sequence.first_row + sequence.rows {
                self.rows[row] = (kind, next[kind as usize]);
                next[kind as usize] += 1;
            }
        }
        self.places.resize(step.wanted.len(), Place::Logits(0));
        for kind in PassKind::ALL {
            if step.sequences.iter().any(|sequence| PassKind::of(sequence) == kind) {
                self.pass(layout, step, kind, &earlier)?;
            }
        }
        crate::ensure!(
            self.words.len() <= layout.input_words(),
            Internal,
            "a step of {} words, there is room for {}",
            self.words.len(),
            layout.input_words()
        );
        Ok(())
    }

    fn pass<'a>(
        &mut self,
        layout: &ImageLayout,
        step: &Step<'_>,
        kind: PassKind,
        earlier: &impl Fn(Ticket) -> Option<&'a [Place]>,
    ) -> Result<()> {
        let of_kind = || step.sequences.iter().filter(move |s| PassKind::of(s) == kind);
        let rows = || of_kind().flat_map(|s| s.first_row..s.first_row + s.rows);
        let tokens = self.list(rows().map(|row| step.tokens[row] as i32));
        let positions = self.list(rows().map(|row| step.positions[row] as i32));
        let slots = self.list(rows().map(|row| step.slots[row] as i32));
        let lengths = self.list(of_kind().map(|s| s.rows as i32));
        let contexts = self.list(of_kind().map(|s| s.context as i32));
        let tables = self.list(of_kind().flat_map(|s| {
            let used = s.context.div_ceil(layout.block_tokens);
            let table = &step.block_tables[s.first_block..s.first_block + used];
            (0..layout.table).map(move |i| table.get(i).map_or(0, |&block| block as i32))
        }));
        let mut pass = Pass {
            kind,
            tokens,
            index: List::default(),
            positions,
            slots,
            lengths,
            contexts,
            tables,
            logits: List::default(),
            selects: List::default(),
            hiddens: List::default(),
            candidates: List::default(),
        };
        if kind == PassKind::Token && !step.carry.is_empty() {
            pass.index = self.index(layout, step.carry, &tokens, earlier)?;
        }
        pass.logits = self.wanted(step.wanted, kind, Want::Logits);
        pass.selects = self.wanted(step.wanted, kind, Want::Select);
        pass.hiddens = self.wanted(step.wanted, kind, Want::Hidden);
        pass.candidates = self.wanted(step.wanted, kind, Want::Candidates);
        self.passes.push(pass);
        Ok(())
    }

    /// Where each row's token lies in the device's block.
    fn index<'a>(
        &mut self,
        layout: &ImageLayout,
        carry: &[Carry],
        tokens: &List,
        earlier: &impl Fn(Ticket) -> Option<&'a [Place]>,
    ) -> Result<List> {
        let here = layout.input_at(self.slot()) + tokens.at;
        let list = self.list((0..tokens.len).map(|row| (here + row) as i32));
        for carry in carry {
            let place = earlier(carry.from).and_then(|places| places.get(carry.from_wanted));
            let Some(&Place::Selected(id)) = place else {
                crate::bail!(
                    State,
                    "step: row {} takes result {} of step {}, which selects none there or is no longer known",
                    carry.row,
                    carry.from_wanted,
                    carry.from.0
                );
            };
            let slot = carry.from.0 as usize % SLOTS;
            let (_, row) = self.rows[carry.row];
            self.words[list.at + row] = (layout.output_at(slot) + id) as i32;
        }
        Ok(list)
    }

    /// The rows of the pass of which something is wanted; their results are counted and placed.
    fn wanted(&mut self, wanted: &[WantedRow], kind: PassKind, want: Want) -> List {
        self.begin_list();
        let at = self.words.len();
        if want == Want::Select {
            self.counts.ids = self.counts.ids.next_multiple_of(ID_WORDS);
        }
        for (index, w) in wanted.iter().enumerate().filter(|(_, w)| w.want == want) {
            let (of_kind, row) = self.rows[w.row];
            if of_kind != kind {
                continue;
            }
            self.words.push(row as i32);
            let counts = &mut self.counts;
            let next = |count: &mut usize| {
                *count += 1;
                *count - 1
            };
            self.places[index] = match want {
                Want::Logits => Place::Logits(next(&mut counts.logits)),
                Want::Hidden => Place::Hidden(next(&mut counts.hiddens)),
                Want::Select => Place::Selected(next(&mut counts.ids)),
                Want::Candidates => Place::Candidates(next(&mut counts.candidates)),
            };
        }
        List { at, len: self.words.len() - at }
    }

    fn list(&mut self, values: impl Iterator<Item = i32>) -> List {
        self.begin_list();
        let at = self.words.len();
        self.words.extend(values);
        List { at, len: self.words.len() - at }
    }

    fn begin_list(&mut self) {
        self.words.resize(self.words.len().next_multiple_of(LIST_WORDS), 0);
    }
}

#[cfg(test)]
mod tests;
