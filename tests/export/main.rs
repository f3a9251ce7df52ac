//! Checkpoints out of checkpoints: what was cut, joined and converted is what it was before.

#[path = "../support/mod.rs"]
mod support;

mod convert;
mod files;
mod split;

use aquila::model::Checkpoint;
use aquila::model::names::{BIAS_ROLES, LAYER_ROLES};
use aquila::model::weights::Role;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// A progress that nobody watches.
fn go_on(_: &str, _: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Every number of every weight, by its place.
fn values(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let mut found = BTreeMap::new();
    let outside = [Role::Embedding, Role::FinalNorm, Role::Head].map(|role| (0, role));
    let inside = (0..checkpoint.spec.layers)
        .flat_map(|layer| LAYER_ROLES.into_iter().chain(BIAS_ROLES).map(move |role| (layer, role)));
    for (layer, role) in outside.into_iter().chain(inside) {
        let Some(weight) = checkpoint.weights.get(layer, role) else { continue };
        let mut all = vec![0.0; weight.rows * weight.cols];
        all.chunks_exact_mut(weight.cols).enumerate().for_each(|(row, out)| weight.row_f32(row, out));
        found.insert(format!("{layer} {role:?}"), all);
    }
    found
}

/// The same decoder with the same numbers.
fn assert_same(found: &Path, wanted: &Path) {
    let [mut found, wanted] = [found, wanted].map(|path| Checkpoint::open(path, false).unwrap());
    if found.config.is_none() {
        // What FlagAI's keys and GGUF's cannot say; with small numbers it changes nothing.
        found.spec.score_clamp = wanted.spec.score_clamp;
    }
    assert_eq!(found.spec, wanted.spec);
    let [found, wanted] = [found, wanted].map(|checkpoint| values(&checkpoint));
    assert_eq!(found.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
    for (name, numbers) in &wanted {
        assert!(found[name] == *numbers, "{name}");
    }
}

/// The names in a directory, hidden ones too; none where there is no such directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
