//! What an Aquila is: the config, the decoder spec that every backend runs, the names of its
//! tensors in each kind of checkpoint, and the weight source that hands them out.

pub mod assemble;
pub mod checkpoint;
pub mod config;
pub mod cut;
pub mod facts;
pub mod family;
pub mod fields;
pub mod flagai_config;
pub mod gguf_config;
pub mod int8;
pub mod names;
pub mod spec;
pub mod verify;
pub mod weights;

pub use checkpoint::{Checkpoint, TokenizerSource};
