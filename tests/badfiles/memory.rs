//! What the calling thread takes from the allocator.

pub use crate::allocations::peak_of_this_thread as peak_of;

#[test]
fn the_counter_counts() {
    let (_, peak) = peak_of(|| drop(std::hint::black_box(vec![1u8; 100_000])));
    assert!((100_000..110_000).contains(&peak), "{peak}");
}
