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
    /// Rows of logits, or selected ids.
    pub logit_rows: usize,
    /// Words of a row of logits, filled up.
    pub logit_words: usize,
    /// Words of a hidden state.
    pub hidden_words: usize,
}

impl ImageLayout {
    /// Words that a step's lists take at most.
    pub fn input_words(&self) -> usize {
        // Tokens, index, positions, slots, and a list of rows that want something; lengths, contexts, tables.
        let content = 5 * self.rows + (2 + self.table) * self.sequences;
        (content + PassKind::ALL.len() * 10 * LIST_WORDS).next_multiple_of(LIST_WORDS)
    }

    /// Words of the ids that a step selects.
    pub fn id_words(&self) -> usize {
        (self.logit_rows + PassKind::ALL.len() * ID_WORDS).next_multiple_of(LIST_WORDS)
    }

    /// Words of a step's results: ids, then logits, then hidden states, each as many as there are.
    pub fn output_words(&self) -> usize {
        let words = self.id_words() + self.logit_rows * self.logit_words + self.rows * self.hidden_words;
        words.next_multiple_of(LIST_WORDS)
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
    /// Numbers of results: logits, hidden states, ids with the gaps between those of two passes.
    pub counts: (usize, usize, usize),
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
            counts: (0, 0, 0),
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
        self.counts = (0, 0, 0);
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
        };
        if kind == PassKind::Token && !step.carry.is_empty() {
            pass.index = self.index(layout, step.carry, &tokens, earlier)?;
        }
        pass.logits = self.wanted(step.wanted, kind, Want::Logits);
        pass.selects = self.wanted(step.wanted, kind, Want::Select);
        pass.hiddens = self.wanted(step.wanted, kind, Want::Hidden);
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
            self.counts.2 = self.counts.2.next_multiple_of(ID_WORDS);
        }
        for (index, w) in wanted.iter().enumerate().filter(|(_, w)| w.want == want) {
            let (of_kind, row) = self.rows[w.row];
            if of_kind != kind {
                continue;
            }
            self.words.push(row as i32);
            let (logits, hidden, ids) = &mut self.counts;
            let next = |count: &mut usize| {
                *count += 1;
                *count - 1
            };
            self.places[index] = match want {
                Want::Logits => Place::Logits(next(logits)),
                Want::Hidden => Place::Hidden(next(hidden)),
                Want::Select => Place::Selected(next(ids)),
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
mod tests {
    use super::*;

    const LAYOUT: ImageLayout = ImageLayout {
        rows: 64,
        sequences: 8,
        table: 3,
        block_tokens: 16,
        logit_rows: 8,
        logit_words: 100,
        hidden_words: 32,
    };

    fn words(image: &Image, list: List) -> &[i32] {
        &image.words[list.range()]
    }

    fn sequence(first_row: usize, rows: usize, context: usize, first_block: usize) -> StepSequence {
        StepSequence { first_row, rows, context, first_block, blocks: context.div_ceil(16) }
    }

    #[test]
    fn rows_go_to_the_pass_of_their_kind_and_results_find_back() {
        // A decode row, a whole prompt of 3, two rows behind 17, another decode row.
        let step = Step {
            tokens: &[10, 20, 21, 22, 30, 31, 40],
            positions: &[4, 0, 1, 2, 17, 18, 33],
            slots: &[100, 0, 1, 2, 49, 50, 65],
            sequences: &[
                sequence(0, 1, 5, 0),
                sequence(1, 3, 3, 1),
                sequence(4, 2, 19, 2),
                sequence(6, 1, 34, 4),
            ],
            block_tables: &[6, 0, 2, 3, 7, 8, 4],
            wanted: &[
                WantedRow { row: 0, want: Want::Select },
                WantedRow { row: 3, want: Want::Logits },
                WantedRow { row: 5, want: Want::Hidden },
                WantedRow { row: 6, want: Want::Select },
            ],
            carry: &[],
        };
        let mut image = Image::new(&LAYOUT);
        image.fill(&LAYOUT, Ticket(7), &step, |_| None).unwrap();
        let [prompt, chunk, token] = &image.passes[..] else { panic!("{:?}", image.passes) };
        assert_eq!([prompt.kind, chunk.kind, token.kind], PassKind::ALL);
        assert_eq!(words(&image, prompt.tokens), [20, 21, 22]);
        assert_eq!(words(&image, chunk.positions), [17, 18]);
        assert_eq!(words(&image, chunk.contexts), [19]);
        assert_eq!(words(&image, chunk.tables), [2, 3, 0]);
        assert_eq!(words(&image, token.tokens), [10, 40]);
        assert_eq!(words(&image, token.tables), [6, 0, 0, 7, 8, 4]);
        assert_eq!(words(&image, token.lengths), [1, 1]);
        assert_eq!(words(&image, prompt.logits), [2]);
        assert_eq!(words(&image, chunk.hiddens), [1]);
        assert_eq!(words(&image, token.selects), [0, 1]);
        assert_eq!(
            image.places,
            [Place::Selected(0), Place::Logits(0), Place::Hidden(0), Place::Selected(1)]
        );
        assert_eq!(image.counts, (1, 1, 2));
        assert!(image.passes.iter().all(|pass| pass.slots.at % LIST_WORDS == 0));
        assert!(token.index.len == 0 && image.words.len() <= LAYOUT.input_words());
    }

    #[test]
    fn a_carried_token_is_read_where_the_earlier_step_put_it() {
        let step = Step {
            tokens: &[5, 6, 7],
            positions: &[3, 3, 3],
            slots: &[3, 19, 35],
            sequences: &[sequence(0, 1, 4, 0), sequence(1, 1, 4, 1), sequence(2, 1, 4, 2)],
            block_tables: &[0, 1, 2],
            wanted: &[],
            carry: &[Carry { row: 2, from: Ticket(8), from_wanted: 1 }],
        };
        let places = [Place::Logits(0), Place::Selected(4)];
        let mut image = Image::new(&LAYOUT);
        image.fill(&LAYOUT, Ticket(9), &step, |t| (t == Ticket(8)).then_some(&places[..])).unwrap();
        let pass = image.passes[0];
        let own = (LAYOUT.input_at(1) + pass.tokens.at) as i32;
        assert_eq!(words(&image, pass.index), [own, own + 1, (LAYOUT.output_at(0) + 4) as i32]);
        let refused = Step { carry: &[Carry { row: 2, from: Ticket(8), from_wanted: 0 }], ..step };
        assert!(image.fill(&LAYOUT, Ticket(9), &refused, |_| Some(&places[..])).is_err());
    }

    #[test]
    fn the_first_token_alone_is_a_prompt() {
        assert_eq!(PassKind::of(&sequence(0, 1, 1, 0)), PassKind::Prompt);
        assert_eq!(PassKind::of(&sequence(0, 1, 2, 0)), PassKind::Token);
        assert_eq!(PassKind::of(&sequence(0, 2, 2, 0)), PassKind::Prompt);
        assert_eq!(PassKind::of(&sequence(0, 2, 3, 0)), PassKind::Chunk);
    }

    #[test]
    fn the_largest_step_has_room() {
        let sequences: Vec<_> = (0..8).map(|i| sequence(i * 8, 8, 40 + (i % 2) * 8, i * 3)).collect();
        let kinds = [1usize, 8, 7];
        let mut sequences = sequences;
        let mut row = 0;
        for (i, s) in sequences.iter_mut().enumerate() {
            (s.first_row, s.rows) = (row, kinds[i % 3].min(8));
            s.context = if i % 3 == 1 { 8 } else { 48 };
            row += s.rows;
        }
        let wanted: Vec<_> = (0..8)
            .map(|row| WantedRow { row, want: [Want::Select, Want::Logits, Want::Hidden][row % 3] })
            .collect();
        let (tokens, tables) = (vec![1; row], vec![0; 24]);
        let step = Step {
            tokens: &tokens,
            positions: &tokens,
            slots: &tokens,
            sequences: &sequences,
            block_tables: &tables,
            wanted: &wanted,
            carry: &[],
        };
        let mut image = Image::new(&LAYOUT);
        let room = image.words.capacity();
        image.fill(&LAYOUT, Ticket(1), &step, |_| None).unwrap();
        assert_eq!(image.passes.len(), 3);
        assert_eq!(image.words.capacity(), room);
    }
}
