//! Directories of FlagAI, BAAI's training code, and such as mix its layout with Hugging Face's.

use crate::assert_same;
use crate::support::torch::TorchForm;
use crate::support::{TempDir, TinyModel, TinyType, flagai, tokenizer};
use aquila::model::Checkpoint;
use aquila::model::names::Naming;
use aquila::model::spec::DecoderSpec;
use aquila::model::weights::{Role, RowMap};
use aquila::text::Tokenizer;
use std::path::Path;

fn fact<'a>(checkpoint: &'a Checkpoint, name: &str) -> &'a str {
    checkpoint.facts.iter().find(|(fact, _)| *fact == name).map_or("", |(_, value)| value)
}

fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open(dir, false).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

/// The converter that BAAI published takes `view(heads, D/2, 2, hidden).transpose(1, 2)` of q and k: row
/// `(head, half, i)` of Hugging Face is row `(head, i, half)` of FlagAI.
#[test]
fn rows_are_undone_as_the_published_converter_undoes_them() {
    let model = TinyModel { head_dim: 6, ..flagai::model() };
    let dir = TempDir::new();
    model.write_dir(dir.path());
    let spec = open(dir.path()).spec;
    let map = Naming::FlagAi.row_map(Role::Query, &spec);
    assert_eq!(map, RowMap::Interleaved { head_dim: 6 });
    let wanted: Vec<usize> = (0..12).map(|row| map.stored(row)).collect();
    assert_eq!(wanted, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    for role in [Role::Value, Role::Output, Role::Gate, Role::Embedding] {
        assert_eq!(Naming::FlagAi.row_map(role, &spec), RowMap::Identity);
    }
}

#[test]
fn every_form_gives_the_weights_of_the_model() {
    for model in [
        flagai::model(),
        TinyModel { kv_heads: 4, dtype: TinyType::F16, shards: 3, ..flagai::model() },
        TinyModel { kv_heads: 1, dtype: TinyType::Bf16, layers: 3, vocab: 300, ..flagai::model() },
    ] {
        let dirs = [TempDir::new(), TempDir::new(), TempDir::new()];
        model.write_flagai_dir(dirs[0].path(), TorchForm::Zip);
        model.write_flagai_dir(dirs[1].path(), TorchForm::Legacy);
        model.write_flagai_safetensors(dirs[2].path());
        for dir in &dirs {
            let checkpoint = open(dir.path());
            assert_same(&model, &checkpoint);
            let DecoderSpec { heads, kv_heads, ffn, norm_eps, context, score_clamp, tied, .. } =
                checkpoint.spec;
            assert_eq!((heads, kv_heads, ffn, context), (model.heads, model.kv_heads, 192, 128));
            assert_eq!((norm_eps, score_clamp, tied), (1e-5, Some(1024.0), false));
            assert_eq!(checkpoint.warnings, Vec::<String>::new());
            assert_eq!(checkpoint.assumed, ["config.json: no rope_theta: 10000"]);
            assert_eq!(fact(&checkpoint, "layout"), "FlagAI");
            assert_eq!(fact(&checkpoint, "tokenizer"), "vocab.json and merges.txt");
        }
    }
}

/// The order of rows goes with the names of the tensors, everything else with the keys of config.json.
#[test]
fn mixed_directories_load_where_everything_is_known() {
    let model = flagai::model();
    let (keys, names) = (TempDir::new(), TempDir::new());
    model.write_dir(keys.path());
    model.write_flagai_safetensors(names.path());
    let swap = |name: &str| {
        let (a, b) = (keys.join(name), names.join(name));
        let (left, right) = (std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        std::fs::write(a, right).unwrap();
        std::fs::write(b, left).unwrap();
    };
    swap("model.safetensors");
    for (dir, layout, clamp) in [
        (&keys, "config.json of Hugging Face, tensors of FlagAI", None),
        (&names, "config.json of FlagAI, tensors of Hugging Face", Some(1024.0)),
    ] {
        let checkpoint = open(dir.path());
        assert_same(&model, &checkpoint);
        assert_eq!(fact(&checkpoint, "layout"), layout);
        assert_eq!(checkpoint.spec.score_clamp, clamp);
        let told =
            checkpoint.assumed.iter().any(|line| line.contains("the rows of q and k are in the order of"));
        assert!(told, "{:?}", checkpoint.assumed);
    }
}

#[test]
fn a_list_of_special_tokens_gives_the_ids_after_the_vocabulary() {
    let dir = TempDir::new();
    flagai::model().write_flagai_safetensors(dir.path());
    let read = || Tokenizer::open(dir.path()).unwrap();
    let tokens = read();
    assert_eq!(tokens.vocab(), tokenizer::VOCAB);
    for (at, text) in tokenizer::ADDED.iter().enumerate() {
        let id = (tokenizer::BASE + at) as u32;
        assert_eq!((tokens.token_id(text), tokens.is_special(id)), (Some(id), true), "{text}");
    }
    // What has an id keeps it, blank lines and what stands twice count for nothing.
    std::fs::write(dir.join("special_tokens.txt"), "<|endoftext|>\r\n\r\n[CLS]\r\n[CLS]\r\n").unwrap();
    let tokens = read();
    assert_eq!((tokens.vocab(), tokens.token_id("<|endoftext|>")), (tokenizer::BASE + 1, Some(0)));
    assert!(tokens.is_special(0) && tokens.is_special(tokenizer::BASE as u32));
    std::fs::write(dir.join("special_tokens.txt"), b"[CLS]\xff").unwrap();
    let error = Tokenizer::open(dir.path()).unwrap_err();
    assert!(
        error.status == aquila::Status::Format && error.message.contains("special_tokens.txt"),
        "{error}"
    );
    std::fs::write(dir.join("special_tokens.txt"), "a\n".repeat(4097)).unwrap();
    let error = Tokenizer::open(dir.path()).unwrap_err();
    assert!(error.message.contains("4097 special tokens, expected at most 4096"), "{error}");
}
