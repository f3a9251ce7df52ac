//! Random damage: the readers answer with a status and never panic, and what they accept lies inside
//! the file.

use super::{memory, small, small_dir};
use crate::support::formats::safetensors_bytes;
use crate::support::torch::{Pickle, TorchForm, TorchStorage, TorchWriter};
use crate::support::{TempDir, flagai};
use aquila::loading::file::SourceFile;
use aquila::loading::packed::Contents;
use aquila::loading::tensor::Named;
use aquila::loading::{gguf, safetensors, torch_bin};
use aquila::model::config;
use aquila::open::LoadOptions;
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::OnceLock;
use xxhash_rust::xxh3::xxh3_64;

/// One change of a file.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize),
    /// Eight bytes that a length, count or offset may be made of.
    Number(Index, u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    let number = prop_oneof![
        any::<u64>(),
        0..100u64,
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(1 << 32),
        (0..64u32).prop_map(|shift| 1u64 << shift)
    ];
    let at = || any::<Index>();
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(i, b)| Damage::Set(i, b)),
        (at(), 0..8u8).prop_map(|(i, b)| Damage::Flip(i, b)),
        (at(), 1..64usize).prop_map(|(i, n)| Damage::Remove(i, n)),
        (at(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(i, b)| Damage::Insert(i, b)),
        (at(), 1..64usize).prop_map(|(i, n)| Damage::Repeat(i, n)),
        (at(), number).prop_map(|(i, n)| Damage::Number(i, n)),
    ]
}

/// Applies the changes to the first `header` bytes.
fn damaged(file: &[u8], header: usize, changes: &[Damage]) -> Vec<u8> {
    let mut out = file.to_vec();
    for change in changes {
        let size = out.len().min(header);
        if size == 0 {
            break;
        }
        match change {
            Damage::Set(at, byte) => out[at.index(size)] = *byte,
            Damage::Flip(at, bit) => out[at.index(size)] ^= 1 << bit,
            Damage::Remove(at, count) => {
                let start = at.index(size);
                out.drain(start..(start + count).min(size));
            }
            Damage::Insert(at, bytes) => {
                let at = at.index(size);
                out.splice(at..at, bytes.iter().copied());
            }
            Damage::Repeat(at, count) => {
                let start = at.index(size);
                let part = out[start..(start + count).min(size)].to_vec();
                out.splice(start..start, part);
            }
            Damage::Number(at, number) => {
                let start = at.index(size);
                let end = (start + 8).min(size);
                out[start..end].copy_from_slice(&number.to_le_bytes()[..end - start]);
            }
        }
    }
    out
}

fn inside(named: &Named, len: usize) -> bool {
    named.iter().all(|(_, t)| t.range.start <= t.range.end && t.range.end <= len as u64)
}

/// A good packed cache, and the bytes of its header and table.
fn packed_cache() -> &'static (Vec<u8>, usize) {
    static CACHE: OnceLock<(Vec<u8>, usize)> = OnceLock::new();
    CACHE.get_or_init(|| {
        let (model, dir) = (small_dir(), TempDir::new());
        let options = LoadOptions {
            dtype: Some("q8".into()),
            cache_dir: Some(dir.path().into()),
            ..LoadOptions::default()
        };
        let mut go = |_: &str, _, _| std::ops::ControlFlow::Continue(());
        let made = aquila::open::quantize(model.path(), &options, false, &mut go).unwrap();
        (std::fs::read(made.path).unwrap(), 128 + 64 * made.tensors)
    })
}

/// Runs a reader; its tensors must lie inside the file and its memory within a few times its size.
fn check<T>(
    bytes: &[u8],
    read: impl FnOnce(&SourceFile) -> aquila::Result<T>,
    named: impl FnOnce(&T) -> &Named,
) -> Result<(), TestCaseError> {
    let file = SourceFile::from_bytes("damaged", bytes.to_vec());
    let (result, peak) = memory::peak_of(|| read(&file));
    prop_assert!(peak < 4 * bytes.len() as u64 + (1 << 20), "{peak} bytes taken for {}", bytes.len());
    match result {
        Ok(value) => prop_assert!(inside(named(&value), bytes.len())),
        Err(error) => prop_assert!(error.message.contains("damaged"), "{error}"),
    }
    Ok(())
}

/// Both forms of a file with this pickle and the storages of the small model.
fn check_pickle(pickle: &[u8]) -> Result<(), TestCaseError> {
    for form in [TorchForm::Zip, TorchForm::Legacy] {
        let file = TorchWriter { pickle: pickle.to_vec(), ..torch_file(form) };
        check(&file.bytes(), torch_bin::read, |file| &file.tensors)?;
    }
    Ok(())
}

fn torch_file(form: TorchForm) -> TorchWriter {
    TorchWriter::of(form, &small().tensors(), small().dtype)
}

/// Opcodes that torch.save writes, some whole and some by themselves.
fn opcodes() -> impl Strategy<Value = Vec<u8>> {
    let plain = prop::sample::select(b"N()t]}aesuRbQ\x85\x86\x87\x88\x89\x94\x93".to_vec())
        .prop_map(|code| vec![code]);
    let number = prop_oneof![0..3u64, 0..300u64, any::<u64>()];
    let global = prop::sample::select(vec![
        ("collections", "OrderedDict"),
        ("torch", "Size"),
        ("torch", "FloatStorage"),
        ("torch", "float16"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    ]);
    let whole =
        (0..30u64, 0..200u64, prop::collection::vec(0..9u64, 0..4)).prop_map(|(key, elements, shape)| {
            let storage = |p: Pickle| p.storage("FloatStorage", &key.to_string(), elements, TorchForm::Zip);
            Pickle::default().text("x").tensor(storage, elements / 8, &shape, &shape).raw(b"s").0
        });
    prop_oneof![
        6 => plain,
        2 => (prop::sample::select(b"qh".to_vec()), 0..4u8).prop_map(|(code, place)| vec![code, place]),
        1 => number.prop_map(|n| Pickle::default().int(n).0),
        1 => prop::sample::select(vec!["storage", "module", "0", "x"]).prop_map(|t| Pickle::default().text(t).0),
        1 => global.prop_map(|(module, name)| Pickle::default().global(module, name).0),
        1 => whole,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_checkpoint(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes, safetensors::read, |named| named)?;
        check(&[b"GGUF\x03\0\0\0", &bytes[..]].concat(), gguf::read, |(_, named)| named)?;
        let _ = config::parse("config.json", &bytes);
    }

    #[test]
    fn damaged_safetensors(changes in prop::collection::vec(damage(), 1..6)) {
        let file = safetensors_bytes(&small().tensors(), small().dtype);
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        check(&damaged(&file, header, &changes), safetensors::read, |named| named)?;
    }

    #[test]
    fn damaged_gguf(changes in prop::collection::vec(damage(), 1..6)) {
        let mut model = small();
        model.tokenizer = crate::support::TinyTokenizer::Json;
        model.vocab = 288;
        let gguf = model.gguf();
        let header = gguf.header().len();
        check(&damaged(&gguf.bytes(), header, &changes), gguf::read, |(_, named)| named)?;
    }

    #[test]
    fn damaged_torch_archives(changes in prop::collection::vec(damage(), 1..4)) {
        let storage = TorchStorage { class: "HalfStorage", elements: 2, data: vec![0; 4] };
        let pickle = Pickle::new().raw(b"}").text("x").tensor(
            |p| p.storage("HalfStorage", "0", 2, TorchForm::Zip), 0, &[2], &[1]).raw(b"s").stop();
        let file = TorchWriter { pickle, storages: vec![storage], ..torch_file(TorchForm::Zip) }.bytes();
        check(&damaged(&file, file.len(), &changes), torch_bin::read, |file| &file.tensors)?;
    }

    #[test]
    fn damaged_pickles(changes in prop::collection::vec(damage(), 1..6)) {
        let pickle = torch_file(TorchForm::Zip).pickle;
        check_pickle(&damaged(&pickle, pickle.len(), &changes))?;
        let file = torch_file(TorchForm::Legacy).bytes();
        check(&damaged(&file, file.len(), &changes), torch_bin::read, |file| &file.tensors)?;
    }

    #[test]
    fn random_opcodes(opcodes in prop::collection::vec(opcodes(), 0..40)) {
        check_pickle(&Pickle::new().raw(b"}").raw(&opcodes.concat()).stop())?;
    }

    #[test]
    fn damaged_packed_cache(changes in prop::collection::vec(damage(), 1..6), sealed in any::<bool>()) {
        let (valid, table) = packed_cache();
        let mut bytes = damaged(valid, *table, &changes);
        if sealed && bytes.len() >= 128 {
            // With right checksums the checks behind them are reached.
            let count = u32::from_le_bytes(bytes[48..52].try_into().unwrap()) as usize;
            let sum = xxh3_64(bytes.get(128..128 + count * 64).unwrap_or_default());
            bytes[64..72].copy_from_slice(&sum.to_le_bytes());
            let sum = xxh3_64(&bytes[..120]);
            bytes[120..128].copy_from_slice(&sum.to_le_bytes());
        }
        let file = SourceFile::from_bytes("damaged", bytes.clone());
        let (result, peak) = memory::peak_of(|| Contents::read(&file));
        prop_assert!(peak < 4 * bytes.len() as u64 + (1 << 20), "{peak} bytes taken for {}", bytes.len());
        match result {
            Ok(contents) => {
                let mut end = 128;
                for entry in contents.entries {
                    prop_assert!(entry.range.start >= end && entry.range.start % 64 == 0);
                    prop_assert!(entry.range.start <= entry.range.end && entry.range.end <= bytes.len() as u64);
                    end = entry.range.end;
                }
            }
            Err(error) => prop_assert_eq!(error.status, aquila::Status::Format),
        }
    }

    #[test]
    fn damaged_config(changes in prop::collection::vec(damage(), 1..4), native in any::<bool>()) {
        let config = if native { flagai::model().flagai_config() } else { small().config() };
        let text = config.to_string();
        if let Ok(config) = config::parse("config.json", &damaged(text.as_bytes(), text.len(), &changes)) {
            let spec = config.spec;
            prop_assert!(spec.heads % spec.kv_heads == 0 && spec.head_dim % 2 == 0 && spec.layers > 0);
            prop_assert!(spec.norm_eps > 0.0 && spec.rope.theta.is_finite() && spec.context > 0);
            prop_assert!(spec.parameters() > 0);
        }
    }
}
