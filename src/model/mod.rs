//! What an Aquila is: the config, the decoder spec that every backend runs, the names of its
//! tensors in each kind of checkpoint, and the weight source that hands them out.

pub mod spec;
pub mod weights;
