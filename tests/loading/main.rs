//! Checkpoints as a whole: what is written is what is read, in every format.

#[path = "../support/data.rs"]
mod data;
#[path = "../support/mod.rs"]
mod support;

mod family;
mod flagai;
mod torch;
mod traps;

use aquila::base::dtype::DType;
use aquila::model::names::{BIAS_ROLES, LAYER_ROLES, Naming};
use aquila::model::weights::Role;
use aquila::model::{Checkpoint, TokenizerSource};
use aquila::open::{self, LoadOptions};
use aquila::text::GgufVocab;
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use support::formats::{GgufValue, GgufWriter};
use support::{TempDir, TinyModel, TinyTokenizer, TinyType, tokenizer};

/// The makers are themselves checked against the crates of the formats.
#[test]
fn the_small_models_are_valid() {
    let dir = TempDir::new();
    let model = TinyModel { shards: 2, ..TinyModel::default() };
    model.write_dir(dir.path());
    let mut names = Vec::new();
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let bytes = std::fs::read(dir.join(shard)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        names.extend(file.names().into_iter().map(String::from));
    }
    assert_eq!(names.len(), 2 * 9 + 3);
    let tokens = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    assert_eq!(tokens.get_vocab_size(true), tokenizer::VOCAB);
    let ids = tokens.encode("hello world 你好</s>", false).unwrap();
    assert_eq!(ids.get_ids(), [260, 265, 221, 272, tokenizer::EOS as u32]);
}

/// Every weight of the checkpoint has exactly the values that were written.
fn assert_same(model: &TinyModel, checkpoint: &Checkpoint) {
    let written: HashMap<String, Vec<f32>> =
        model.tensors().into_iter().map(|t| (t.name, t.values)).collect();
    let mut seen = 0;
    let mut compare = |layer: usize, role: Role| {
        let name = Naming::HuggingFace.tensor(layer, role);
        let Some(weight) = checkpoint.weights.get(layer, role) else {
            assert!(!written.contains_key(&name), "{name} was not read");
            return;
        };
        let mut values = vec![0.0; weight.rows * weight.cols];
        for (row, out) in values.chunks_mut(weight.cols).enumerate() {
            weight.row_f32(row, out);
        }
        assert!(values == written[&name], "{name} differs");
        seen += 1;
    };
    for role in [Role::Embedding, Role::FinalNorm, Role::Head] {
        compare(0, role);
    }
    for layer in 0..model.layers {
        for role in LAYER_ROLES.into_iter().chain(BIAS_ROLES) {
            compare(layer, role);
        }
    }
    assert_eq!(seen, written.len());
}

fn assert_spec(model: &TinyModel, checkpoint: &Checkpoint) {
    let spec = &checkpoint.spec;
    assert_eq!((spec.layers, spec.hidden, spec.heads), (model.layers, model.hidden, model.heads));
    assert_eq!((spec.kv_heads, spec.head_dim, spec.ffn), (model.kv_heads, model.head_dim, model.ffn));
    assert_eq!((spec.vocab, spec.context, spec.tied), (model.vocab, model.context, model.tied));
    assert_eq!((spec.norm_eps, spec.rope.theta), (model.eps as f32, model.theta as f32));
    if !model.biases {
        assert_eq!(checkpoint.parameters(), spec.parameters());
    }
}

#[test]
fn every_format_gives_the_same_weights() {
    let variants = [
        TinyModel::default(),
        TinyModel { dtype: TinyType::F16, tied: true, head_dim: 32, kv_heads: 1, ..TinyModel::default() },
        TinyModel { dtype: TinyType::Bf16, biases: true, heads: 3, kv_heads: 3, ..TinyModel::default() },
        TinyModel { theta: 500000.0, eps: 1e-5, vocab: 300, layers: 3, ..TinyModel::default() },
    ];
    for (number, model) in variants.into_iter().enumerate() {
        for shards in [1, 3] {
            let dir = TempDir::new();
            let model = TinyModel { shards, seed: number as u64, ..model.clone() };
            model.write_dir(dir.path());
            for no_mmap in [false, true] {
                let checkpoint = Checkpoint::open(dir.path(), no_mmap).unwrap();
                assert_spec(&model, &checkpoint);
                assert_same(&model, &checkpoint);
                assert_eq!(checkpoint.warnings, Vec::<String>::new());
                let embedding = checkpoint.weights.get(0, Role::Embedding).unwrap();
                assert_eq!(embedding.pieces[0].bytes.is_mapped(), !no_mmap);
            }
        }
        let dir = TempDir::new();
        let path = dir.join("tiny.gguf");
        // The format stores vectors as f32, so they are compared before they are rounded.
        let model = TinyModel { dtype: TinyType::F32, ..model };
        model.write_gguf(&path);
        for place in [path.as_path(), dir.path()] {
            let checkpoint = Checkpoint::open(place, false).unwrap();
            assert_spec(&model, &checkpoint);
            assert_same(&model, &checkpoint);
            assert_eq!(checkpoint.warnings, Vec::<String>::new());
        }
    }
}

/// As llama.cpp reads these keys: a factor without a type is linear, "none" switches it off, and the newer key counts.
#[test]
fn every_form_of_rope_scaling_in_gguf() {
    use aquila::model::spec::RopeScaling::{Linear, None};
    let (kind, factor, old) =
        ("llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear");
    let text = |text: &str| GgufValue::Str(text.into());
    for (keys, expected) in [
        (vec![], None),
        (vec![(kind, text("linear")), (factor, GgufValue::F32(4.0))], Linear { factor: 4.0 }),
        (vec![(factor, GgufValue::F32(4.0))], Linear { factor: 4.0 }),
        (vec![(old, GgufValue::F32(2.0))], Linear { factor: 2.0 }),
        (vec![(factor, GgufValue::F32(4.0)), (old, GgufValue::F32(2.0))], Linear { factor: 4.0 }),
        (vec![(kind, text("linear")), (factor, GgufValue::F32(1.0))], None),
        (vec![(kind, text("none")), (factor, GgufValue::F32(4.0))], None),
        (vec![(kind, text("none")), (old, GgufValue::F32(4.0))], None),
    ] {
        let dir = TempDir::new();
        let mut gguf = TinyModel::default().gguf();
        for (key, value) in &keys {
            gguf.set(key, value.clone());
        }
        std::fs::write(dir.join("a.gguf"), gguf.bytes()).unwrap();
        let checkpoint = Checkpoint::open(&dir.join("a.gguf"), false).unwrap();
        assert_eq!(checkpoint.spec.rope.scaling, expected, "{keys:?}");
    }
}

#[test]
fn a_gguf_vocabulary_is_whole_or_absent() {
    let read = |change: &dyn Fn(&mut GgufWriter)| {
        let dir = TempDir::new();
        let mut gguf =
            TinyModel { tokenizer: TinyTokenizer::Json, vocab: 300, ..TinyModel::default() }.gguf();
        change(&mut gguf);
        std::fs::write(dir.join("a.gguf"), gguf.bytes()).unwrap();
        let checkpoint = Checkpoint::open(&dir.join("a.gguf"), false).unwrap();
        let TokenizerSource::Gguf(gguf) = &checkpoint.tokenizer else { panic!("no GGUF") };
        GgufVocab::read(gguf)
    };
    assert!(read(&|_| ()).unwrap().is_some());
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        let error = read(&|gguf| gguf.unset(key)).unwrap_err();
        assert!(error.status == aquila::Status::Format, "{error}");
        assert!(error.message.contains(key) && error.message.contains("missing"), "{error}");
    }
    for none in ["none", "no_vocab"] {
        let model = GgufValue::Str(none.into());
        assert_eq!(read(&|gguf| gguf.set("tokenizer.ggml.model", model.clone())).unwrap(), None);
    }
}

#[test]
fn a_head_that_nobody_mentions_is_pointed_out() {
    let dir = TempDir::new();
    TinyModel { tied: true, ..TinyModel::default() }.write_dir(dir.path());
    let path = dir.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("tie_word_embeddings").expect("it is stated");
    std::fs::write(&path, config.to_string()).unwrap();
    let checkpoint = Checkpoint::open(dir.path(), false).unwrap();
    assert!(checkpoint.spec.tied);
    let [warning] = &checkpoint.warnings[..] else { panic!("{:?}", checkpoint.warnings) };
    assert!(warning.contains("lm_head.weight") && warning.contains("tie_word_embeddings"), "{warning}");
}

#[test]
fn files_stay_usable_after_the_checkpoint_and_the_directory_are_gone() {
    let dir = TempDir::new();
    TinyModel::default().write_dir(dir.path());
    let weights = Checkpoint::open(dir.path(), false).unwrap().weights;
    drop(dir);
    let mut row = [0.0; 64];
    weights.need(0, Role::Embedding).unwrap().row_f32(3, &mut row);
    assert!(row.iter().any(|&x| x != 0.0));
}

/// The Ascend guide makes its directories with `cp -s`: every file a symbolic link.
#[test]
fn links_and_a_single_file_are_followed() {
    let (real, linked) = (TempDir::new(), TempDir::new());
    let model = TinyModel { tokenizer: TinyTokenizer::VocabMerges, ..TinyModel::default() };
    model.write_dir(real.path());
    for entry in std::fs::read_dir(real.path()).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), linked.path().join(entry.file_name())).unwrap();
    }
    for path in [linked.path().to_path_buf(), linked.join("model.safetensors")] {
        let checkpoint = Checkpoint::open(&path, false).unwrap();
        assert_same(&model, &checkpoint);
        let TokenizerSource::Files(files) = &checkpoint.tokenizer else { panic!("files") };
        assert_eq!(files.kind(), Some("vocab.json and merges.txt"));
        assert_eq!(checkpoint.ids.eos, [tokenizer::EOS as u32]);
        assert_eq!(checkpoint.ids.bos, Some(tokenizer::CLS as u32));
    }
}

/// A link's own name counts, and so does the repository's in a cache of the Hugging Face hub.
#[test]
fn a_model_has_the_names_of_its_path() {
    let dir = TempDir::new();
    let (blobs, hub) = (dir.join("blobs"), dir.join("models--BAAI--AquilaChat2-7B/snapshots/9c76e143"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&hub).unwrap();
    TinyModel::default().write_gguf(&blobs.join("0123abcd"));
    std::os::unix::fs::symlink(blobs.join("0123abcd"), hub.join("chat-f16.gguf")).unwrap();
    let names = |path: &Path| Checkpoint::open(path, false).unwrap().names;
    assert_eq!(names(&blobs.join("0123abcd")), ["0123abcd", "tiny"]);
    let repository = "models--BAAI--AquilaChat2-7B";
    assert_eq!(names(&hub.join("chat-f16.gguf")), ["chat-f16", "0123abcd", repository, "tiny"]);
    TinyModel::default().write_dir(&hub);
    assert_eq!(names(&hub)[..2], ["9c76e143", repository]);
    std::os::unix::fs::symlink(&hub, dir.join("AquilaChat2-34B")).unwrap();
    assert_eq!(names(&dir.join("AquilaChat2-34B"))[..2], ["AquilaChat2-34B", "9c76e143"]);
}

#[test]
fn buffers_and_extra_tensors_are_left_alone() {
    let dir = TempDir::new();
    let model = TinyModel::default();
    model.write_dir(dir.path());
    let path = dir.join("model.safetensors");
    let file = std::fs::read(&path).unwrap();
    let header_end = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(file[8..header_end].to_vec()).unwrap();
    let data = &file[header_end..];
    let (a, b) = (data.len(), data.len() + 32);
    let extra = format!(
        ",\"model.layers.0.self_attn.rotary_emb.inv_freq\":{{\"dtype\":\"I64\",\"shape\":[4],\
         \"data_offsets\":[{a},{b}]}},\"odd\":{{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[{b},{}]}}}}",
        b + 8
    );
    let header = format!("{}{extra}", header.trim_end().strip_suffix('}').unwrap());
    let data = [data, &[0; 40]].concat();
    std::fs::write(&path, support::formats::safetensors_with(&header, &data)).unwrap();
    let checkpoint = Checkpoint::open(dir.path(), false).unwrap();
    assert_same(&model, &checkpoint);
    assert_eq!(checkpoint.warnings.len(), 1, "{:?}", checkpoint.warnings);
    assert!(checkpoint.warnings[0].contains("1 tensors are not used, the first is odd"));
}

#[test]
fn quantised_weights_are_read_in_place() {
    let dir = TempDir::new();
    let model = TinyModel { tokenizer: TinyTokenizer::None, ..TinyModel::default() };
    let mut gguf = model.gguf();
    for tensor in &mut gguf.tensors {
        if tensor.name.contains("attn_q.weight") || tensor.name == "token_embd.weight" {
            tensor.kind = 8; // q8_0: a scale of 2 and the codes 0 to 31 in every block
            let block: Vec<u8> = half::f16::from_f32(2.0).to_le_bytes().into_iter().chain(0..32).collect();
            tensor.data = block.repeat(tensor.shape.iter().product::<usize>() / 32);
        }
    }
    std::fs::write(dir.join("tiny.gguf"), gguf.bytes()).unwrap();
    let checkpoint = Checkpoint::open(&dir.join("tiny.gguf"), false).unwrap();
    let query = checkpoint.weights.need(1, Role::Query).unwrap();
    assert_eq!(query.dtype(), Some(DType::Q8_0));
    let mut row = [0.0; 64];
    query.row_f32(5, &mut row);
    assert_eq!((row[0], row[1], row[31], row[32]), (0.0, 2.0, 62.0, 0.0));
    let types = &checkpoint.facts.iter().find(|(name, _)| *name == "weights").unwrap().1;
    assert_eq!(types, "18 f32, 3 q8_0");
}

#[test]
fn the_scan_names_the_first_number_that_is_none() {
    let dir = TempDir::new();
    TinyModel { tied: true, ..TinyModel::default() }.write_dir(dir.path());
    let path = dir.join("model.safetensors");
    let open = |path: &Path| Checkpoint::open(path, false).unwrap();
    open(&path).scan_finite(|_, _| ControlFlow::Continue(())).unwrap();
    let stopped = open(&path).scan_finite(|_, _| ControlFlow::Break(())).unwrap_err();
    assert_eq!(stopped.status, aquila::Status::Cancelled);
    let mut file = std::fs::read(&path).unwrap();
    let data = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    file[data + (3 * 64 + 5) * 4..][..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    std::fs::write(&path, file).unwrap();
    let error = open(&path).scan_finite(|_, _| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.status, aquila::Status::Format);
    let expected = "model.safetensors: tensor model.embed_tokens.weight: element [3, 5]";
    assert!(error.message.starts_with(expected) && error.message.contains("-inf"), "{error}");
}

#[test]
fn a_tokenizer_with_more_ids_than_rows_is_refused() {
    let dir = TempDir::new();
    TinyModel::default().write_dir(dir.path());
    let checkpoint = Checkpoint::open(dir.path(), false).unwrap();
    checkpoint.check_vocab(288).unwrap();
    let error = checkpoint.check_vocab(289).unwrap_err();
    assert!(error.message.contains("model.safetensors: tensor model.embed_tokens.weight"), "{error}");
    assert!(error.message.contains("289 ids, found 288"), "{error}");
}

/// With AQUILA_LOAD_NO_MMAP the files are read into private memory. The plan did not count them within a
/// budget, nor those that weights are only converted from.
#[test]
fn copied_weights_are_private_in_the_plan() {
    let dir = TempDir::new();
    TinyModel { dtype: TinyType::F16, ..TinyModel::default() }.write_dir(dir.path());
    let plan = |options: &LoadOptions| open::plan(dir.path(), options).unwrap();
    let mapped = LoadOptions { device: "cpu".into(), kv_memory: 1 << 20, ..LoadOptions::default() };
    let copied = LoadOptions { no_mmap: true, ..mapped.clone() };
    let (in_place, copy) = (plan(&mapped), plan(&copied));
    assert!(in_place.memory.weight_bytes_mapped > 100_000, "{:?}", in_place.memory);
    assert_eq!(copy.memory.weight_bytes_mapped, 0);
    let more = copy.memory.private_bytes() - in_place.memory.private_bytes();
    assert_eq!(more, in_place.weight_bytes);

    let wide = |options: &LoadOptions| plan(&LoadOptions { dtype: Some("f32".into()), ..options.clone() });
    let more = wide(&copied).memory.private_bytes() - wide(&mapped).memory.private_bytes();
    assert_eq!(more, in_place.weight_bytes, "both the copies and what they are converted to");

    // A budget with room for all but half of the copies.
    let host_memory = in_place.memory.private_bytes() + in_place.weight_bytes / 2;
    assert_eq!(plan(&LoadOptions { host_memory, ..mapped }).memory.refusal, None);
    let options = LoadOptions { host_memory, ..copied };
    let refusal = plan(&options).memory.refusal.expect("a refusal");
    assert!(refusal.contains("private weights"), "{refusal}");
    let error = open::load(dir.path(), &options, &mut |_, _, _| ControlFlow::Continue(())).err().unwrap();
    assert_eq!(error.status, aquila::Status::NoMemory);
}
