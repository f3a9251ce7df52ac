//! One file of tensors in the making.

use super::layout::{Layout, NewTensor};
use crate::base::disk;
use crate::base::error::{Error, Result};
use crate::base::new_file::NewFile;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is written tensor by tensor, each in pieces from its beginning to its end. It has its name once it is whole;
/// dropped before it leaves nothing.
#[derive(Debug)]
pub struct TensorFile {
    file: NewFile,
    target: PathBuf,
    layout: Box<dyn Layout>,
    tensors: Vec<NewTensor>,
    /// Bytes of each that were written.
    written: Vec<u64>,
    checksums: Vec<crc32fast::Hasher>,
}

impl TensorFile {
    /// Takes the disk space of the whole file. `Io` where there is not so much.
    pub fn create(target: &Path, tensors: Vec<NewTensor>, layout: Box<dyn Layout>) -> Result<TensorFile> {
        let length = layout.file_len();
        if let Some(limit) = disk::file_size_limit().filter(|&limit| length > limit) {
            let cause = io::Error::from_raw_os_error(libc::EFBIG);
            return Err(Error::io(&format!("write {length} bytes (the limit is {limit})"), target, &cause));
        }
        let file = NewFile::create(target, "a file of weights")?;
        file.reserve(length)?;
        let count = tensors.len();
        let checksums = if layout.has_checksums() { count } else { 0 };
        Ok(TensorFile {
            file,
            target: target.into(),
            layout,
            tensors,
            written: vec![0; count],
            checksums: vec![crc32fast::Hasher::new(); checksums],
        })
    }

    /// Writes the next bytes of a tensor.
    pub fn append(&mut self, tensor: usize, bytes: &[u8]) -> Result<()> {
        let (Some(range), Some(written)) = (self.layout.ranges().get(tensor), self.written.get_mut(tensor))
        else {
            crate::bail!(Internal, "{}: no tensor {tensor}", self.target.display())
        };
        let at = range.start + *written;
        let end = at + bytes.len() as u64;
        crate::ensure!(
            end <= range.end,
            Internal,
            "{}: tensor {tensor} has more bytes than its shape",
            self.target.display()
        );
        if let Some(checksum) = self.checksums.get_mut(tensor) {
            checksum.update(bytes);
        }
        self.file.write(at, bytes)?;
        *written += bytes.len() as u64;
        Ok(())
    }

    /// Writes what is around the tensors, has all of it brought to the disk, and gives the file its name.
    pub fn finish(self) -> Result<()> {
        let whole = self.layout.ranges().iter().zip(&self.written).zip(&self.tensors);
        for ((range, &written), tensor) in whole {
            crate::ensure!(
                range.end - range.start == written,
                Internal,
                "{}: tensor {}: expected {} bytes, found {written}",
                self.target.display(),
                tensor.name,
                range.end - range.start
            );
        }
        self.file.set_len(self.layout.file_len())?;
        let checksums: Vec<u32> = self.checksums.into_iter().map(crc32fast::Hasher::finalize).collect();
        for (at, bytes) in self.layout.frame(&checksums) {
            self.file.put(at, &bytes)?;
        }
        self.file.synchronise()?;
        self.file.publish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dtype::DType;
    use crate::base::new_file::fault;
    use crate::saving::TorchLayout;

    /// A disk that fills in the middle of a tensor, and in what is written last: the error has the system's number, and
    /// nothing is left.
    #[test]
    fn a_full_disk_leaves_nothing() {
        let dir = std::env::temp_dir().join(format!("aquila-tensor-file-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let tensors = vec![NewTensor { name: "w".into(), dtype: DType::F32, shape: vec![100, 10] }];
        let write = || {
            let layout = TorchLayout::new("x", &tensors)?;
            let mut file = TensorFile::create(&dir.join("x.bin"), tensors.clone(), Box::new(layout))?;
            (0..10).try_for_each(|_| file.append(0, &[0; 400]))?;
            file.finish()
        };
        let last = TorchLayout::new("x", &tensors).unwrap().ranges()[0].end;
        for room in [1000, last] {
            fault::set_room(room);
            let error = write().unwrap_err();
            fault::set_room(u64::MAX);
            assert_eq!((error.status, error.native_code), (crate::Status::Io, libc::ENOSPC), "{error}");
            assert!(error.message.contains("x.bin"), "{error}");
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        }
        write().unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
