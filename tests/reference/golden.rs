//! Reading the reference outputs, and generating greedily for comparison.

use aquila::engine::Engine;
use aquila::engine::params::{Finish, GenParams, Input};
use aquila::open::{self, LoadOptions};
use aquila::text::EncodeOptions;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A greedy continuation.
#[derive(Deserialize)]
pub struct Run {
    pub prompt: String,
    pub prompt_ids: Vec<u32>,
    /// Ends with the end-of-sequence id where the model gave one.
    pub new_ids: Vec<u32>,
    pub text: String,
}

/// The path of a file of `tests/golden/`.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub fn read<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// f32 weights, arithmetic and cache, whatever the file holds.
pub fn f32_options() -> LoadOptions {
    LoadOptions {
        device: "cpu".into(),
        dtype: Some("f32".into()),
        kv_dtype: Some("f32".into()),
        max_context: 256,
        ..LoadOptions::default()
    }
}

pub fn load(model: &Path, options: &LoadOptions) -> Engine {
    open::load(model, options, &mut |_, _, _| ControlFlow::Continue(()))
        .unwrap_or_else(|e| panic!("{}: {e}", model.display()))
}

/// Continues the prompt of `run` greedily and compares every token, those of the prompt too.
pub fn check(engine: &Engine, run: &Run, eos: u32) {
    let bare = EncodeOptions { add_special: false, parse_special: true };
    let prompt = engine.tokenizer().and_then(|t| t.encode(&run.prompt, bare)).expect("tokens");
    assert_eq!(prompt, run.prompt_ids, "tokens of {:?}", run.prompt);

    let ended = run.new_ids.last() == Some(&eos);
    let expected = if ended { &run.new_ids[..run.new_ids.len() - 1] } else { &run.new_ids[..] };
    let params = GenParams {
        max_tokens: run.new_ids.len() as u32,
        no_add_special: true, // the reference prompts are bare
        show_special: true,
        ..GenParams::default()
    };
    let found = engine.generate(Input::Text(run.prompt.clone()), params).expect("a generation");
    assert_eq!(found.timings.prompt_tokens as usize, run.prompt_ids.len(), "tokens of {:?}", run.prompt);
    assert_eq!(found.tokens, expected, "after {:?}; as text {:?}", run.prompt, found.text);
    assert_eq!(found.finish, if ended { Finish::Eos } else { Finish::Length }, "after {:?}", run.prompt);
    // The reference shows the ending token too.
    assert!(run.text.starts_with(&found.text), "{:?} does not begin with {:?}", run.text, found.text);
}
