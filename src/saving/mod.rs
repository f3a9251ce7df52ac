//! Tensors to files: the other direction of `loading`.
//!
//! A format is a [`Layout`]: from names, types and shapes alone it knows where each tensor's bytes will lie and how long the
//! file will be. So disk space is taken before the work, tensors are written as they come and in pieces, and no more than a
//! piece of one is ever in memory.

mod gguf;
mod layout;
mod safetensors;
mod shards;
mod tensor_file;
mod torch_bin;

pub use gguf::{GgufLayout, GgufValue};
pub use layout::{Layout, NewTensor};
pub use shards::{Shards, WeightFormat, copy_small, write_json, write_small};
pub use tensor_file::TensorFile;
pub use torch_bin::TorchLayout;
