//! What needs the inside: the bytes of a revision, and a disk that fills while it is written.

use super::super::CpuBackend;
use super::super::isa::Level;
use super::super::kernels::Kernels;
use super::*;
use crate::backend::{Backend, ExecutorOptions};
use crate::base::dtype::DType;
use crate::base::new_file::fault;
use crate::model::spec::{RopeScaling, RopeSpec};
use crate::model::weights::packed::SourceKey;
use crate::model::weights::{RowMap, Weight};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// Reproducible numbers in [-1, 1).
fn values(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn the_bytes_of_this_revision() {
    // Where this fails the packed bytes of equal weights have changed: raise REVISION, so that the caches of users are
    // made again, and write the new sums down.
    const EXPECTED: (u64, [u64; 3]) =
        (2, [0x59a3_1587_a6dd_2f59, 0x3bcb_e779_fa6c_3e4c, 0x656e_e1e9_1652_123b]);
    let (rows, cols) = (32, 320);
    let weights = values(rows * cols);
    let sums = [Packing::Q8, Packing::Q8Fine, Packing::Q4].map(|packing| {
        let sum = |level| {
            let mut panel = vec![0u8; packing.panel_bytes(cols)];
            Kernels::new(level).pack(packing, &weights, cols, &mut panel).unwrap();
            xxh3_64(&panel)
        };
        assert_eq!(sum(Level::Scalar), sum(Level::detect()), "{packing:?}: a cache serves every level");
        sum(Level::Scalar)
    });
    assert_eq!((REVISION, sums), EXPECTED, "{sums:#x?}");
}

#[test]
fn numbers_of_forms_and_roles_are_distinct() {
    let mut forms: Vec<u32> = Packing::ALL.iter().map(|&packing| number(Form::Packed(packing))).collect();
    forms.extend([Element::F32, Element::F16, Element::Bf16].map(|element| number(Form::Plain(element))));
    let all = forms.len();
    forms.sort_unstable();
    forms.dedup();
    assert_eq!(forms.len(), all);
    let mut roles: Vec<u32> = LAYER_MATRICES.map(Role::number).to_vec();
    roles.extend(LAYER_NORMS.into_iter().chain(LAYER_BIASES).map(Role::number));
    roles.extend([Role::Embedding, Role::FinalNorm, Role::Head].map(Role::number));
    roles.sort_unstable();
    assert!(roles.iter().copied().eq(1..=16), "{roles:?}");
}

fn decoder() -> (DecoderSpec, WeightSet) {
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
        tied: false,
    };
    let mut set = WeightSet::default();
    for (layer, role, _) in order(&spec) {
        if LAYER_BIASES.contains(&role) {
            continue;
        }
        let (rows, cols) = shapes::shape(&spec, role);
        let bytes: Vec<u8> = values(rows * cols).iter().flat_map(|x| x.to_le_bytes()).collect();
        let weight =
            Weight::whole(&format!("{role:?}"), rows, cols, DType::F32, bytes.into(), RowMap::Identity);
        set.insert(layer, role, weight.unwrap());
    }
    (spec, set)
}

/// A directory that is gone in the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aquila-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(&self.0).unwrap().count()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn options() -> ExecutorOptions {
    ExecutorOptions {
        dtype: Some(ComputeType::Q8),
        kv_dtype: None,
        threads: 2,
        context: 64,
        max_batch: 1,
        host_memory: 0,
        device_memory: 0,
        kv_memory: 0,
        lock_memory: false,
        copy_weights: false,
    }
}

#[test]
fn a_disk_that_fills_costs_the_cache_and_not_the_load() {
    let dir = Dir::new("disk-full");
    let (spec, mut set) = decoder();
    let key = SourceKey::of([("weights", 1, &b"bytes"[..])].into_iter());
    set.keep_packed(Store::new(&dir.0, "model", key, false, false));
    let wish = Wish::of(&spec, &set, Some(ComputeType::Q8)).unwrap().unwrap();
    let table = (128 + 64 * wish.places.len()) as u64;
    let backend = CpuBackend::new(Level::detect());
    let plan = backend.plan(&spec, &set, &options()).unwrap();
    let mut go = |_: &str, _, _| ControlFlow::Continue(());
    // Nothing fits; the first tensor does; half of all; all but the last write, of header and table, which lies first.
    let most = wish.format.tensors.iter().map(|tensor| tensor.bytes).sum::<u64>();
    for room in [0, table + 5, table + wish.format.tensors[0].bytes, table + most / 2, table + most - 1] {
        fault::set_room(room);
        let opened = backend.open(Arc::new(spec.clone()), set.clone(), &options(), &plan, &mut go);
        assert!(opened.is_ok(), "room {room}: {:?}", opened.err());
        assert_eq!(dir.files(), 0, "room {room}");
        let error = backend.pack(&spec, &set, &options(), false, &mut go).unwrap_err();
        assert_eq!((error.status, error.native_code), (Status::Io, libc::ENOSPC), "room {room}: {error}");
        assert_eq!(dir.files(), 0, "room {room}");
    }
    fault::set_room(u64::MAX);
    assert!(!backend.pack(&spec, &set, &options(), false, &mut go).unwrap().found);
    assert!(backend.plan(&spec, &set, &options()).unwrap().packed.unwrap().found);
    assert_eq!(dir.files(), 1);
}

#[test]
fn a_cache_that_vanishes_after_the_plan_is_no_way_past_the_budget() {
    let dir = Dir::new("vanished");
    let (spec, mut set) = decoder();
    let key = SourceKey::of([("weights", 2, &b"bytes"[..])].into_iter());
    set.keep_packed(Store::new(&dir.0, "model", key, false, false));
    let backend = CpuBackend::new(Level::detect());
    let mut go = |_: &str, _, _| ControlFlow::Continue(());
    let made = backend.pack(&spec, &set, &options(), false, &mut go).unwrap();
    let free = backend.plan(&spec, &set, &options()).unwrap();
    let host_memory = free.workspace_bytes + free.kv_bytes() + made.packed_bytes / 2;
    let tight = ExecutorOptions { host_memory, kv_memory: free.kv_bytes(), ..options() };
    let plan = backend.plan(&spec, &set, &tight).unwrap();
    assert_eq!(plan.refusal, None, "the cache is mapped");
    std::fs::remove_file(&made.path).unwrap();
    fault::set_room(0);
    let opened = backend.open(Arc::new(spec.clone()), set.clone(), &tight, &plan, &mut go);
    fault::set_room(u64::MAX);
    let error = opened.err().unwrap();
    assert!(error.status == Status::NoMemory && error.message.contains("packed cache"), "{error}");
}

#[test]
fn a_weight_that_cannot_be_converted_ends_the_load_and_leaves_no_file() {
    let dir = Dir::new("infinite");
    let (spec, mut set) = decoder();
    let key = SourceKey::of([("weights", 3, &b"bytes"[..])].into_iter());
    set.keep_packed(Store::new(&dir.0, "model", key, false, false));
    let (rows, cols) = shapes::shape(&spec, Role::Down);
    let bytes = vec![f32::INFINITY.to_le_bytes(); rows * cols].concat();
    let bad = Weight::whole("layer 1 down", rows, cols, DType::F32, bytes.into(), RowMap::Identity).unwrap();
    set.insert(1, Role::Down, bad);
    let backend = CpuBackend::new(Level::detect());
    let plan = backend.plan(&spec, &set, &options()).unwrap();
    let mut go = |_: &str, _, _| ControlFlow::Continue(());
    let error = backend.open(Arc::new(spec), set, &options(), &plan, &mut go).err().unwrap();
    assert!(error.status == Status::Format && error.message.contains("layer 1 down"), "{error}");
    assert_eq!(dir.files(), 0);
}
