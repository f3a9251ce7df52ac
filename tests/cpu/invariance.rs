//! The same bits, whatever the batch, the chunks, the threads and the blocks.

use crate::harness::{Sequence, open, options, run, step};
use crate::model::{Model, small, tokens};
use aquila::backend::cpu::isa::Level;
use aquila::backend::{Executor, ExecutorOptions};
use aquila::base::dtype::DType;
use aquila::model::spec::DecoderSpec;

fn spec() -> DecoderSpec {
    // Rows and columns that fill no tile evenly.
    DecoderSpec { hidden: 104, ffn: 150, score_clamp: Some(4.0), ..small() }
}

fn executors(options: &ExecutorOptions) -> Vec<(Level, DType, Box<dyn Executor>)> {
    let mut all = Vec::new();
    for level in Level::available() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let model = Model::new(spec(), dtype, true);
            all.push((level, dtype, open(level, &model.spec, model.plain(), options).unwrap()));
        }
    }
    all
}

fn bits(logits: &[Vec<f32>]) -> Vec<u32> {
    logits.last().unwrap().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn alone_or_with_fifteen_others() {
    for (level, dtype, mut executor) in executors(&options()) {
        let ids = tokens(23, spec().vocab, 5);
        let alone = run(&mut *executor, &mut Sequence::new(ids.clone(), 0), 22);

        // Fifteen others of different lengths: some decode in the step in which ours does, some prefill.
        let mut ours = Sequence::new(ids, 60);
        let mut others: Vec<Sequence> =
            (0..15).map(|i| Sequence::new(tokens(9 + 3 * i, spec().vocab, i as u64), 4 * i as u32)).collect();
        let mut first: Vec<(&mut Sequence, usize)> = others.iter_mut().map(|s| (s, 5)).collect();
        first.insert(7, (&mut ours, 22));
        step(&mut *executor, &mut first);
        let mut second: Vec<(&mut Sequence, usize)> =
            others.iter_mut().enumerate().map(|(i, s)| (s, 1 + i % 4)).collect();
        second.insert(3, (&mut ours, 1));
        let together = step(&mut *executor, &mut second);
        assert_eq!(bits(&alone), bits(&together[3..4]), "{level} {dtype}");
    }
}

#[test]
fn however_the_prompt_is_cut() {
    let options = ExecutorOptions { context: 512, max_batch: 1, ..options() };
    for (level, dtype, mut executor) in executors(&options) {
        let long = level > Level::Scalar || dtype == DType::F32;
        let ids = tokens(if long { 131 } else { 49 }, spec().vocab, 9);
        let whole = run(&mut *executor, &mut Sequence::new(ids.clone(), 0), 512);
        for chunk in [1, 3, 7, 16] {
            let cut = run(&mut *executor, &mut Sequence::new(ids.clone(), 1), chunk);
            assert_eq!(bits(&whole), bits(&cut), "{level} {dtype} chunks of {chunk}");
        }
    }
}

#[test]
fn however_many_threads() {
    let mut seen: Vec<Vec<u32>> = Vec::new();
    for threads in [1, 2, 3] {
        let ids = tokens(37, spec().vocab, 11);
        let results = executors(&ExecutorOptions { threads, ..options() });
        let all = results.into_iter().map(|(_, _, mut executor)| {
            let mut sequence = Sequence::new(ids.clone(), 0);
            let prefill = step(&mut *executor, &mut [(&mut sequence, 33)]);
            let decode = run(&mut *executor, &mut sequence, 2);
            [bits(&prefill), bits(&decode)].concat()
        });
        seen.push(all.flatten().collect());
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
}

#[test]
fn wherever_the_blocks_lie() {
    for (level, dtype, mut executor) in executors(&options()) {
        let mut straight = Sequence::new(tokens(50, spec().vocab, 13), 0);
        let mut scattered = Sequence { blocks: vec![63, 5, 40, 4], ..straight.clone() };
        let expected = run(&mut *executor, &mut straight, 20);
        assert_eq!(bits(&expected), bits(&run(&mut *executor, &mut scattered, 20)), "{level} {dtype}");
    }
}

#[test]
fn copied_blocks_continue_alike() {
    for (level, dtype, mut executor) in executors(&options()) {
        let mut sequence = Sequence::new(tokens(40, spec().vocab, 17), 8);
        step(&mut *executor, &mut [(&mut sequence, 36)]);
        let mut copy = Sequence { blocks: vec![20, 22, 21], ..sequence.clone() };
        executor.copy_blocks(&[(8, 20), (9, 22), (10, 21)]).unwrap();
        let expected = run(&mut *executor, &mut sequence, 1);
        assert_eq!(bits(&expected), bits(&run(&mut *executor, &mut copy, 1)), "{level} {dtype}");
    }
}

/// Logits of sequences of `long`, `long − 300` and 40 tokens that decode together, one to three rows a step.
fn decode_together(spec: &DecoderSpec, threads: usize, long: usize) -> Vec<u32> {
    let options = ExecutorOptions { threads, context: long + 64, max_batch: 3, ..options() };
    let level = Level::choose(std::env::var("AQUILA_CPU").ok().as_deref()).unwrap();
    let model = Model::new(spec.clone(), DType::F32, true);
    let mut executor = open(level, spec, model.plain(), &options).unwrap();
    let blocks = (long as u32 + 64) / 16 + 1;
    let mut sequences: Vec<Sequence> = [long, long - 300, 40]
        .into_iter()
        .enumerate()
        .map(|(i, len)| Sequence::new(tokens(len, spec.vocab, i as u64), i as u32 * blocks))
        .collect();
    for sequence in &mut sequences {
        while sequence.done + 8 < sequence.tokens.len() {
            let rows = (sequence.tokens.len() - 8 - sequence.done).min(256);
            step(&mut *executor, &mut [(sequence, rows)]);
        }
    }
    let mut seen = Vec::new();
    for rows in [1, 2, 1, 3] {
        let mut all: Vec<(&mut Sequence, usize)> = sequences.iter_mut().map(|s| (s, rows)).collect();
        // Rows of a step in which attention may share keys out: 8 at most.
        all.truncate(8 / rows);
        seen.extend(step(&mut *executor, &mut all).iter().flatten().map(|v| v.to_bits()));
    }
    seen
}

fn assert_alike(spec: &DecoderSpec, threads: [usize; 2], long: usize) {
    let alone = decode_together(spec, 1, long);
    for threads in threads {
        assert_eq!(alone, decode_together(spec, threads, long), "{threads} threads");
    }
}

#[test]
fn however_keys_are_shared_out() {
    // With one KV head several workers divide the keys of a sequence; one worker alone does not.
    assert_alike(&DecoderSpec { layers: 1, heads: 3, kv_heads: 1, context: 4096, ..small() }, [2, 5], 1100);
}

#[test]
fn however_heads_are_shared_out() {
    // Eight KV heads are enough for two workers to take whole heads, but not for three.
    assert_alike(&DecoderSpec { layers: 1, heads: 16, kv_heads: 8, head_dim: 32, ..small() }, [2, 3], 400);
}
