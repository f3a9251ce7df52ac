//! The packed cache: weights as a backend holds them, converted once and mapped by later loads.
//!
//! ```text
//! header   128 bytes: magic, version, byte order, layout, source, format, counts, a checksum of all these
//! table    64 bytes a tensor: layer, role, form, shape, offset, length, checksum of the payload
//! payloads each from a multiple of 64 bytes on, in the order of the table, zeros in between
//! ```
//!
//! All numbers are little-endian; payloads are in the byte order of the machine that wrote them, which the header
//! names. What the numbers of layers, roles and forms mean is the backend's affair: it says what it wants as a
//! [`Format`], and a file that holds anything else is not taken.
//!
//! **Which checks when.** [`Store::find`] checks the header and the table with their checksums, every offset and
//! length against the file, and that source, layout and format are the wanted ones. [`PackedFile::verify`] compares a
//! payload with its checksum; it is asked for by the caller, and needed where [`PackedFile::must_verify`] says so:
//! the file was published although the system could not confirm that it is on the disk.
//!
//! **Never a broken file.** A [`Writer`] fills a [`NewFile`](crate::base::new_file::NewFile): whoever reads sees the
//! old file or the new one.

mod format;
mod key;
mod store;
mod write;

pub use format::{Contents, Entry, Format, Wanted};
pub use key::SourceKey;
pub use store::{Found, PackedFile, Store};
pub use write::Writer;
