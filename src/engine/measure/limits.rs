//! What the machine can do at best, measured now and with as many threads as the engine uses: the
//! rate of reading memory, which bounds decoding, and the rate of dot products in registers, which
//! bounds prefill. A share of these says more than tokens a second: neighbours on a shared machine
//! move its bandwidth by tens of percent within minutes.
//!
//! The loops are compiled for several instruction sets and chosen at run time. Unsafe are the calls of
//! those functions and the vector loads, nothing else.

use crate::base::buffer::Buffer;
use crate::base::error::Result;
use crate::base::limits::THREADS_MAX;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes that a read test walks through where memory allows: many times any cache.
const READ_BYTES: u64 = 1 << 30;
/// Runs of each pattern; the best one counts.
const READ_RUNS: usize = 3;
/// Time of one run of a dot-product loop, long enough for the clock to rise.
const DOT_TIME: Duration = Duration::from_millis(60);

/// The kind of a dot product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dot {
    /// f32 multiply-add.
    F32,
    /// bf16 pairs summed in f32.
    Bf16,
    /// Bytes, four products summed in 32 bits.
    Int8,
}

/// A buffer larger than the caches, to be read again and again.
pub struct ReadProbe {
    data: Buffer<u32>,
    threads: usize,
}

impl ReadProbe {
    /// Takes and writes 1 GiB, or a quarter of the memory available where that is less, for `threads`
    /// threads (at least one).
    pub fn new(threads: usize) -> Result<Self> {
        let available = crate::base::memory::available_bytes().unwrap_or(READ_BYTES);
        ReadProbe::with_bytes(threads, READ_BYTES.min(available / 4))
    }

    fn with_bytes(threads: usize, bytes: u64) -> Result<Self> {
        let threads = threads.clamp(1, THREADS_MAX);
        let words = crate::base::checked::usize(bytes / 4, "bandwidth test")?;
        let mut data = Buffer::<u32>::zeroed(words.max(threads * LINE), "bandwidth test")?;
        let share = data.len() / threads;
        std::thread::scope(|scope| {
            for part in data.chunks_mut(share.max(1)) {
                // Pages that were never written all read from one page of zeros.
                scope.spawn(move || part.fill(1));
            }
        });
        Ok(ReadProbe { data, threads })
    }

    /// Bytes that were taken.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }

    /// Bytes a second that all threads together read: the best of several access patterns and runs.
    pub fn bytes_per_second(&self) -> f64 {
        let share = self.data.len() / self.threads;
        let barrier = Barrier::new(self.threads);
        let best_ns = AtomicU64::new(u64::MAX);
        std::thread::scope(|scope| {
            for part in self.data.chunks_exact(share).take(self.threads) {
                let (barrier, best_ns) = (&barrier, &best_ns);
                scope.spawn(move || {
                    for read in [read::<1>, read::<4>, read::<8>] {
                        for _ in 0..READ_RUNS {
                            barrier.wait();
                            let start = Instant::now();
                            std::hint::black_box(read(part));
                            if barrier.wait().is_leader() {
                                let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                                best_ns.fetch_min(ns, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let ns = best_ns.load(Ordering::Relaxed).max(1);
        (share * self.threads * 4) as f64 / (ns as f64 * 1e-9)
    }
}

/// Operations a second (a multiplication and an addition are two) that `threads` threads together
/// reach in registers with the best instructions of this CPU; `None` where it has none of that kind.
pub fn dot_peak(threads: usize, dot: Dot) -> Option<f64> {
    let threads = threads.clamp(1, THREADS_MAX);
    let kernel = dot_kernel(dot)?;
    let barrier = Barrier::new(threads);
    let measure = || {
        let mut best = 0.0f64;
        for _ in 0..READ_RUNS {
            barrier.wait();
            let (start, mut operations) = (Instant::now(), 0u64);
            while start.elapsed() < DOT_TIME {
                operations += kernel(20_000);
            }
            best = best.max(operations as f64 / start.elapsed().as_secs_f64());
        }
        best
    };
    Some(std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(measure)).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum()
    }))
}

/// `u32` words in two cache lines: what one turn of a read loop takes from each stream.
const LINE: usize = 32;

/// `data` as `STREAMS` streams of equally many lines; what is left over is not read.
fn streams<const STREAMS: usize>(data: &[u32]) -> [&[[u32; LINE]]; STREAMS] {
    let (lines, _) = data.as_chunks::<LINE>();
    let mut parts = lines.chunks_exact((lines.len() / STREAMS).max(1));
    std::array::from_fn(|_| if lines.len() < STREAMS { &[] } else { parts.next().unwrap_or(&[]) })
}

/// Reads all of `data` as `STREAMS` streams side by side and returns something that depends on it.
fn read_portable<const STREAMS: usize>(data: &[u32]) -> u32 {
    let streams = streams::<STREAMS>(data);
    let mut sums = [0u32; LINE];
    for index in 0..streams.first().map_or(0, |s| s.len()) {
        for line in streams.iter().filter_map(|stream| stream.get(index)) {
            for (sum, &word) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(word);
            }
        }
    }
    total(&sums)
}

fn total(sums: &[u32]) -> u32 {
    sums.iter().fold(0, |a, &b| a.wrapping_add(b))
}

/// Eight independent vectors of eight lanes hide the latency of the additions.
fn dot_portable(rounds: u32) -> u64 {
    let (a, b) = (std::hint::black_box([1.0001f32; 8]), std::hint::black_box([0.9999f32; 8]));
    let mut sums = [[0f32; 8]; 8];
    for _ in 0..rounds {
        for sum in &mut sums {
            for lane in 0..8 {
                // On x86-64 without FMA `mul_add` would call a function.
                sum[lane] = if cfg!(target_arch = "aarch64") {
                    a[lane].mul_add(b[lane], sum[lane])
                } else {
                    a[lane] * b[lane] + sum[lane]
                };
            }
        }
    }
    std::hint::black_box(&mut sums);
    u64::from(rounds) * 8 * 8 * 2
}

#[cfg(not(target_arch = "x86_64"))]
fn read<const STREAMS: usize>(data: &[u32]) -> u32 {
    read_portable::<STREAMS>(data)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn dot_kernel(dot: Dot) -> Option<fn(u32) -> u64> {
    (dot == Dot::F32).then_some(dot_portable)
}

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
use neon::dot_kernel;
#[cfg(target_arch = "x86_64")]
use x86::{dot_kernel, read};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Dot, dot_portable, read_portable, streams, total};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    pub fn read<const STREAMS: usize>(data: &[u32]) -> u32 {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the feature.
            unsafe { read_avx512::<STREAMS>(data) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has the feature.
            unsafe { read_avx2::<STREAMS>(data) }
        } else {
            read_portable::<STREAMS>(data)
        }
    }

    #[target_feature(enable = "avx2")]
    fn read_avx2<const STREAMS: usize>(data: &[u32]) -> u32 {
        let streams = streams::<STREAMS>(data);
        let mut sums = [_mm256_setzero_si256(); 4];
        for index in 0..streams.first().map_or(0, |s| s.len()) {
            for line in streams.iter().filter_map(|stream| stream.get(index)) {
                for (sum, part) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                    // SAFETY: 8 words are 32 bytes; the load needs no alignment.
                    *sum = _mm256_add_epi32(*sum, unsafe { _mm256_loadu_si256(part.as_ptr().cast()) });
                }
            }
        }
        let mut out = [0u32; 8];
        for sum in sums {
            // SAFETY: both are 32 bytes, and any bits are words.
            let part = unsafe { std::mem::transmute::<__m256i, [u32; 8]>(sum) };
            out.iter_mut().zip(part).for_each(|(a, b)| *a = a.wrapping_add(b));
        }
        total(&out)
    }

    #[target_feature(enable = "avx512f")]
    fn read_avx512<const STREAMS: usize>(data: &[u32]) -> u32 {
        let streams = streams::<STREAMS>(data);
        let mut sums = [_mm512_setzero_si512(); 2];
        for index in 0..streams.first().map_or(0, |s| s.len()) {
            for line in streams.iter().filter_map(|stream| stream.get(index)) {
                for (sum, part) in sums.iter_mut().zip(line.as_chunks::<16>().0) {
                    // SAFETY: 16 words are 64 bytes; the load needs no alignment.
                    *sum = _mm512_add_epi32(*sum, unsafe { _mm512_loadu_si512(part.as_ptr().cast()) });
                }
            }
        }
        let [a, b] = sums;
        _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)) as u32
    }

    pub fn dot_kernel(dot: Dot) -> Option<fn(u32) -> u64> {
        let wide = is_x86_feature_detected!("avx512f");
        let narrow = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let pairs = wide && is_x86_feature_detected!("avx512bf16");
        let bytes = wide && is_x86_feature_detected!("avx512vnni");
        match dot {
            // SAFETY: the CPU has the features of the function.
            Dot::F32 if wide => Some(|rounds| unsafe { fma_avx512(rounds) }),
            // SAFETY: as above.
            Dot::F32 if narrow => Some(|rounds| unsafe { fma_avx2(rounds) }),
            Dot::F32 => Some(dot_portable),
            // SAFETY: as above.
            Dot::Bf16 if pairs => Some(|rounds| unsafe { dot_bf16(rounds) }),
            Dot::Bf16 => None,
            // SAFETY: as above.
            Dot::Int8 if bytes => Some(|rounds| unsafe { dot_avx512(rounds) }),
            // SAFETY: as above.
            Dot::Int8 if is_x86_feature_detected!("avxvnni") => Some(|rounds| unsafe { dot_avx(rounds) }),
            // SAFETY: as above.
            Dot::Int8 if narrow => Some(|rounds| unsafe { dot_avx2(rounds) }),
            Dot::Int8 => None,
        }
    }

    // Each loop keeps twelve (AVX2: of sixteen registers) or sixteen sums, more than the two a cycle
    // times the four to six cycles of latency that the units hold, so that throughput is the limit.

    #[target_feature(enable = "avx2,fma")]
    fn fma_avx2(rounds: u32) -> u64 {
        let (a, b) = (black_box(_mm256_set1_ps(1.0001)), black_box(_mm256_set1_ps(0.9999)));
        let mut sums = [_mm256_setzero_ps(); 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
        u64::from(rounds) * 12 * 8 * 2
    }

    #[target_feature(enable = "avx512f")]
    fn fma_avx512(rounds: u32) -> u64 {
        let (a, b) = (black_box(_mm512_set1_ps(1.0001)), black_box(_mm512_set1_ps(0.9999)));
        let mut sums = [_mm512_setzero_ps(); 16];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, b, *sum);
            }
        }
        black_box(sums);
        u64::from(rounds) * 16 * 16 * 2
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dot_avx512(rounds: u32) -> u64 {
        let (a, b) = (black_box(_mm512_set1_epi32(5)), black_box(_mm512_set1_epi32(3)));
        let mut sums = [_mm512_setzero_si512(); 16];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        u64::from(rounds) * 16 * 64 * 2
    }

    #[target_feature(enable = "avxvnni,avx2")]
    fn dot_avx(rounds: u32) -> u64 {
        let (a, b) = (black_box(_mm256_set1_epi32(5)), black_box(_mm256_set1_epi32(3)));
        let mut sums = [_mm256_setzero_si256(); 12];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        black_box(sums);
        u64::from(rounds) * 12 * 32 * 2
    }

    /// The two multiplications and the addition that AVX2 needs for what VNNI does at once.
    #[target_feature(enable = "avx2")]
    fn dot_avx2(rounds: u32) -> u64 {
        let (a, b) = (black_box(_mm256_set1_epi32(5)), black_box(_mm256_set1_epi32(3)));
        let ones = black_box(_mm256_set1_epi16(1));
        let mut sums = [_mm256_setzero_si256(); 8];
        for _ in 0..rounds {
            for sum in &mut sums {
                let pairs = _mm256_maddubs_epi16(a, black_box(b));
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
            }
        }
        black_box(sums);
        u64::from(rounds) * 8 * 32 * 2
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot_bf16(rounds: u32) -> u64 {
        let pair = _mm512_cvtne2ps_pbh(_mm512_set1_ps(1.0), _mm512_set1_ps(0.5));
        let (a, b) = (black_box(pair), black_box(pair));
        let mut sums = [_mm512_setzero_ps(); 16];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
        u64::from(rounds) * 16 * 32 * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        let data: Vec<u32> = (0..8 * LINE as u32 * 3).collect();
        let sum = data.iter().fold(0u32, |a, &b| a.wrapping_add(b));
        for read in [read::<1>, read::<4>, read::<8>, read_portable::<1>, read_portable::<4>] {
            assert_eq!(read(&data), sum);
        }
        assert_eq!(read::<8>(&[1; 3]), 0, "less than a line is left out, not read beyond");
    }

    #[test]
    fn limits_are_plausible() {
        let probe = ReadProbe::with_bytes(2, 8 << 20).unwrap();
        let rate = probe.bytes_per_second();
        assert!((1e8..1e13).contains(&rate), "{rate} bytes/s");
        let one = dot_peak(1, Dot::F32).unwrap();
        assert!((1e8..1e12).contains(&one), "{one} operations/s");
        // Bytes are multiplied no slower than floats, where there is an instruction for it.
        if let Some(bytes) = dot_peak(1, Dot::Int8) {
            assert!((1e8..1e14).contains(&bytes), "{bytes} operations/s");
        }
    }
}
