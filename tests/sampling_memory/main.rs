//! Choosing a token takes no memory: all of it was taken when the sampler was made. Alone in its process,
//! because it counts allocations.

use aquila::sampling::{Sampler, SamplingParams};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise for `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise for `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn choosing_takes_no_memory() {
    const VOCAB: usize = 100_008;
    let logits: Vec<f32> = (0..VOCAB).map(|i| ((i * 7919) % 10_007) as f32 / 700.0).collect();
    let prompt: Vec<u32> = (0..5000).map(|i| i * 17).collect();
    let base = SamplingParams { temperature: 0.9, ..SamplingParams::default() };
    for params in [
        SamplingParams::default(),
        base.clone(),
        SamplingParams { top_k: 40, ..base.clone() },
        SamplingParams { top_p: 0.9, ..base.clone() },
        SamplingParams { typical_p: 0.9, min_p: 0.01, ..base.clone() },
        SamplingParams { repeat_penalty: 1.1, penalty_last_n: 64, ..base.clone() },
        SamplingParams { frequency_penalty: 0.5, logit_bias: vec![(3, 1.0)], temperature: 0.0, ..base },
    ] {
        let mut sampler = Sampler::new(params.clone(), VOCAB).unwrap();
        sampler.see_prompt(&prompt);
        let before = COUNT.with(Cell::get);
        let start = std::time::Instant::now();
        for index in 0..20 {
            sampler.choose(&logits, &[100_007, 0], index).unwrap();
        }
        let taken = COUNT.with(Cell::get) - before;
        println!("{:?} a token: {params:?}", start.elapsed() / 20);
        assert_eq!(taken, 0, "{params:?}");
    }
}
