//! Whole models against what transformers computed for them: the files of `tests/golden/`, whose README
//! says how each was made.

#[path = "../support/data.rs"]
mod data;

mod golden;
mod quality;
#[path = "../support/quality.rs"]
mod shared_quality;
mod smollm2;
mod tiny;
