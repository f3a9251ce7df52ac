//! One form into another: numbers, tokenizer, and what cannot be said there.

use crate::support::{TempDir, TinyModel, TinyTokenizer, TinyType};
use crate::{assert_same, go_on, names, values};
use aquila::Status;
use aquila::base::dtype::DType;
use aquila::engine::params::{GenParams, Input};
use aquila::export::{ConvertOptions, SplitOptions, Target, WeightFormat, convert, split};
use aquila::model::Checkpoint;
use aquila::model::spec::{DecoderSpec, RopeScaling};
use aquila::model::weights::Role;
use aquila::open::{self, LoadOptions};
use aquila::text::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;

const TARGETS: [Target; 3] =
    [Target::Directory(WeightFormat::Safetensors), Target::Directory(WeightFormat::TorchBin), Target::Gguf];
/// Text with everything that tokenizers differ in: digits, blanks, quotes, Chinese, special tokens, an emoji.
const TEXT: &str = "Hello  world, it's 2023年!\n\n 你好，。</s> [CLS]🙂 naïve\t x";

const EVERYTHING: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };

fn tiny(change: impl FnOnce(&mut TinyModel)) -> TempDir {
    let mut model = TinyModel::default();
    change(&mut model);
    let dir = TempDir::new();
    model.write_dir(dir.path());
    dir
}

fn to(target: Target) -> ConvertOptions {
    ConvertOptions { target, ..ConvertOptions::default() }
}

/// The name that a target gets here.
fn place(dir: &TempDir, target: Target, round: usize) -> std::path::PathBuf {
    dir.join(&format!("{round}{}", if target == Target::Gguf { ".gguf" } else { "" }))
}

fn answer(model: &Path) -> String {
    let options = LoadOptions { dtype: Some("f32".into()), device: "cpu".into(), ..LoadOptions::default() };
    let engine = open::load(model, &options, &mut go_on).unwrap();
    let params = GenParams { max_tokens: 16, logprobs: 2, ignore_eos: true, ..GenParams::default() };
    let answer = engine.generate(Input::Text(TEXT.into()), params).unwrap();
    format!("{:?} {:?} {:?}", answer.tokens, answer.text, answer.logprobs)
}

/// Whether a model has biases or a rotary scaling.
fn wanted_by_others(spec: &DecoderSpec, path: &Path) -> bool {
    let biases = Checkpoint::open(path, false).unwrap().weights.get(0, Role::QueryBias).is_some();
    biases || spec.rope.scaling != RopeScaling::None
}

/// From every form into every other and on to a third one: the same numbers, tokens and text. Biases stand in the order of
/// the rows of their matrices, which GGUF has another one of.
#[test]
fn every_form_into_every_other() {
    for change in [
        (|_: &mut TinyModel| {}) as fn(&mut TinyModel),
        |model| (model.biases, model.tied, model.dtype) = (true, true, TinyType::F16),
        |model| (model.dtype, model.heads, model.kv_heads) = (TinyType::Bf16, 6, 3),
        |model| (model.rope_scaling, model.theta) = (json!({"type": "linear", "factor": 4.0}), 5e5),
    ] {
        let source = tiny(change);
        let wanted = answer(source.path());
        let spec = Checkpoint::open(source.path(), false).unwrap().spec;
        // FlagAI's code has neither.
        let plain = !wanted_by_others(&spec, source.path());
        let targets = TARGETS.into_iter().filter(|&target| plain || target != Target::FlagAi);
        for first in targets.clone() {
            let dir = TempDir::new();
            let one = place(&dir, first, 1);
            convert(source.path(), &one, &to(first), &mut go_on).unwrap();
            assert_eq!(answer(&one), wanted, "{first:?}");
            for second in targets.clone() {
                let two = place(&dir, second, 2);
                convert(&one, &two, &to(second), &mut go_on).unwrap();
                assert_eq!(answer(&two), wanted, "{first:?} {second:?}");
                assert_same(&two, source.path());
                if two.is_dir() {
                    std::fs::remove_dir_all(&two).unwrap();
                } else {
                    std::fs::remove_file(&two).unwrap();
                }
            }
        }
    }
}

/// f32 as 16 bits and as bytes with scales, and as little as it says changed.
#[test]
fn types_are_converted_and_kept() {
    let source = tiny(|_| {});
    let exact = values(&Checkpoint::open(source.path(), false).unwrap());
    for (target, dtype, relative) in [
        (Target::Gguf, DType::F32, 0.0),
        (Target::Gguf, DType::F16, 1.0 / 2048.0),
        (Target::Gguf, DType::BF16, 1.0 / 256.0),
        (Target::Gguf, DType::Q8_0, 1.0 / 127.0),
        (TARGETS[0], DType::F16, 1.0 / 2048.0),
        (TARGETS[1], DType::BF16, 1.0 / 256.0),
    ] {
        let dir = TempDir::new();
        let path = place(&dir, target, 1);
        let options = ConvertOptions { dtype: Some(dtype), ..to(target) };
        convert(source.path(), &path, &options, &mut go_on).unwrap();
        let checkpoint = Checkpoint::open(&path, false).unwrap();
        for (name, found) in values(&checkpoint) {
            let largest = exact[&name].iter().fold(0f32, |most, v| most.max(v.abs()));
            let error = found.iter().zip(&exact[&name]).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(error <= largest * relative, "{dtype} {name}: {error} of {largest}");
        }
        // Vectors stay f32 in GGUF, for every reader wants them so.
        let types: Vec<_> = checkpoint.weights.iter().map(|(_, w)| (w.rows, w.dtype().unwrap())).collect();
        let norm = if target == Target::Gguf { DType::F32 } else { dtype };
        assert!(
            types.iter().all(|&(rows, found)| found == if rows == 1 { norm } else { dtype }),
            "{types:?}"
        );
    }
}

/// Tokenizers of every kind of file give the ids that they gave before, and begin and end stay what they were.
#[test]
fn tokenizers_come_along() {
    for kind in [TinyTokenizer::Json, TinyTokenizer::VocabMerges] {
        let source = tiny(|model| model.tokenizer = kind);
        let before = Tokenizer::open(source.path()).unwrap();
        let dir = TempDir::new();
        let gguf = dir.join("m.gguf");
        convert(source.path(), &gguf, &to(Target::Gguf), &mut go_on).unwrap();
        let back = dir.join("back");
        convert(&gguf, &back, &to(TARGETS[0]), &mut go_on).unwrap();
        let after = Tokenizer::open(&back).unwrap();
        let ids = |tokenizer: &Tokenizer| tokenizer.encode_prompt(TEXT, EVERYTHING).unwrap();
        assert_eq!(ids(&after), ids(&before));
        assert_eq!((after.bos(), after.eos(), after.vocab()), (before.bos(), before.eos(), before.vocab()));
        assert!((0..before.vocab() as u32).all(|id| after.token_bytes(id) == before.token_bytes(id)
            && after.is_special(id) == before.is_special(id)));
        // The crate itself reads the written file and means the same.
        let theirs = tokenizers::Tokenizer::from_file(back.join("tokenizer.json")).unwrap();
        assert_eq!(theirs.encode(TEXT, true).unwrap().get_ids(), ids(&before));
    }
}

/// One in tokenizer_config.json, several there, and those in files of their own: none is lost on the way into GGUF and back,
/// into a directory, or into parts.
#[test]
fn chat_templates_come_along() {
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let one = json!(template);
    let several =
        json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": template}]);
    for (config, in_files, many) in [(one, false, false), (several, false, true), (Value::Null, true, true)] {
        let source = tiny(|_| {});
        let path = source.join("tokenizer_config.json");
        let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        tokenizer["chat_template"] = config;
        std::fs::write(&path, tokenizer.to_string()).unwrap();
        if in_files {
            std::fs::write(source.join("chat_template.jinja"), template).unwrap();
            std::fs::create_dir(source.join("additional_chat_templates")).unwrap();
            std::fs::write(source.join("additional_chat_templates/tool_use.jinja"), "tools").unwrap();
        }
        let dir = TempDir::new();
        let [gguf, back, copy, cut] = ["m.gguf", "back", "copy", "cut"].map(|name| dir.join(name));
        convert(source.path(), &gguf, &to(Target::Gguf), &mut go_on).unwrap();
        convert(&gguf, &back, &to(TARGETS[1]), &mut go_on).unwrap();
        convert(source.path(), &copy, &to(TARGETS[0]), &mut go_on).unwrap();
        let options = SplitOptions { world_size: 2, output: Some(cut.clone()), ..SplitOptions::default() };
        split(source.path(), &options, &mut go_on).unwrap();
        for model in [source.path(), &gguf, &back, &copy, &cut] {
            let options = LoadOptions { device: "cpu".into(), ..LoadOptions::default() };
            let engine = open::load(model, &options, &mut go_on).unwrap();
            let render = |tools: Option<&str>| {
                let messages = r#"[{"role": "user", "content": "hi"}]"#;
                engine.chat_template().unwrap().render(messages, tools, false).unwrap().text
            };
            assert_eq!(render(None), "<user>hi", "{}", model.display());
            let tools = r#"[{"type": "function", "function": {"name": "f"}}]"#;
            let wanted = if many { "tools" } else { "<user>hi" };
            assert_eq!(render(Some(tools)), wanted, "{}", model.display());
        }
    }
}

/// A model whose files name several ids that end a text: GGUF has one.
#[test]
fn further_ends_are_told() {
    let source = tiny(|_| {});
    let special = Tokenizer::open(source.path()).unwrap().token_id("[CLS]").unwrap();
    let eos = Tokenizer::open(source.path()).unwrap().eos().unwrap();
    let text = json!({"eos_token_id": [eos, special, 2]}).to_string();
    std::fs::write(source.join("generation_config.json"), text).unwrap();
    let dir = TempDir::new();
    let report = convert(source.path(), &dir.join("m.gguf"), &to(Target::Gguf), &mut go_on).unwrap();
    // Not the ordinary token.
    assert!(report.warnings.iter().any(|w| w.contains(&format!("[{special}]"))), "{:?}", report.warnings);
}

#[test]
fn what_cannot_be_said_is_refused_and_nothing_is_replaced() {
    let dir = TempDir::new();
    let refused = |source: &Path, options: &ConvertOptions, status: Status, words: &str| {
        let before = names(dir.path());
        let error = convert(source, &dir.join("out"), options, &mut go_on).unwrap_err();
        assert!(error.status == status && error.message.contains(words), "{error}");
        assert_eq!(names(dir.path()), before);
    };
    let plain = tiny(|_| {});
    let q8 = |target| ConvertOptions { dtype: Some(DType::Q8_0), ..to(target) };
    refused(plain.path(), &q8(TARGETS[0]), Status::Argument, "only GGUF files hold q8_0");
    let narrow = tiny(|model| (model.hidden, model.heads, model.kv_heads, model.head_dim) = (48, 3, 3, 16));
    refused(
        narrow.path(),
        &q8(Target::Gguf),
        Status::Unsupported,
        "rows of 48 elements cannot be stored as q8_0",
    );
    let dynamic = tiny(|model| model.rope_scaling = json!({"type": "dynamic", "factor": 2.0}));
    refused(dynamic.path(), &to(Target::Gguf), Status::Unsupported, "no dynamic scaling");
    // It is there, and stays.
    std::fs::write(dir.join("out"), "mine").unwrap();
    for target in TARGETS {
        refused(plain.path(), &to(target), Status::Argument, "exists already");
    }
    assert_eq!(std::fs::read(dir.join("out")).unwrap(), b"mine");
}

/// The clamp of Aquila's first version has no word in GGUF: said, not kept silent.
#[test]
fn what_is_lost_is_told() {
    let source = tiny(|model| model.architecture = "AquilaModel");
    let dir = TempDir::new();
    let report = convert(source.path(), &dir.join("m.gguf"), &to(Target::Gguf), &mut go_on).unwrap();
    assert!(report.warnings.iter().any(|warning| warning.contains("±1024")), "{:?}", report.warnings);
    let report = convert(source.path(), &dir.join("dir"), &to(TARGETS[0]), &mut go_on).unwrap();
    assert!(report.warnings.is_empty());
    assert_same(&dir.join("dir"), source.path());
}
