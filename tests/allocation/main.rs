//! A step in steady state takes no memory: everything was taken when the executor was opened.
//!
//! The only test of its program, so that no other test's allocations are counted.

use aquila::backend::cpu::CpuBackend;
use aquila::backend::cpu::isa::Level;
use aquila::backend::{Backend, ExecutorOptions, Step, StepSequence, Want, WantedRow};
use aquila::base::dtype::DType;
use aquila::model::spec::{DecoderSpec, RopeScaling, RopeSpec};
use aquila::model::weights::{Role, RowMap, Weight, WeightSet};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as the caller promised us.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised us.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A decoder whose weights, in every type, are small and whose q rows lie in two pieces along k.
fn weights(spec: &DecoderSpec, dtype: DType) -> WeightSet {
    let mut set = WeightSet::default();
    let (q, kv, hidden, ffn) = (spec.q_width(), spec.kv_width(), spec.hidden, spec.ffn);
    let mut add = |layer, role, rows: usize, cols: usize| {
        let part = |cols: usize| {
            let bytes = vec![0x11u8; rows * cols * dtype.block_bytes()];
            Weight::whole("w", rows, cols, dtype, bytes.into(), RowMap::Identity).unwrap()
        };
        let weight = match role {
            Role::Query => Weight::join_cols("w", vec![part(cols / 3), part(cols - cols / 3)]).unwrap(),
            _ => part(cols),
        };
        set.insert(layer, role, weight);
    };
    add(0, Role::Embedding, spec.vocab, hidden);
    add(0, Role::FinalNorm, 1, hidden);
    for layer in 0..spec.layers {
        for (role, rows, cols) in [
            (Role::AttentionNorm, 1, hidden),
            (Role::Query, q, hidden),
            (Role::Key, kv, hidden),
            (Role::Value, kv, hidden),
            (Role::Output, hidden, q),
            (Role::FfnNorm, 1, hidden),
            (Role::Gate, ffn, hidden),
            (Role::Up, ffn, hidden),
            (Role::Down, hidden, ffn),
        ] {
            add(layer, role, rows, cols);
        }
    }
    set
}

#[test]
fn steps_take_no_memory() {
    let spec = DecoderSpec {
        layers: 2,
        hidden: 64,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 96,
        vocab: 100,
        norm_eps: 1e-6,
        rope: RopeSpec { theta: 1e4, scaling: RopeScaling::None },
        context: 64,
        score_clamp: None,
        tied: true,
    };
    let options = ExecutorOptions {
        dtype: None,
        kv_dtype: None,
        threads: 2,
        context: 64,
        max_batch: 2,
        host_memory: 0,
        device_memory: 0,
        kv_memory: 0,
        copied_bytes: 0,
        lock_memory: false,
    };
    let slots: Vec<u32> = (0..32).collect();
    let sequence = |first_row, rows, context, first_block| StepSequence {
        first_row,
        rows,
        context,
        first_block,
        blocks: 2,
    };
    let wanted = [WantedRow { row: 0, want: Want::Logits }, WantedRow { row: 1, want: Want::Hidden }];
    let prefill = Step {
        tokens: &[7; 20],
        positions: &slots[..20],
        slots: &slots[..20],
        sequences: &[sequence(0, 20, 20, 0)],
        block_tables: &[0, 1],
        wanted: &wanted,
        carry: &[],
    };
    let decode = Step {
        tokens: &[7, 8],
        positions: &[20, 0],
        slots: &[20, 32],
        sequences: &[sequence(0, 1, 21, 0), sequence(1, 1, 1, 2)],
        block_tables: &[0, 1, 2, 3],
        ..prefill
    };
    for level in Level::available() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (backend, set) = (CpuBackend::new(level), weights(&spec, dtype));
            let plan = backend.plan(&spec, &set, &options).unwrap();
            let mut progress = |_: &str, _, _| ControlFlow::Continue(());
            let spec = Arc::new(spec.clone());
            let mut executor = backend.open(spec, set, &options, &plan, &mut progress).unwrap();
            // The threads' own start may allocate, the first job awaits it.
            executor.submit(&prefill).unwrap();
            let before = CALLS.load(Ordering::Relaxed);
            for _ in 0..3 {
                for step in [&prefill, &decode] {
                    let ticket = executor.submit(step).unwrap();
                    assert!(matches!(
                        executor.collect(ticket).unwrap().row(0),
                        aquila::backend::Row::Logits(_)
                    ));
                }
                executor.copy_blocks(&[(0, 1)]).unwrap();
            }
            let calls = CALLS.load(Ordering::Relaxed) - before;
            assert_eq!(calls, 0, "{level} {dtype}");
        }
    }
}
