//! How near the CPU kernels come to what the machine can do.
//!
//! `cargo bench --bench kernels -- [threads] [filter]` measures the limits first (fused multiplications,
//! reading memory), then each kernel, and prints every result as a share of its limit. Best of several
//! rounds: neighbours on a shared machine only ever slow a round down.

use aquila::backend::cpu::isa::Level;
use aquila::backend::cpu::kernels::kv::BLOCK_TOKENS;
use aquila::backend::cpu::kernels::{Attention, Element, Kernels, KvLayout, Matrix, Scratch, matmul};
use aquila::base::buffer::Buffer;
use aquila::base::region::Region;
use aquila::model::weights::{RowMap, Weight};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let threads: usize = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(1);
    let filter = arguments.next().unwrap_or_default();
    let level = Level::choose(std::env::var("AQUILA_CPU").ok().as_deref()).unwrap_or(Level::Scalar);
    let kernels = Kernels::new(level);
    let bandwidth = read_bandwidth(threads);
    let peak = fma_peak(threads);
    println!("{level}, {threads} threads: {:.1} GFLOP/s, {:.1} GB/s read", peak / 1e9, bandwidth / 1e9);
    let bench = Bench { kernels, threads, bandwidth, peak, filter };
    for element in [Element::F16, Element::F32, Element::Bf16] {
        for (rows, cols) in [(11008, 4096), (4096, 11008), (4096, 4096), (512, 4096)] {
            for tokens in [1, 2, 3, 4, 8, 16, 64, 512] {
                bench.matmul(element, rows, cols, tokens);
            }
        }
    }
    for (kv_heads, context, rows) in
        [(32, 512, 1), (32, 2048, 1), (8, 2048, 1), (32, 512, 512), (32, 2048, 512)]
    {
        bench.attention(Element::F16, kv_heads, context, rows);
    }
    bench.small();
}

struct Bench {
    kernels: Kernels,
    threads: usize,
    bandwidth: f64,
    peak: f64,
    filter: String,
}

struct Pointer(*mut f32);
// SAFETY: threads write disjoint rows.
unsafe impl Sync for Pointer {}

impl Bench {
    fn report(&self, name: &str, seconds: f64, flops: f64, bytes: f64) {
        println!(
            "{name:44} {:9.1} µs {:7.1} GFLOP/s {:5.1} %  {:6.1} GB/s {:5.1} %",
            seconds * 1e6,
            flops / seconds / 1e9,
            100.0 * flops / seconds / self.peak,
            bytes / seconds / 1e9,
            100.0 * bytes / seconds / self.bandwidth,
        );
    }

    fn matmul(&self, element: Element, rows: usize, cols: usize, tokens: usize) {
        let name = format!("matmul {element:?} {rows}x{cols} n={tokens}");
        if !name.contains(&self.filter) {
            return;
        }
        // Several matrices, so that decoding reads memory and not a cache.
        let bytes = rows * cols * element.bytes();
        let count = if tokens < 64 { (400_000_000 / bytes).max(1) } else { 1 };
        let matrices: Vec<Matrix> = (0..count).map(|_| random_matrix(element, rows, cols)).collect();
        let x = random(tokens * cols, 7);
        let out = Buffer::<f32>::zeroed(tokens * rows, "out").unwrap();
        let pointer = Pointer(out.as_mut_ptr());
        let mut scratch: Vec<Scratch> = (0..self.threads).map(|_| Scratch::new(cols, 128).unwrap()).collect();
        let chunk = matmul::chunk_rows(rows, tokens, self.threads);
        let seconds = best(|| {
            for matrix in &matrices {
                let next = AtomicUsize::new(0);
                run_threads(&mut scratch, |scratch| {
                    let pointer = &pointer;
                    loop {
                        let start = next.fetch_add(chunk, Ordering::Relaxed);
                        if start >= rows {
                            return;
                        }
                        // SAFETY: `out` holds all rows and tokens; chunks are disjoint.
                        unsafe {
                            self.kernels.matmul(matrix, start..start + chunk, &x, pointer.0, rows, scratch);
                        }
                    }
                });
            }
        }) / count as f64;
        self.report(&name, seconds, 2.0 * (rows * cols * tokens) as f64, bytes as f64);
    }

    fn attention(&self, element: Element, kv_heads: usize, context: usize, rows: usize) {
        let (heads, head_dim) = (32, 128);
        let name = format!("attention {element:?} {heads}/{kv_heads} heads context={context} rows={rows}");
        if !name.contains(&self.filter) {
            return;
        }
        let layout = KvLayout { kv_heads, head_dim, element };
        let blocks: Vec<u32> = (0..context.div_ceil(BLOCK_TOKENS) as u32).collect();
        // Several caches, so that decoding reads memory and not a cache.
        let copies = if rows == 1 { 200_000_000 / (blocks.len() * layout.block_bytes()) + 1 } else { 1 };
        let mut caches = Vec::new();
        for _ in 0..copies {
            let cache = Buffer::<u8>::zeroed(blocks.len() * layout.block_bytes(), "cache").unwrap();
            let row = random(kv_heads * head_dim, 3);
            for slot in 0..context {
                // SAFETY: the cache holds all slots.
                unsafe { self.kernels.kv_store(&layout, cache.as_mut_ptr(), slot, 0..kv_heads, &row, &row) };
            }
            caches.push(cache);
        }
        let q = random(rows * heads * head_dim, 5);
        let mut out = vec![0f32; rows * heads * head_dim];
        let pointer = Pointer(out.as_mut_ptr());
        let mut scratch: Vec<Scratch> =
            (0..self.threads).map(|_| Scratch::new(64, head_dim).unwrap()).collect();
        let chunk = 64;
        let seconds = best(|| {
            for cache in &caches {
                let next = AtomicUsize::new(0);
                run_threads(&mut scratch, |scratch| {
                    let pointer = &pointer;
                    let attention = Attention {
                        layout,
                        cache: cache.as_ptr(),
                        blocks: &blocks,
                        past: context - rows,
                        heads,
                        q: q.as_ptr(),
                        q_stride: heads * head_dim,
                        out: pointer.0,
                        out_stride: heads * head_dim,
                        scale: 0.088,
                        clamp: None,
                    };
                    let chunks = rows.div_ceil(chunk);
                    loop {
                        let task = next.fetch_add(1, Ordering::Relaxed);
                        if task >= chunks * kv_heads {
                            return;
                        }
                        let first = task / kv_heads * chunk;
                        let rows = first..rows.min(first + chunk);
                        // SAFETY: all pointers are to whole buffers; tasks are disjoint.
                        unsafe { self.kernels.attend(&attention, rows, task % kv_heads, scratch) };
                    }
                });
            }
        }) / caches.len() as f64;
        let keys: usize = (0..rows).map(|r| context - rows + r + 1).sum();
        let bytes = blocks.len() * layout.block_bytes();
        self.report(&name, seconds, 4.0 * (keys * heads * head_dim) as f64, bytes as f64);
    }

    fn small(&self) {
        let (mut a, b) = (random(4096, 1), random(4096, 2));
        let mut out = vec![0f32; 4096];
        let report = |name: &str, seconds: f64| {
            if name.contains(&self.filter) {
                println!("{name:44} {:9.3} ns an element", seconds / 4096.0 * 1e9);
            }
        };
        report("rms_norm 4096", best(|| self.kernels.rms_norm(&a, &b, 1e-6, black_box(&mut out))));
        report("silu_mul 4096", best(|| self.kernels.silu_mul(black_box(&mut a), &b)));
        report(
            "rope 32x128",
            best(|| {
                for head in a.chunks_exact_mut(128) {
                    self.kernels.rope(black_box(head), &b[..64], &b[64..128]);
                }
            }),
        );
    }
}

/// One thread for each state.
fn run_threads<T: Send>(states: &mut [T], work: impl Fn(&mut T) + Sync) {
    match states {
        [one] => work(one),
        many => std::thread::scope(|scope| {
            let work = &work;
            for state in many {
                scope.spawn(move || work(state));
            }
        }),
    }
}

/// Seconds of the fastest of several rounds, for half a second at least. With `CPU_TIME` set, processor
/// time of this process instead of time on the wall: what one thread needs on a busy machine.
fn best(mut work: impl FnMut()) -> f64 {
    let cpu = std::env::var_os("CPU_TIME").is_some();
    let now = || if cpu { cpu_seconds() } else { wall_seconds() };
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < 0.6 || best == f64::INFINITY {
        let round = now();
        work();
        best = best.min(now() - round);
    }
    best
}

fn wall_seconds() -> f64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn random(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn random_matrix(element: Element, rows: usize, cols: usize) -> Matrix {
    struct Bytes(Buffer<u8>);
    impl AsRef<[u8]> for Bytes {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let mut bytes = Buffer::<u8>::zeroed(rows * cols * element.bytes(), "weights").unwrap();
    let row = random(cols, 11);
    for out in bytes.chunks_exact_mut(cols * element.bytes()) {
        Kernels::new(Level::detect()).encode(element, &row, out);
    }
    let region = Region::new(Arc::new(Bytes(bytes)), false);
    Matrix::new(Weight::whole("w", rows, cols, element.dtype(), region, RowMap::Identity).unwrap()).unwrap()
}

/// Bytes a second that `threads` threads read from memory together, each in eight streams at once, which
/// is the most that a core can ask for.
fn read_bandwidth(threads: usize) -> f64 {
    const STREAMS: usize = 8;
    let len = (256 << 20) / 8 / threads;
    let memory: Vec<Vec<u64>> = (0..threads).map(|_| vec![1u64; len]).collect();
    let mut sums = vec![0u64; threads];
    let seconds = best(|| {
        run_threads(&mut sums.iter_mut().zip(&memory).collect::<Vec<_>>(), |(sum, memory)| {
            let part = memory.len() / STREAMS;
            let mut acc = [0u64; 8];
            for line in (0..part).step_by(8) {
                for stream in 0..STREAMS {
                    let line = &memory[stream * part + line..][..8];
                    acc.iter_mut().zip(line).for_each(|(a, x)| *a ^= x);
                }
            }
            **sum = acc.iter().sum();
        });
    });
    black_box(&sums);
    (len * 8 * threads) as f64 / seconds
}

/// f32 operations a second of `threads` threads in registers, two for each fused multiplication.
fn fma_peak(threads: usize) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        const ROUNDS: usize = 200_000;
        // SAFETY: the instructions were detected.
        let seconds =
            best(|| run_threads(&mut vec![(); threads], |_| _ = black_box(unsafe { fma_loop(ROUNDS) })));
        return (threads * ROUNDS * 12 * 16) as f64 / seconds;
    }
    f64::NAN * threads as f64
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn fma_loop(rounds: usize) -> f32 {
    use std::arch::x86_64::*;
    let mut acc = [_mm256_set1_ps(1.0); 12];
    let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = _mm256_fmadd_ps(*acc, a, b);
        }
    }
    let mut sum = acc[0];
    for other in &acc[1..] {
        sum = _mm256_add_ps(sum, *other);
    }
    _mm256_cvtss_f32(sum)
}
