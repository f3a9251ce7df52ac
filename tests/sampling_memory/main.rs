//! Choosing a token takes no memory: all of it was taken when the sampler was made. Alone in its process,
//! because it counts allocations.

#[path = "../support/allocations.rs"]
mod allocations;

use aquila::sampling::{Sampler, SamplingParams};
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
        let before = allocations::calls_of_this_thread();
        let start = std::time::Instant::now();
        for index in 0..20 {
            sampler.choose(&logits, &[100_007, 0], index).unwrap();
        }
        let taken = allocations::calls_of_this_thread() - before;
        println!("{:?} a token: {params:?}", start.elapsed() / 20);
        assert_eq!(taken, 0, "{params:?}");
    }
}
