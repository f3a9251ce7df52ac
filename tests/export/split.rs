//! The cut for several cards.

use crate::support::{TempDir, TinyModel, TinyType};
use crate::{assert_same, go_on, names};
use aquila::Status;
use aquila::base::dtype::DType;
use aquila::engine::params::{GenParams, Input};
use aquila::export::{ConvertOptions, SplitOptions, Target, WeightFormat, join, split};
use aquila::model::Checkpoint;
use aquila::open::{self, LoadOptions};
use serde_json::Value;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

const FORMATS: [WeightFormat; 2] = [WeightFormat::Safetensors, WeightFormat::TorchBin];

fn tiny(change: impl FnOnce(&mut TinyModel)) -> TempDir {
    let mut model = TinyModel { heads: 8, kv_heads: 4, ..TinyModel::default() };
    change(&mut model);
    let dir = TempDir::new();
    model.write_dir(dir.path());
    dir
}

fn options(world_size: u32) -> SplitOptions {
    SplitOptions { world_size, ..SplitOptions::default() }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Rewrites one value of a JSON file.
fn edit(path: &Path, key: &str, value: Value) {
    let mut config = json(path);
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

/// Fewer and more cards than key heads, with and without biases, one and many files, every type, both kinds of files, a
/// head that is filled up, one that need not be, and none.
#[test]
fn what_was_cut_is_the_whole_again() {
    let models = [
        tiny(|_| {}),
        tiny(|model| model.biases = true),
        tiny(|model| (model.tied, model.dtype) = (true, TinyType::Bf16)),
        tiny(|model| (model.kv_heads, model.biases, model.dtype) = (2, true, TinyType::F16)),
        tiny(|model| (model.kv_heads, model.vocab) = (8, 320)),
        tiny(|model| (model.kv_heads, model.shards) = (1, 3)),
    ];
    for (number, model) in models.iter().enumerate() {
        for (world_size, format) in [1, 2, 4, 8].into_iter().flat_map(|n| FORMATS.map(|format| (n, format))) {
            let (out, whole) = (TempDir::new(), TempDir::new());
            let shard_bytes = if number % 2 == 0 { 20_000 } else { 1 << 40 };
            let options =
                SplitOptions { output: Some(out.path().into()), format, shard_bytes, ..options(world_size) };
            let report = split(model.path(), &options, &mut go_on).unwrap();
            let parts = names(&out.join("part_model"));
            assert_eq!(parts, (0..world_size).map(|rank| rank.to_string()).collect::<Vec<_>>());
            assert_eq!(
                report.kv_copies,
                (world_size as usize / Checkpoint::open(model.path(), false).unwrap().spec.kv_heads).max(1)
            );
            assert_same(out.path(), model.path());

            let config = json(&out.join("part_model/0/config.json"));
            assert_eq!(config["world_size"], world_size);
            assert_eq!(
                config["auto_map"]["AutoModelForCausalLM"],
                "modeling_aquila_ascend.AquilaForCausalLM"
            );
            let rows = config.get("padded_vocab_size").and_then(Value::as_u64);
            assert_eq!(rows.map(|rows| rows as usize), report.padded_vocab);
            assert!(rows.is_none_or(|rows| rows.is_multiple_of(16 * u64::from(world_size))));

            let joined = whole.join("joined");
            let options = ConvertOptions { target: Target::Directory(format), ..ConvertOptions::default() };
            join(out.path(), &joined, &options, &mut go_on).unwrap();
            assert_same(&joined, model.path());
            let config = json(&joined.join("config.json"));
            assert!(config.get("world_size").is_none() && config.get("padded_vocab_size").is_none());
            assert_eq!(names(&joined).iter().filter(|name| name.starts_with("tokenizer")).count(), 2);
        }
    }
}

/// The CPU runs a cut model as it runs the whole one, to the bit: the logits are compared by what they sum up to.
#[test]
fn a_cut_model_gives_the_same_tokens_and_scores() {
    let model = tiny(|model| (model.dtype, model.layers) = (TinyType::F16, 3));
    let out = TempDir::new();
    for world_size in [2, 8] {
        let dir = out.join(&world_size.to_string());
        split(model.path(), &SplitOptions { output: Some(dir), ..options(world_size) }, &mut go_on).unwrap();
    }
    for dtype in ["f16", "f32", "q8", "q4"] {
        let answers = [model.path().to_owned(), out.join("2"), out.join("8")].map(|path| {
            let options =
                LoadOptions { dtype: Some(dtype.into()), device: "cpu".into(), ..LoadOptions::default() };
            let engine = open::load(&path, &options, &mut go_on).unwrap();
            let params = GenParams { max_tokens: 20, logprobs: 3, ignore_eos: true, ..GenParams::default() };
            let answer = engine.generate(Input::Text("hello world".into()), params).unwrap();
            format!("{:?} {:?}", answer.tokens, answer.logprobs)
        });
        assert_eq!(answers[0], answers[1], "{dtype}");
        assert_eq!(answers[0], answers[2], "{dtype}");
    }
}

/// What torch's own reader, with code forbidden, finds in the files: Debian's python3-torch.
#[test]
fn torch_reads_the_parts() {
    let model = tiny(|model| (model.dtype, model.biases) = (TinyType::Bf16, true));
    let out = TempDir::new();
    for (dtype, shard_bytes) in [(None, 1 << 40), (Some(DType::F16), 30_000), (Some(DType::F32), 1 << 40)] {
        let dir = out.join(&format!("{dtype:?}"));
        let options = SplitOptions {
            output: Some(dir.clone()),
            format: WeightFormat::TorchBin,
            dtype,
            shard_bytes,
            ..options(2)
        };
        split(model.path(), &options, &mut go_on).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/export/torch_reads.py");
        let output =
            Command::new("/usr/bin/python3").arg(script).arg(dir.join("part_model/1")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_str(&text).unwrap();
        let name = dtype.map_or("bfloat16", |dtype| if dtype == DType::F16 { "float16" } else { "float32" });
        assert_eq!(found["dtypes"], serde_json::json!([format!("torch.{name}")]));
        assert_eq!(found["tensors"], 2 * 13 + 3);
        // Two layers of the second half, by the shapes of the model; and the sum of what our own reader finds.
        let expected: f64 = sum_of_part(&dir, 1);
        let sum = found["sum"].as_f64().unwrap();
        assert!((sum - expected).abs() < 1e-3 * expected.abs().max(1.0), "{sum} {expected}");
    }
}

/// The sum of all elements of a part, each times its place in its tensor, as torch_reads.py forms it.
fn sum_of_part(model: &Path, rank: usize) -> f64 {
    use aquila::loading::file::SourceFile;
    use aquila::loading::tensor::{StoredType, TensorTable};
    let dir = model.join("part_model").join(rank.to_string());
    let files = names(&dir).into_iter().filter(|name| name.ends_with(".bin"));
    let mut sum = 0.0;
    for name in files {
        let file = SourceFile::open(&dir.join(name)).unwrap();
        let named = aquila::loading::torch_bin::read(&file).unwrap().tensors;
        let tensors = named.clone();
        let table = TensorTable::new(vec![(file, named)], false).unwrap();
        for (name, tensor) in tensors {
            let StoredType::Known(dtype) = tensor.dtype else { panic!("{name}") };
            let mut values = vec![0f32; tensor.shape.iter().product()];
            aquila::loading::quant::to_f32(dtype, &table.bytes(&name).unwrap(), &mut values);
            sum += values
                .iter()
                .enumerate()
                .map(|(at, &value)| f64::from(value) * (at % 97) as f64)
                .sum::<f64>();
        }
    }
    sum
}

#[test]
fn world_sizes_that_do_not_fit_are_refused_with_the_reason() {
    let model = tiny(|_| {});
    for (world_size, words) in [(0, "1 or more"), (3, "8 attention heads"), (16, "8 attention heads")] {
        let error = split(model.path(), &options(world_size), &mut go_on).unwrap_err();
        assert_eq!(error.status, Status::Argument);
        assert!(error.message.contains(words), "{error}");
    }
    let odd = tiny(|model| (model.heads, model.kv_heads, model.ffn) = (12, 4, 90));
    for (world_size, words) in [(3, "4 key heads"), (4, "90 rows")] {
        let error = split(odd.path(), &options(world_size), &mut go_on).unwrap_err();
        assert!(error.status == Status::Argument && error.message.contains(words), "{error}");
    }
    assert!(!names(model.path()).contains(&"part_model".into()));
}

#[test]
fn what_is_there_is_not_replaced_and_what_fails_leaves_nothing() {
    let model = tiny(|_| {});
    let before = names(model.path());
    // Abandoned in the middle.
    let mut calls = 0;
    let mut stop = |_: &str, _: u64, _: u64| {
        calls += 1;
        if calls > 9 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = split(model.path(), &options(2), &mut stop).unwrap_err();
    assert_eq!(error.status, Status::Cancelled);
    assert_eq!(names(model.path()), before);
    // A number that the type has not, in a tensor in the middle.
    let big = tiny(|_| {});
    let path = big.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4 * 4;
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let at = header + (middle - header) / 4 * 4;
    bytes[at..at + 4].copy_from_slice(&1e30f32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let error =
        split(big.path(), &SplitOptions { dtype: Some(DType::F16), ..options(2) }, &mut go_on).unwrap_err();
    assert!(error.message.contains("1e30: f16"), "{error}");
    assert_eq!(names(big.path()), before);
    // What is there stays.
    split(model.path(), &options(2), &mut go_on).unwrap();
    let error = split(model.path(), &options(4), &mut go_on).unwrap_err();
    assert!(error.status == Status::Argument && error.message.contains("exists already"), "{error}");
    assert_eq!(json(&model.join("part_model/0/config.json"))["world_size"], 2);
    let error =
        join(model.path(), &model.join("part_model"), &ConvertOptions::default(), &mut go_on).unwrap_err();
    assert!(error.message.contains("exists already"), "{error}");
}

#[test]
fn wrong_parts_are_refused_by_name() {
    let model = tiny(|model| (model.kv_heads, model.tied) = (2, false));
    let cut = || {
        let out = TempDir::new();
        split(model.path(), &SplitOptions { output: Some(out.path().into()), ..options(4) }, &mut go_on)
            .unwrap();
        out
    };
    let refused = |dir: &Path, words: &[&str]| {
        let error = Checkpoint::open(dir, false).unwrap_err();
        assert_eq!(error.status, Status::Format, "{error}");
        words.iter().for_each(|word| assert!(error.message.contains(word), "{word:?}: {error}"));
    };
    let good = cut();
    refused(&good.join("part_model"), &["directory of the parts", "expected the directory above part_model"]);
    refused(&good.join("part_model/2"), &["one of 4 parts", "expected the directory above part_model"]);

    let dir = cut();
    fs::remove_dir_all(dir.join("part_model/2")).unwrap();
    refused(dir.path(), &["world_size is 4", "found no 2"]);
    let dir = cut();
    fs::create_dir(dir.join("part_model/4")).unwrap();
    refused(dir.path(), &["found a part 4"]);
    let dir = cut();
    edit(&dir.join("part_model/3/config.json"), "world_size", 2.into());
    refused(dir.path(), &["part_model/3", "another cut"]);
    let dir = cut();
    edit(&dir.join("part_model/1/config.json"), "rope_theta", 5.into());
    refused(dir.path(), &["part_model/1", "another model"]);
    let dir = cut();
    fs::remove_file(dir.join("part_model/1/model.safetensors")).unwrap();
    refused(dir.path(), &["part_model/1", "no weights"]);
    // A part of a cut for two cards among those for four.
    let two = TempDir::new();
    split(model.path(), &SplitOptions { output: Some(two.path().into()), ..options(2) }, &mut go_on).unwrap();
    let dir = cut();
    fs::copy(two.join("part_model/1/model.safetensors"), dir.join("part_model/1/model.safetensors")).unwrap();
    refused(dir.path(), &["part_model/1", "q_proj", "expected [32, 64]", "found [64, 64]"]);

    // Copies that differ: of a key head at once, of the embedding when it is asked for.
    for (tensor, at_once) in
        [("model.layers.0.self_attn.k_proj.weight", true), ("model.embed_tokens.weight", false)]
    {
        let dir = cut();
        let path = dir.join("part_model/1/model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let entries: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        let start = entries[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[header + start] ^= 1;
        fs::write(&path, bytes).unwrap();
        if at_once {
            refused(dir.path(), &["part_model/0 and 1", tensor, "two that differ"]);
        } else {
            let checkpoint = Checkpoint::open(dir.path(), false).unwrap();
            assert!(checkpoint.compare_copies().unwrap_err().message.contains(tensor));
        }
        let error = join(dir.path(), &dir.join("j"), &ConvertOptions::default(), &mut go_on).unwrap_err();
        assert!(error.message.contains("two that differ"), "{error}");
        assert!(!dir.join("j").exists());
    }
}

/// Parts as the script of the guide leaves them: f32, a head out of `chunk` that nothing was added to or that is not cut at
/// all, no tokenizer beside the weights.
#[test]
fn parts_of_the_guides_script_are_read() {
    let model = tiny(|model| (model.vocab, model.dtype) = (290, TinyType::F16));
    let head = |dir: &Path| -> Vec<u8> {
        let bytes = fs::read(dir.join("model.safetensors")).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let entries: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
        let range =
            |end: usize| header + entries["lm_head.weight"]["data_offsets"][end].as_u64().unwrap() as usize;
        bytes[range(0)..range(1)].to_vec()
    };
    let whole = head(model.path());
    for kind in ["rows", "columns", "copies"] {
        let out = TempDir::new();
        split(model.path(), &SplitOptions { output: Some(out.path().into()), ..options(2) }, &mut go_on)
            .unwrap();
        for rank in 0..2usize {
            let dir = out.join(&format!("part_model/{rank}"));
            for name in names(&dir).iter().filter(|name| name.contains("token") || name.contains("vocab")) {
                fs::remove_file(dir.join(name)).unwrap();
            }
            let mut config = json(&dir.join("config.json"));
            config.as_object_mut().unwrap().remove("padded_vocab_size");
            config.as_object_mut().unwrap().remove("rank");
            fs::write(dir.join("config.json"), config.to_string()).unwrap();
            let row = 2 * 64;
            let part: Vec<u8> = match kind {
                "rows" => whole[rank * 145 * row..(rank + 1) * 145 * row].to_vec(),
                "columns" => whole.chunks(row).flat_map(|r| r[rank * 64..(rank + 1) * 64].to_vec()).collect(),
                _ => whole.clone(),
            };
            let shape = match kind {
                "rows" => [145, 64],
                "columns" => [290, 32],
                _ => [290, 64],
            };
            replace_head(&dir.join("model.safetensors"), &part, shape);
        }
        assert_same(out.path(), model.path());
    }
}

/// Puts another head into a safetensors file whose last tensor it is.
fn replace_head(path: &Path, data: &[u8], shape: [usize; 2]) {
    let bytes = fs::read(path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut entries: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    let start = entries["lm_head.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    entries["lm_head.weight"]["data_offsets"][1] = (start + data.len()).into();
    entries["lm_head.weight"]["shape"] = shape.to_vec().into();
    let text = entries.to_string();
    let length = (text.len() as u64).to_le_bytes();
    fs::write(path, [&length, text.as_bytes(), &bytes[header..header + start], data].concat()).unwrap();
}
