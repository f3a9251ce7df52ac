//! Checkpoints written by torch.save (`pytorch_model.bin`, `.pt`, `.pth`): a pickle, which says what the
//! tensors are, and their numbers beside it.
//!
//! Pickle is a language for a machine that may call any function of Python, and most of the trouble with
//! such files comes from readers that restrict it. Here nothing is restricted, because nothing is there:
//! the machine of [`pickle`] makes numbers, strings, tuples, lists, dicts, storages and tensors, and has no
//! way to call anything. What it made is flat data ([`values`]); [`state_dict`] finds the tensors in it and
//! compares each with its storage, and the storage with the file. Two containers are read:
//!
//! | form | since | numbers |
//! |---|---|---|
//! | [`archive`] | torch 1.6 | an entry of a zip archive ([`zip`]) for each storage, never compressed |
//! | [`legacy`] | torch 0.1 | one storage after the other behind the pickles |
//!
//! Where a tensor was (`cuda:0`) is of no interest. Several tensors may share a storage, and one may be a view
//! of it with strides of its own.

mod archive;
mod build;
mod legacy;
mod pickle;
mod state_dict;
mod values;
mod zip;

use crate::base::error::Result;
use crate::loading::file::SourceFile;
use crate::loading::safetensors;
use crate::loading::tensor::Named;
use std::fmt;

/// How a file of torch is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A zip archive: torch 1.6 and later.
    Zip,
    /// Pickles and storages one after the other: before that, and on demand.
    Legacy,
}

/// What a file of torch holds.
#[derive(Debug)]
pub struct TorchFile {
    /// The tensors of the state dict, in its order; one without a name where the file is a tensor alone.
    pub tensors: Named,
    /// How the file is built.
    pub form: Form,
    /// The keys that led to the state dict: none, where it is the whole.
    pub path: Vec<&'static str>,
}

/// For a person: "torch .bin, zip".
impl fmt::Display for TorchFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.form {
            Form::Zip => "torch .bin, zip",
            Form::Legacy => "torch .bin, legacy",
        })?;
        match self.path.as_slice() {
            [] => Ok(()),
            path => write!(f, " (the state dict under {})", path.join(", ")),
        }
    }
}

/// Whether a file that begins so may be one of torch.
pub fn is_start(start: &[u8]) -> bool {
    start.starts_with(&zip::MAGIC) || matches!(start, [0x80, 2..=5, ..])
}

/// Reads and checks everything but the numbers of the tensors.
///
/// `Format` where the file is none of torch, is damaged, or holds something else than tensors;
/// `Unsupported` for compressed or encrypted archives, big-endian numbers, and TorchScript.
pub fn read(file: &SourceFile) -> Result<TorchFile> {
    let mut start = [0; 8];
    let seen = usize::try_from(file.len()).map_or(start.len(), |len| len.min(start.len()));
    file.read_at(0, start.get_mut(..seen).unwrap_or_default())?;
    let read = if start.starts_with(&zip::MAGIC) {
        archive::read(file)
    } else if is_start(&start) {
        legacy::read(file)
    } else {
        let found = safetensors::sniff(&start).map_or_else(
            || format!("{:?} at its start", String::from_utf8_lossy(start.get(..seen).unwrap_or_default())),
            String::from,
        );
        Err(crate::error!(Format, "expected a file written by torch.save, found {found}"))
    };
    read.map_err(|error| error.at(file.name()))
}
