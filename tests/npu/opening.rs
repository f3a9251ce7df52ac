//! Choosing devices and types: what works, and what is refused with which words.

use crate::simulator::{CARDS, expect_clean, in_child, is_child};
use crate::support::{TempDir, TinyModel, TinyType};
use aquila::engine::params::{GenParams, Input};
use aquila::open::{self, LoadOptions};
use aquila::{Error, Status};
use std::ops::ControlFlow;
use std::path::Path;

fn tiny(change: impl FnOnce(&mut TinyModel)) -> TempDir {
    let mut model = TinyModel::default();
    change(&mut model);
    let dir = TempDir::new();
    model.write_dir(dir.path());
    dir
}

fn options(device: &str, change: impl FnOnce(&mut LoadOptions)) -> LoadOptions {
    let mut options = LoadOptions { device: device.into(), max_batch: 2, ..LoadOptions::default() };
    change(&mut options);
    options
}

fn load(model: &Path, options: &LoadOptions) -> Result<aquila::engine::Engine, Error> {
    open::load(model, options, &mut |_, _, _| ControlFlow::Continue(()))
}

fn refused(model: &Path, options: &LoadOptions, status: Status, words: &[&str]) {
    let error = load(model, options).map(drop).unwrap_err();
    assert_eq!(error.status, status, "{error}");
    for word in words {
        assert!(error.message.contains(word), "{word:?}: {error}");
    }
}

#[test]
fn what_an_npu_cannot_do_is_refused_or_left_to_the_cpu() {
    if !is_child() {
        for card in CARDS {
            let settings = [("AQUILA_SIM_SOC", card), ("AQUILA_SIM_DEVICES", "2"), ("NPU_TEST_CARD", card)];
            in_child("opening::what_an_npu_cannot_do_is_refused_or_left_to_the_cpu", &settings);
        }
        return;
    }
    let dir = tiny(|_| {});
    let model = dir.path();
    let is_310p = std::env::var("NPU_TEST_CARD").unwrap().contains("310P");

    // "auto" takes the card, several are named, and an engine says what it runs on.
    let engine = load(model, &options("", |_| {})).unwrap();
    assert_eq!(engine.info().device, "npu:0");
    let engine = load(model, &options("npu:1,0", |_| {})).unwrap();
    assert_eq!((engine.info().device.as_str(), engine.info().tensor_parallel), ("npu:1,0", 2));
    drop(engine);
    let plan = open::plan(model, &options("npu:0", |_| {})).unwrap();
    let facts = &plan.memory.facts;
    assert!(facts.iter().any(|(name, fact)| *name == "npu" && fact.contains("Atlas")), "{facts:?}");
    let prompts = facts.iter().find(|(name, _)| *name == "prompts").unwrap();
    assert_eq!(prompts.1.contains("whole"), is_310p, "{prompts:?}");

    // Of the first version's clamp it says what is done.
    assert!(!facts.iter().any(|(name, _)| *name == "score clamp"), "{facts:?}");
    let first = tiny(|model| model.architecture = "AquilaModel");
    let plan = open::plan(first.path(), &options("npu:0", |_| {})).unwrap();
    let clamp = plan.memory.facts.iter().find(|(name, _)| *name == "score clamp").unwrap();
    let done = if is_310p { "none: ATB has no operation" } else { "in attention within prompts" };
    assert!(clamp.1.starts_with(done) && clamp.1.contains("±1024"), "{clamp:?}");

    // What is not its type is the CPU's where the choice is the library's, and an error where it is the caller's.
    let q8 = |options: &mut LoadOptions| options.dtype = Some("q8".into());
    assert_eq!(load(model, &options("auto", q8)).unwrap().info().device, "cpu");
    refused(model, &options("npu:0", q8), Status::Unsupported, &["Q8", "f16, bf16 or w8a8"]);
    let f32 = |options: &mut LoadOptions| options.dtype = Some("f32".into());
    refused(model, &options("npu:0", f32), Status::Unsupported, &["F32"]);
    let i8 = |options: &mut LoadOptions| options.kv_dtype = Some("i8".into());
    refused(model, &options("npu:0", i8), Status::Unsupported, &["kv_dtype"]);
    let bf16 = |options: &mut LoadOptions| options.dtype = Some("bf16".into());
    if is_310p {
        refused(model, &options("npu:0", bf16), Status::Unsupported, &["bf16", "Ascend310P3"]);
    } else {
        load(model, &options("npu:0", bf16)).unwrap();
    }
    refused(model, &options("npu:2", |_| {}), Status::Argument, &["npu:2", "npu:0 to npu:1"]);
    refused(model, &options("npu:1,1", |_| {}), Status::Argument, &["stands twice"]);

    // Shapes.
    let narrow = tiny(|model| (model.head_dim, model.heads) = (8, 8));
    refused(
        narrow.path(),
        &options("npu:0", |_| {}),
        Status::Unsupported,
        &["heads of 8", "multiples of 16"],
    );
    let three = tiny(|model| (model.kv_heads, model.heads) = (1, 3));
    refused(three.path(), &options("npu:0,1", |_| {}), Status::Unsupported, &["3 heads", "2 ranks"]);

    // A bf16 checkpoint is converted where there is no bf16, and a number beyond f16 is named.
    let stored = tiny(|model| model.dtype = TinyType::Bf16);
    let plan = open::plan(stored.path(), &options("npu:0", |_| {})).unwrap();
    let arithmetic = plan.memory.facts.iter().find(|(name, _)| *name == "arithmetic").unwrap().1.clone();
    assert_eq!(arithmetic.contains("converted"), is_310p, "{arithmetic}");
    let path = stored.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last..].copy_from_slice(&half_bits(1e30));
    std::fs::write(&path, bytes).unwrap();
    if is_310p {
        refused(stored.path(), &options("npu:0", |_| {}), Status::Format, &["lm_head.weight", "65504"]);
    } else {
        load(stored.path(), &options("npu:0", |_| {})).unwrap();
    }
    expect_clean();
}

fn half_bits(value: f32) -> [u8; 2] {
    ((value.to_bits() >> 16) as u16).to_le_bytes()
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_anything_is_taken() {
    if !is_child() {
        let test = "opening::a_model_that_does_not_fit_is_refused_before_anything_is_taken";
        in_child(test, &[("AQUILA_SIM_MEMORY", "380000000")]);
        return;
    }
    let dir = tiny(|_| {});
    let error = load(dir.path(), &options("npu:0", |_| {})).map(drop).unwrap_err();
    assert_eq!(error.status, Status::DeviceMemory);
    for word in ["weights", "workspace", "KV cache", "363 MiB are free", "lower max_context"] {
        assert!(error.message.contains(word), "{word:?}: {error}");
    }
    assert_eq!(crate::simulator::total("aclrtMalloc"), 0);
    // Where the choice is the library's the CPU takes it.
    assert_eq!(load(dir.path(), &options("auto", |_| {})).unwrap().info().device, "cpu");
    expect_clean();
}

/// The caller may end a load, and everything is given back.
#[test]
fn a_load_may_be_abandoned() {
    if !is_child() {
        in_child("opening::a_load_may_be_abandoned", &[("AQUILA_SIM_DEVICES", "2")]);
        return;
    }
    let dir = tiny(|model| (model.layers, model.hidden, model.ffn) = (40, 512, 2048));
    for device in ["npu:0", "npu:0,1"] {
        let mut told = 0;
        let result = open::load(dir.path(), &options(device, |_| {}), &mut |_, done, total| {
            told += 1;
            assert!(done <= total);
            if told >= 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // A fast load may be over before it is told a second time.
        if let Err(error) = result {
            assert_eq!(error.status, Status::Cancelled, "{error}");
        }
        assert_eq!(crate::simulator::used(0), 0);
    }
    expect_clean();
}

/// A rank table of the engine's own devices brings the ranks together; another is refused before anything is taken.
#[test]
fn ranks_meet_by_a_rank_table() {
    const TEST: &str = "opening::ranks_meet_by_a_rank_table";
    if !is_child() {
        let files = TempDir::new();
        let of = |name: &str, devices: [u32; 2]| {
            let text = format!(
                r#"{{"version": "1.0", "server_count": "1", "status": "completed", "server_list": [{{"server_id": "a",
                "device": [{{"device_id": "{}", "rank_id": "0"}}, {{"device_id": "{}", "rank_id": "1"}}]}}]}}"#,
                devices[0], devices[1]
            );
            let path = files.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (good, others, turned) = (of("good", [2, 3]), of("others", [0, 1]), of("turned", [3, 2]));
        for card in CARDS {
            for (table, expected) in [(&good, "good"), (&others, "other devices"), (&turned, "turned")] {
                let settings = [
                    ("AQUILA_SIM_SOC", card),
                    ("AQUILA_SIM_DEVICES", "4"),
                    ("ASCEND_RT_VISIBLE_DEVICES", "2,3"),
                    ("RANK_TABLE_FILE", table),
                    ("NPU_TEST_TABLE", expected),
                ];
                in_child(TEST, &settings);
            }
        }
        return;
    }
    let dir = tiny(|_| {});
    // One device needs no table, whatever stands in it.
    load(dir.path(), &options("npu:0", |_| {})).unwrap();
    if std::env::var("NPU_TEST_TABLE").unwrap() != "good" {
        let before = crate::simulator::total("aclrtMalloc");
        let words = ["RANK_TABLE_FILE", "[2, 3]", "in the same order"];
        refused(dir.path(), &options("npu:0,1", |_| {}), Status::Argument, &words);
        assert_eq!(crate::simulator::total("aclrtMalloc"), before);
        return;
    }
    let tokens = |engine: &aquila::engine::Engine| {
        let params = GenParams { max_tokens: 6, ignore_eos: true, ..GenParams::default() };
        engine.generate(Input::Tokens(vec![3, 1, 4, 1, 5]), params).unwrap().tokens
    };
    let engine = load(dir.path(), &options("npu:0,1", |_| {})).unwrap();
    assert!(engine.info().executor.iter().any(|(name, _)| *name == "rank table"));
    let calls = ["HcclCommInitClusterInfo", "HcclGetRootInfo", "HcclCommInitRootInfo"];
    assert_eq!(calls.map(crate::simulator::total), [2, 0, 0]);
    let cpu = load(dir.path(), &options("cpu", |options| options.dtype = Some("f32".into()))).unwrap();
    assert_eq!(tokens(&engine), tokens(&cpu));
    drop(engine);
    expect_clean();
}
