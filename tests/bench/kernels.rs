//! How near the CPU kernels come to what the machine can do.
//!
//! `cargo bench --bench kernels -- [threads] [filter]` measures the limits first (fused multiplications,
//! reading memory), then each kernel, and prints every result as a share of its limit. Best of several
//! rounds: neighbours on a shared machine only ever slow a round down.

use aquila::backend::cpu::isa::Level;
use aquila::backend::cpu::kernels::kv::BLOCK_TOKENS;
use aquila::backend::cpu::kernels::panels::activations::token_bytes;
use aquila::backend::cpu::kernels::{
    Attention, Dense, Element, Input, Kernels, KvElement, KvLayout, Matrix, Packed, Packing, Scratch,
};
use aquila::base::buffer::Buffer;
use aquila::base::region::Region;
use aquila::engine::measure::limits::{Dot, ReadProbe, dot_peak};
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
    let bandwidth = ReadProbe::new(threads).unwrap().bytes_per_second();
    let [peak, int8_peak] = [Dot::F32, Dot::Int8].map(|dot| dot_peak(threads, dot).unwrap_or(f64::NAN));
    println!(
        "{level}, {threads} threads: {:.1} GFLOP/s f32, {:.1} GOP/s int8, {:.1} GB/s read",
        peak / 1e9,
        int8_peak / 1e9,
        bandwidth / 1e9
    );
    let bench = Bench { kernels, threads, bandwidth, peak, int8_peak, filter };
    let plain = [Element::F16, Element::F32, Element::Bf16].map(Form::Plain);
    for form in Packing::ALL.map(Form::Packed).into_iter().chain(plain) {
        for (rows, cols) in [(11008, 4096), (4096, 11008), (4096, 4096), (512, 4096)] {
            for tokens in [1, 2, 3, 4, 8, 16, 64, 512] {
                bench.matmul(form, rows, cols, tokens);
            }
        }
    }
    for (kv_heads, context, rows) in
        [(32, 512, 1), (32, 2048, 1), (8, 2048, 1), (32, 512, 512), (32, 2048, 512)]
    {
        for element in [KvElement::Plain(Element::F16), KvElement::I8] {
            bench.attention(element, kv_heads, context, rows);
        }
    }
    bench.small();
}

struct Bench {
    kernels: Kernels,
    threads: usize,
    bandwidth: f64,
    peak: f64,
    int8_peak: f64,
    filter: String,
}

/// How the weights of a test are held.
#[derive(Clone, Copy, Debug)]
enum Form {
    Plain(Element),
    Packed(Packing),
}

impl Form {
    fn matrix(self, rows: usize, cols: usize) -> Matrix {
        match self {
            Form::Plain(element) => random_matrix(element, rows, cols),
            Form::Packed(packing) => {
                let row = random(32 * cols, 11);
                let mut panel = vec![0; packing.panel_bytes(cols)];
                Kernels::new(Level::detect()).pack(packing, &row, cols, &mut panel).unwrap();
                let mut bytes = Buffer::<u8>::zeroed(packing.bytes(rows, cols), "weights").unwrap();
                bytes.chunks_exact_mut(panel.len()).for_each(|out| out.copy_from_slice(&panel));
                let region = Region::new(Arc::new(Bytes(bytes)), false);
                Matrix::Packed(Packed::new("w", packing, rows, cols, region).unwrap())
            }
        }
    }
}

struct Bytes(Buffer<u8>);
impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

struct Pointer(*mut f32);
// SAFETY: threads write disjoint rows.
unsafe impl Sync for Pointer {}

impl Bench {
    fn report(&self, name: &str, seconds: f64, flops: f64, bytes: f64, peak: f64) {
        println!(
            "{name:44} {:9.1} µs {:7.1} GFLOP/s {:5.1} %  {:6.1} GB/s {:5.1} %",
            seconds * 1e6,
            flops / seconds / 1e9,
            100.0 * flops / seconds / peak,
            bytes / seconds / 1e9,
            100.0 * bytes / seconds / self.bandwidth,
        );
    }

    fn matmul(&self, form: Form, rows: usize, cols: usize, tokens: usize) {
        let name = format!("matmul {form:?} {rows}x{cols} n={tokens}");
        if !name.contains(&self.filter) {
            return;
        }
        let one = form.matrix(rows, cols);
        // Several matrices, so that decoding reads memory and not a cache.
        let bytes = one.stored_bytes() as usize;
        let count = if tokens < 64 { (400_000_000 / bytes).max(1) } else { 1 };
        let matrices: Vec<Matrix> = (0..count).map(|_| form.matrix(rows, cols)).collect();
        let x = random(tokens * cols, 7);
        let tiles = self.quantised(&x, cols);
        let input = Input { rows: &x, quantised: &tiles };
        let out = Buffer::<f32>::zeroed(tokens * rows, "out").unwrap();
        let pointer = Pointer(out.as_mut_ptr());
        let mut scratch: Vec<Scratch> =
            (0..self.threads).map(|_| Scratch::new(cols, 128, true).unwrap()).collect();
        let chunk = one.chunk_rows(rows, tokens, self.threads);
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
                            self.kernels.matmul(
                                matrix,
                                start..start + chunk,
                                input,
                                pointer.0,
                                rows,
                                scratch,
                            );
                        }
                    }
                });
            }
        }) / count as f64;
        let peak = if matches!(form, Form::Packed(_)) { self.int8_peak } else { self.peak };
        self.report(&name, seconds, 2.0 * (rows * cols * tokens) as f64, bytes as f64, peak);
    }

    /// All rows of `x` as the quantised product takes them.
    fn quantised(&self, x: &[f32], cols: usize) -> Buffer<u8> {
        let size = token_bytes(cols);
        let mut tiles = Buffer::<u8>::zeroed(x.len() / cols * size, "tiles").unwrap();
        let width = self.kernels.tile_tokens(x.len() / cols);
        for (tile, x) in tiles.chunks_mut(width * size).zip(x.chunks(width * cols)) {
            for (place, row) in x.chunks_exact(cols).enumerate() {
                // SAFETY: the tile holds as many tokens as `x` has rows.
                unsafe { self.kernels.quantise(row, tile.as_mut_ptr(), x.len() / cols, place) };
            }
        }
        tiles
    }

    fn attention(&self, element: KvElement, kv_heads: usize, context: usize, rows: usize) {
        let (heads, head_dim) = (32, 128);
        let name =
            format!("attention {} {heads}/{kv_heads} heads context={context} rows={rows}", element.name());
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
            (0..self.threads).map(|_| Scratch::new(64, head_dim, false).unwrap()).collect();
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
        self.report(&name, seconds, 4.0 * (keys * heads * head_dim) as f64, bytes as f64, self.peak);
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
    let mut bytes = Buffer::<u8>::zeroed(rows * cols * element.bytes(), "weights").unwrap();
    let row = random(cols, 11);
    for out in bytes.chunks_exact_mut(cols * element.bytes()) {
        Kernels::new(Level::detect()).encode(element, &row, out);
    }
    let region = Region::new(Arc::new(Bytes(bytes)), false);
    let weight = Weight::whole("w", rows, cols, element.dtype(), region, RowMap::Identity).unwrap();
    Matrix::Dense(Dense::new(weight).unwrap())
}
