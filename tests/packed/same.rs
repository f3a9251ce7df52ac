//! The same bits with a cache and without, and what a load with one does not read.

use super::{files, logits, only_file, options, verified, warnings, without};
use crate::data::real_data;
use crate::support::{TempDir, TinyModel, TinyTokenizer, TinyType};
use aquila::open;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Without a cache, while writing it, and with it: one answer and no warning.
fn round_trip(model: &Path, dtype: &str) {
    let dir = TempDir::new();
    let options = options(dtype, dir.path());
    let expected = logits(model, &without(&options)).unwrap();
    let ((), said) = warnings(|| {
        assert!(logits(model, &options).unwrap() == expected, "{dtype}: while it is written");
        let file = only_file(dir.path());
        let written = file.metadata().unwrap().ino();
        assert!(logits(model, &options).unwrap() == expected, "{dtype}: second load");
        assert!(logits(model, &verified(&options)).unwrap() == expected, "{dtype}: verified");
        let copied = open::LoadOptions { no_mmap: true, ..options.clone() };
        assert!(logits(model, &copied).unwrap() == expected, "{dtype}: copied");
        assert_eq!(only_file(dir.path()).metadata().unwrap().ino(), written, "written once");
    });
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn every_tiny_model_in_every_form() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tiny");
    let mut models = 0;
    for model in files(&tiny) {
        ["q8", "q4"].iter().for_each(|dtype| round_trip(&model, dtype));
        models += 1;
    }
    assert!(models >= 8);
    let model = TempDir::new();
    TinyModel { biases: true, tied: true, dtype: TinyType::F32, shards: 2, ..TinyModel::default() }
        .write_dir(model.path());
    ["q8", "q4", "f16", "bf16"].iter().for_each(|dtype| round_trip(model.path(), dtype));
}

#[test]
fn gguf_blocks_that_are_expanded_or_taken_over() {
    let Some(data) = real_data() else { return };
    let gguf = files(&data).into_iter().find(|path| path.extension().is_some_and(|e| e == "gguf"));
    let Some(gguf) = gguf else { return };
    let dir = TempDir::new();
    let mut as_stored = options("q8", dir.path());
    as_stored.dtype = None;
    let expected = logits(&gguf, &without(&as_stored)).unwrap();
    assert!(logits(&gguf, &as_stored).unwrap() == expected);
    assert!(logits(&gguf, &as_stored).unwrap() == expected);
    assert_eq!(files(dir.path()).len(), 1, "expanded blocks are kept");
}

#[test]
fn a_real_model_in_8_and_4_bits() {
    let Some(data) = real_data() else { return };
    ["q8", "q4"].iter().for_each(|dtype| round_trip(&data.join("smollm2-f32"), dtype));
}

#[test]
fn what_is_used_as_stored_is_not_kept() {
    let (model, dir) = (TempDir::new(), TempDir::new());
    TinyModel::default().write_dir(model.path());
    let mut options = options("f32", dir.path());
    logits(model.path(), &options).unwrap();
    options.dtype = None;
    logits(model.path(), &options).unwrap();
    assert!(files(dir.path()).is_empty());
    assert_eq!(open::plan(model.path(), &options).unwrap().memory.packed, None);
}

#[test]
fn formats_and_models_lie_side_by_side() {
    let (a, b, dir) = (TempDir::new(), TempDir::new(), TempDir::new());
    TinyModel::default().write_dir(a.path());
    TinyModel { seed: 2, ..TinyModel::default() }.write_dir(b.path());
    for round in 0..2 {
        let ((), said) = warnings(|| {
            for model in [&a, &b] {
                for dtype in ["q8", "q4"] {
                    logits(model.path(), &options(dtype, dir.path())).unwrap();
                }
            }
        });
        assert!(said.is_empty(), "round {round}: {said:?}");
        assert_eq!(files(dir.path()).len(), 4);
    }
}

#[test]
fn the_second_load_does_not_read_the_weights_of_the_source() {
    let (model, dir) = (TempDir::new(), TempDir::new());
    let tiny = TinyModel { ffn: 16384, layers: 1, tokenizer: TinyTokenizer::None, ..TinyModel::default() };
    tiny.write_dir(model.path());
    let options = options("q8", dir.path());
    let expected = logits(model.path(), &options).unwrap();
    // Zeros in the middle, behind the back of everything that a load looks at.
    let weights = model.join("model.safetensors");
    let (mut bytes, changed) =
        (std::fs::read(&weights).unwrap(), weights.metadata().unwrap().modified().unwrap());
    let end = bytes.len() - (1 << 20);
    bytes[1 << 20..end].fill(0);
    std::fs::write(&weights, bytes).unwrap();
    std::fs::File::options().write(true).open(&weights).unwrap().set_modified(changed).unwrap();
    assert!(logits(model.path(), &options).unwrap() == expected);
    assert!(logits(model.path(), &without(&options)).unwrap() != expected, "the zeros are there");
}

#[test]
fn the_plan_counts_a_found_cache_as_mapped() {
    let (model, dir) = (TempDir::new(), TempDir::new());
    TinyModel::default().write_dir(model.path());
    let options = options("q8", dir.path());
    let plan = |options: &open::LoadOptions| open::plan(model.path(), options).unwrap().memory;
    let (none, before) = (plan(&without(&options)), plan(&options));
    assert_eq!(before.weight_bytes_private, none.weight_bytes_private, "not counted on before it is there");
    assert!(!before.packed.as_ref().unwrap().found && none.packed.is_none());
    logits(model.path(), &options).unwrap();
    let after = plan(&options);
    let packed = after.packed.as_ref().unwrap();
    assert!(packed.found && packed.path == only_file(dir.path()));
    assert!(after.weight_bytes_mapped > 0 && after.weight_bytes_private < 4096, "{after:?}");
    assert_eq!(
        after.weight_bytes_mapped + after.weight_bytes_private,
        none.weight_bytes_mapped + none.weight_bytes_private
    );
    assert!(packed.packed_bytes <= only_file(dir.path()).metadata().unwrap().len());
    // A budget that only the mapped cache fits.
    let cache_only = open::LoadOptions {
        host_memory: none.workspace_bytes + none.kv_bytes() + none.weight_bytes_private / 2,
        kv_memory: none.kv_bytes(),
        ..options.clone()
    };
    assert_eq!(plan(&cache_only).refusal, None);
    logits(model.path(), &cache_only).unwrap();
    assert!(plan(&without(&cache_only)).refusal.is_some());
    let file = only_file(dir.path());
    std::fs::remove_file(&file).unwrap();
    assert!(plan(&cache_only).refusal.is_some());
}
