//! Models that were cut into files: each card takes its part, and a cut for another number of cards is refused.

use crate::simulator::{CARDS, expect_clean, in_child, is_child};
use crate::support::{TempDir, TinyModel};
use aquila::Status;
use aquila::engine::params::{GenParams, Input};
use aquila::export::{SplitOptions, split};
use aquila::open::{self, LoadOptions};
use std::ops::ControlFlow;
use std::path::Path;

fn answer(model: &Path, device: &str) -> Result<Vec<u32>, aquila::Error> {
    let options = LoadOptions { device: device.into(), max_batch: 1, ..LoadOptions::default() };
    let engine = open::load(model, &options, &mut |_, _, _| ControlFlow::Continue(()))?;
    let params = GenParams { max_tokens: 12, ignore_eos: true, ..GenParams::default() };
    Ok(engine.generate(Input::Tokens((1..40).collect()), params)?.tokens)
}

#[test]
fn each_card_takes_its_part() {
    if !is_child() {
        for card in CARDS {
            let settings = [("AQUILA_SIM_SOC", card), ("AQUILA_SIM_DEVICES", "4")];
            in_child("parts::each_card_takes_its_part", &settings);
        }
        return;
    }
    let model = TempDir::new();
    TinyModel { heads: 8, kv_heads: 2, ffn: 128, ..TinyModel::default() }.write_dir(model.path());
    // Two cards with a key head each, and four of which two hold the same one.
    for (world_size, devices) in [(2, "npu:0,1"), (4, "npu:0,1,2,3")] {
        let cut = TempDir::new();
        let options = SplitOptions { world_size, output: Some(cut.path().into()), ..SplitOptions::default() };
        split(model.path(), &options, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(answer(cut.path(), devices).unwrap(), answer(model.path(), devices).unwrap());
        for other in ["npu:0", if world_size == 2 { "npu:0,1,2,3" } else { "npu:0,1" }] {
            let error = answer(cut.path(), other).unwrap_err();
            assert_eq!(error.status, Status::Argument, "{error}");
            for words in [&format!("cut for {world_size} cards"), other, "aquila split"] {
                assert!(error.message.contains(words), "{words:?}: {error}");
            }
        }
        // Where the choice is the library's, the CPU joins it.
        assert_eq!(answer(cut.path(), "auto").unwrap().len(), 12);
    }
    expect_clean();
}
