//! Tables and random histories of the scheduler.

use super::*;
use proptest::prelude::*;

const LIMITS: StepLimits = StepLimits {
    tokens: 64,
    prompt_tokens_beside_decode: 16,
    sequences: 4,
    logit_rows: 8,
    chunked: true,
    mixed: true,
    cheap_rows: 8,
};

fn sequence(id: u64, prompt: usize, new: usize) -> Sequence {
    Sequence { id, known: prompt, positions_max: prompt + new - 1, ..Sequence::default() }
}

/// What the engine does with a collected step of a device that needs the host to choose.
fn collect(queues: &mut Queues, plan: &[PlannedRows]) {
    collect_right(queues, plan, 0);
}

/// The same where the first `right` proposed tokens of each sequence are right.
fn collect_right(queues: &mut Queues, plan: &[PlannedRows], right: usize) {
    for rows in plan {
        let sequence = queues.running_mut(rows.id).unwrap();
        sequence.in_flight -= 1;
        if rows.wanted > 0 && !sequence.finished {
            sequence.submitted -= rows.proposed - rows.proposed.min(right);
            sequence.known = sequence.submitted;
            if sequence.submitted == sequence.positions_max {
                sequence.finished = true;
            } else {
                sequence.known += 1;
            }
        }
    }
}

fn tables(queues: &Queues) -> impl Iterator<Item = &[u32]> {
    queues.running.iter().chain(&queues.waiting).map(|s| s.blocks.as_slice())
}

#[test]
fn a_long_prompt_is_chunked_and_leaves_room_for_decode() {
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
    queues.push(sequence(1, 10, 8));
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    assert_eq!(
        plan,
        [PlannedRows {
            id: 1,
            first: 0,
            rows: 10,
            prompt: true,
            wanted: 1,
            hidden: false,
            carry: false,
            proposed: 0
        }]
    );
    collect(&mut queues, &plan);
    queues.push(sequence(2, 100, 8));
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    let rows: Vec<_> = plan.iter().map(|p| (p.id, p.first, p.rows, p.wanted)).collect();
    assert_eq!(rows, [(1, 10, 1, 1), (2, 0, 16, 0)]);
}

#[test]
fn whole_prompts_where_the_device_cannot_attend_over_the_cache() {
    let limits = StepLimits { chunked: false, mixed: false, ..LIMITS };
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
    queues.push(sequence(1, 40, 4));
    queues.push(sequence(2, 40, 4));
    queues.schedule(&mut kv, &limits, &mut plan, |_| &[]);
    assert_eq!(plan.iter().map(|p| p.id).collect::<Vec<_>>(), [1], "40 + 40 rows do not fit whole");
    collect(&mut queues, &plan);
    queues.schedule(&mut kv, &limits, &mut plan, |_| &[]);
    assert_eq!(plan.iter().map(|p| (p.id, p.rows)).collect::<Vec<_>>(), [(1, 1)], "decode alone");
}

#[test]
fn prompts_and_answers_take_turns_where_they_share_no_step() {
    // A prompt waited for the end of every answer that was being made when it came.
    for chunked in [false, true] {
        let limits = StepLimits { chunked, mixed: false, ..LIMITS };
        let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
        queues.push(sequence(1, 4, 100));
        let mut seen = Vec::new();
        for step in 0..8 {
            if step == 2 {
                queues.push(sequence(2, 60, 3));
                queues.push(sequence(3, 60, 3));
            }
            queues.schedule(&mut kv, &limits, &mut plan, |_| &[]);
            seen.push(plan.iter().map(|p| (p.id, p.rows)).collect::<Vec<_>>());
            collect(&mut queues, &plan);
            queues.retire(&mut kv);
        }
        assert_eq!(seen[..2], [[(1, 4)], [(1, 1)]], "{chunked}");
        assert_eq!(seen[2][0], (2, 60), "{chunked}: {seen:?}");
        let third = seen.iter().position(|step| step.iter().any(|rows| rows.0 == 3));
        assert!(third.is_some_and(|step| step <= 4), "{chunked}: {seen:?}");
        let of_first = seen.iter().filter(|step| step.contains(&(1, 1))).count();
        assert!(of_first >= 3, "{chunked}: {seen:?}");
    }
}

#[test]
fn whole_prompts_never_share_a_step_with_decode_rows() {
    let capabilities = Capabilities {
        block_tokens: 128,
        block_bytes: 0,
        block_form: String::new(),
        prefill_over_cache: false,
        mixed_steps: true,
        device_select: false,
        candidates: 0,
        reproducible: false,
        step_tokens: 64,
        step_sequences: 4,
        logit_rows: 8,
        cheap_rows: 8,
    };
    let limits = StepLimits::of(&capabilities);
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
    queues.push(sequence(1, 4, 100));
    queues.schedule(&mut kv, &limits, &mut plan, |_| &[]);
    collect(&mut queues, &plan);
    queues.push(sequence(2, 64, 3));
    queues.schedule(&mut kv, &limits, &mut plan, |_| &[]);
    collect(&mut queues, &plan);
    queues.schedule(&mut kv, &limits, &mut plan, |_| &[]);
    assert_eq!(plan.iter().map(|p| (p.id, p.rows)).collect::<Vec<_>>(), [(2, 64)]);
}

#[test]
fn the_youngest_gives_way_when_blocks_run_out() {
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(4, 16), Vec::new());
    queues.push(sequence(1, 31, 20));
    queues.push(sequence(2, 31, 20));
    for _ in 0..3 {
        queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
        collect(&mut queues, &plan);
    }
    assert_eq!(queues.running.iter().map(|s| s.id).collect::<Vec<_>>(), [1]);
    assert_eq!(queues.waiting[0].id, 2);
    assert_eq!(queues.waiting[0].submitted, 0);
    kv.check_integrity(tables(&queues)).unwrap();
}

#[test]
fn a_device_that_selects_runs_one_step_ahead() {
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(8, 16), Vec::new());
    queues.push(Sequence { device_select: true, ..sequence(1, 4, 3) });
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    assert_eq!(
        plan,
        [PlannedRows {
            id: 1,
            first: 4,
            rows: 1,
            prompt: false,
            wanted: 1,
            hidden: false,
            carry: true,
            proposed: 0
        }]
    );
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    assert!(plan.is_empty(), "three tokens need six positions: {plan:?}");
}

#[test]
fn proposed_tokens_fill_cheap_steps_and_wrong_ones_are_computed_again() {
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
    queues.push(sequence(1, 15, 30));
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    collect(&mut queues, &plan);
    let mut step = |queues: &mut Queues, proposed, right| {
        queues.running.iter_mut().for_each(|s| s.proposed = proposed);
        queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
        let seen: Vec<_> = plan.iter().map(|p| (p.id, p.first, p.rows, p.proposed)).collect();
        collect_right(queues, &plan, right);
        queues.retire(&mut kv);
        seen
    };
    assert_eq!(step(&mut queues, 9, 3), [(1, 15, 8, 7)], "no more than 8 rows");
    assert_eq!(step(&mut queues, 2, 2), [(1, 19, 3, 2)], "behind the third proposal all is done again");
    assert_eq!((queues.running[0].known, queues.running[0].blocks.len()), (23, 2));
    queues.push(sequence(2, 20, 30));
    assert_eq!(queues.room_for_proposals(&LIMITS), 7);
    assert_eq!(step(&mut queues, 5, 0), [(1, 22, 1, 0), (2, 0, 16, 0)], "none beside a prompt");
    assert_eq!(queues.room_for_proposals(&LIMITS), 0);
    assert_eq!(step(&mut queues, 5, 0), [(1, 23, 1, 0), (2, 16, 4, 0)]);
    assert_eq!(queues.room_for_proposals(&LIMITS), 3);
    assert_eq!(step(&mut queues, 5, 5), [(1, 24, 4, 3), (2, 20, 4, 3)], "two share the eight rows");
    (3..7).for_each(|id| queues.push(sequence(id, 1, 99)));
    step(&mut queues, 0, 0);
    assert_eq!((queues.running.len(), queues.room_for_proposals(&LIMITS)), (4, 1));
    queues.running[1..].iter_mut().for_each(|s| s.finished = true);
    step(&mut queues, 0, 0);
    queues.waiting.clear();
    queues.running.truncate(1);
    for known in [38, 41] {
        queues.running[0].known = known;
        queues.running[0].submitted = known - 1;
        let left = 44 - known;
        assert_eq!(step(&mut queues, 7, 0), [(1, known - 1, 1 + left, left)], "44 positions in all");
    }
}

#[test]
fn proposals_leave_the_blocks_that_others_want_next() {
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(5, 16), Vec::new());
    queues.push(sequence(1, 12, 40));
    queues.push(sequence(2, 12, 40));
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    collect(&mut queues, &plan);
    queues.running.iter_mut().for_each(|s| (s.known, s.submitted, s.proposed) = (15, 14, 3));
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    let rows: Vec<_> = plan.iter().map(|p| (p.id, p.first, p.rows)).collect();
    assert_eq!(rows, [(1, 14, 4), (2, 14, 2)], "of three free blocks two are kept");
    kv.check_integrity(tables(&queues)).unwrap();
}

#[test]
fn a_prompt_that_begins_alike_is_computed_from_where_it_differs() {
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
    let text: Vec<u32> = (0..60).collect();
    for (id, known, expected) in [(1, 50, (0, 50)), (2, 60, (48, 12)), (3, 49, (48, 1)), (4, 48, (32, 16))] {
        queues.push(Sequence { shares: true, ..sequence(id, known, 1) });
        queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &text);
        assert_eq!(plan.iter().map(|p| (p.first, p.rows)).collect::<Vec<_>>(), [expected], "{known} tokens");
        collect(&mut queues, &plan);
        queues.running[0].publish(&mut kv, &text[..known]);
        queues.retire(&mut kv);
    }
    queues.push(sequence(5, 60, 1));
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &text);
    assert_eq!(plan[0].first, 0, "it does not share");
}

#[test]
fn a_scored_text_gives_as_many_logits_a_step_as_fit_and_skips_no_wanted_row() {
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(64, 16), Vec::new());
    let text: Vec<u32> = (0..60).collect();
    queues.push(Sequence { shares: true, ..sequence(1, 60, 1) });
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &text);
    collect(&mut queues, &plan);
    queues.running[0].publish(&mut kv, &text);
    queues.retire(&mut kv);
    let scored = |from| Sequence { shares: true, results: Results::LogitsFrom(from), ..sequence(2, 60, 1) };
    queues.push(scored(40));
    queues.push(Sequence { id: 3, results: Results::Hidden, ..scored(0) });
    let mut seen = Vec::new();
    for _ in 0..4 {
        queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &text);
        seen.push(plan.iter().map(|p| (p.id, p.first, p.rows, p.wanted)).collect::<Vec<_>>());
        queues.running.iter_mut().for_each(|s| (s.in_flight, s.finished) = (0, s.submitted == s.known));
        queues.retire(&mut kv);
    }
    assert_eq!(seen[0], [(2, 32, 16, 8), (3, 0, 48, 48)], "from the block that holds position 40 on");
    assert_eq!(seen[1], [(2, 48, 8, 8), (3, 48, 12, 12)]);
    assert_eq!(seen[2], [(2, 56, 4, 4)]);
    assert!(seen[3].is_empty());
}

#[test]
fn higher_priority_goes_first_and_others_make_way() {
    let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(8, 16), Vec::new());
    for (id, priority) in [(1, 0), (2, 0), (3, 5), (4, -1)] {
        queues.push(Sequence { priority, ..sequence(id, 40, 20) });
    }
    let order = |queues: &Queues| queues.waiting.iter().map(|s| s.id).collect::<Vec<_>>();
    assert_eq!(order(&queues), [3, 1, 2, 4]);
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    assert_eq!(plan.iter().map(|p| (p.id, p.rows)).collect::<Vec<_>>(), [(3, 40), (1, 24)]);
    queues.push(Sequence { priority: 9, ..sequence(5, 60, 5) });
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    assert!(plan.is_empty() && queues.running.iter().all(|s| s.in_flight > 0), "held until collected");
    queues.running.iter_mut().for_each(|s| s.in_flight = 0);
    queues.schedule(&mut kv, &LIMITS, &mut plan, |_| &[]);
    assert_eq!(plan[0].id, 5, "{plan:?}");
    assert_eq!(order(&queues), [1, 2, 4], "number 1 is in front of its like again");
    kv.check_integrity(tables(&queues)).unwrap();
}

/// What the KV cache of a test holds at a position: the text up to there.
type Content = Vec<Option<Vec<u32>>>;

proptest! {
    /// Texts that begin alike, in few blocks, with priorities: whatever is taken over, put back and given up,
    /// each sequence finds its own text in its blocks.
    #[test]
    fn random_histories_of_shared_beginnings(
        requests in proptest::collection::vec((0usize..3, 1usize..80, 1usize..30, 0usize..20, -1i32..2), 1..20),
        blocks in 7usize..30,
    ) {
        let limits = StepLimits { sequences: 3, ..LIMITS };
        let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(blocks, 16), Vec::new());
        let mut content: Content = vec![None; blocks * 16];
        // The texts of a kind differ from a place on that their number says.
        let text = |id: u64| -> Vec<u32> {
            let (kind, prompt, new, ..) = requests[id as usize];
            let differs = 7 * kind + 16 * (id as usize % 3);
            (0..prompt + new).map(|at| if at < differs { at as u32 } else { (1000 * (id + 1)) as u32 }).collect()
        };
        let texts: Vec<_> = (0..requests.len() as u64).map(text).collect();
        let mut done = 0;
        for step in 0..4000 {
            for (id, &(_, prompt, new, at, priority)) in requests.iter().enumerate() {
                if at == step {
                    queues.push(Sequence { priority, shares: true, ..sequence(id as u64, prompt, new) });
                }
            }
            let known: Vec<(u64, usize)> =
                queues.waiting.iter().chain(&queues.running).map(|s| (s.id, s.known)).collect();
            let tokens = |id: u64| {
                let known = known.iter().find(|k| k.0 == id).map_or(0, |k| k.1);
                &texts[id as usize][..known]
            };
            queues.schedule(&mut kv, &limits, &mut plan, tokens);
            kv.check_integrity(tables(&queues)).map_err(TestCaseError::fail)?;
            for rows in &plan {
                let sequence = queues.running.iter().find(|s| s.id == rows.id).unwrap();
                let text = &texts[rows.id as usize];
                for position in 0..rows.first + rows.rows {
                    let place = sequence.blocks[position / 16] as usize * 16 + position % 16;
                    let before = text[..=position].to_vec();
                    if position < rows.first {
                        prop_assert_eq!(content[place].as_ref(), Some(&before));
                    } else {
                        content[place] = Some(before);
                    }
                }
            }
            let idle = plan.is_empty() && queues.running.is_empty() && queues.waiting.is_empty();
            collect(&mut queues, &plan);
            for sequence in &mut queues.running {
                let computed = sequence.submitted;
                sequence.publish(&mut kv, &texts[sequence.id as usize][..computed]);
            }
            done += queues.running.iter().filter(|s| s.finished && s.in_flight == 0).count();
            queues.retire(&mut kv);
            if idle && step > 20 {
                break;
            }
        }
        prop_assert_eq!(done, requests.len());
        prop_assert_eq!(kv.free_blocks(), blocks);
    }

    /// Random arrivals, lengths and ends: every sequence ends, no row is planned twice or skipped,
    /// no step is over its bounds, and no block is lost.
    #[test]
    fn random_histories(
        lengths in proptest::collection::vec((1usize..90, 1usize..40, 0usize..6), 1..12),
        blocks in 9usize..24,
        proposals in proptest::collection::vec((0usize..9, 0usize..9), 1..30),
        (chunked, mixed) in prop_oneof![Just((true, true)), Just((true, false)), Just((false, false))],
    ) {
        let cheap_rows = if mixed { 8 } else { 0 };
        let limits = StepLimits { tokens: 128, prompt_tokens_beside_decode: 24, sequences: 5, logit_rows: 8, chunked, mixed, cheap_rows };
        let (mut queues, mut kv, mut plan) = (Queues::default(), KvBlocks::new(blocks, 16), Vec::new());
        let mut arrivals: VecDeque<_> = lengths.iter().enumerate().collect();
        let mut done = 0;
        for step in 0..4000 {
            while arrivals.front().is_some_and(|(_, l)| l.2 <= step) {
                let (id, &(prompt, new, _)) = arrivals.pop_front().unwrap();
                queues.push(sequence(id as u64, prompt, new));
            }
            let room = queues.room_for_proposals(&limits);
            for (index, sequence) in queues.running.iter_mut().enumerate() {
                sequence.proposed = proposals[(step + index) % proposals.len()].0.min(room);
            }
            queues.schedule(&mut kv, &limits, &mut plan, |_| &[]);
            let rows: usize = plan.iter().map(|p| p.rows).sum();
            prop_assert!(rows <= limits.tokens && plan.len() <= limits.sequences);
            for rows in &plan {
                let sequence = queues.running.iter().find(|s| s.id == rows.id).unwrap();
                prop_assert_eq!(rows.first + rows.rows, sequence.submitted);
                prop_assert!(sequence.blocks.len() * 16 >= sequence.submitted);
                prop_assert!(sequence.submitted <= sequence.positions_max);
            }
            if plan.iter().any(|p| p.proposed > 0) {
                prop_assert!(rows <= cheap_rows && plan.iter().all(|p| p.rows == 1 + p.proposed), "{plan:?}");
            }
            let decodes = plan.iter().filter(|p| p.rows == 1 && p.first > 0 && p.wanted > 0).count();
            prop_assert!(mixed || decodes == 0 || decodes == plan.len(), "{:?}", plan);
            kv.check_integrity(tables(&queues)).map_err(TestCaseError::fail)?;
            let idle = plan.is_empty() && queues.running.is_empty() && queues.waiting.is_empty();
            collect_right(&mut queues, &plan, proposals[step % proposals.len()].1);
            done += queues.running.iter().filter(|s| s.finished && s.in_flight == 0).count();
            queues.retire(&mut kv);
            if idle && arrivals.is_empty() {
                break;
            }
        }
        prop_assert_eq!(done, lengths.len());
        prop_assert_eq!(kv.free_blocks(), blocks);
    }
}
