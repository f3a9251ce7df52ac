//! Untrusted bytes to checked tensors, and to saved sessions.
//!
//! Everything here treats a file as hostile: a number from a file is compared with the bytes that
//! exist before anything is sized by it, and what is left over or said twice is an error. What comes
//! out are [`tensor::TensorTable`]s: names, shapes and types whose ranges lie inside their file.

mod cursor;
pub mod file;
pub mod gguf;
pub mod index;
pub mod json;
pub mod modelslim;
pub mod packed;
pub mod quant;
pub mod safetensors;
pub mod session_file;
mod strided;
pub mod tensor;
pub mod tokenizer_files;
pub mod torch_bin;
