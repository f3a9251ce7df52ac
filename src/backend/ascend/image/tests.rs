//! Where rows and results lie.

use super::*;

const LAYOUT: ImageLayout = ImageLayout {
    rows: 64,
    sequences: 8,
    table: 3,
    block_tokens: 16,
    logit_rows: 8,
    logit_words: 100,
    candidates: 48,
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
    assert_eq!(image.places, [Place::Selected(0), Place::Logits(0), Place::Hidden(0), Place::Selected(1)]);
    assert_eq!(image.counts, Counts { ids: 2, candidates: 0, logits: 1, hiddens: 1 });
    assert!(image.passes.iter().all(|pass| pass.slots.at % LIST_WORDS == 0));
    assert!(token.index.len == 0 && image.words.len() <= LAYOUT.input_words());
}

#[test]
fn results_lie_one_behind_the_other_and_have_room() {
    let results = LAYOUT.results(&Counts { ids: 9, candidates: 3, logits: 2, hiddens: 1 });
    let first = LAYOUT.id_words();
    let expected = [first, first + 3 * 48, first + 6 * 48, first + 6 * 48 + 200, first + 6 * 48 + 232];
    let Results { candidate_logits, candidate_ids, logits, hiddens, end } = results;
    assert_eq!([candidate_logits, candidate_ids, logits, hiddens, end], expected);
    for logits in 0..=LAYOUT.logit_rows {
        let counts = Counts { ids: 0, candidates: LAYOUT.logit_rows - logits, logits, hiddens: LAYOUT.rows };
        assert!(LAYOUT.results(&counts).end <= LAYOUT.output_words(), "{counts:?}");
    }
}

#[test]
fn candidates_of_two_passes_are_counted_together() {
    let step = Step {
        tokens: &[10, 20, 21],
        positions: &[4, 0, 1],
        slots: &[100, 0, 1],
        sequences: &[sequence(0, 1, 5, 0), sequence(1, 2, 2, 1)],
        block_tables: &[6, 0],
        wanted: &[WantedRow { row: 0, want: Want::Candidates }, WantedRow { row: 2, want: Want::Candidates }],
        carry: &[],
    };
    let mut image = Image::new(&LAYOUT);
    image.fill(&LAYOUT, Ticket(1), &step, |_| None).unwrap();
    let [prompt, token] = &image.passes[..] else { panic!("{:?}", image.passes) };
    assert_eq!((words(&image, prompt.candidates), words(&image, token.candidates)), (&[1][..], &[0][..]));
    // Prompts are run first.
    assert_eq!(image.places, [Place::Candidates(1), Place::Candidates(0)]);
    assert_eq!(image.counts, Counts { candidates: 2, ..Counts::default() });
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
        .map(|row| WantedRow {
            row,
            want: [Want::Select, Want::Logits, Want::Hidden, Want::Candidates][row % 4],
        })
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
