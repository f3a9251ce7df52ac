//! Reads a file front to back through a window, never past its end.

use crate::base::error::Result;
use crate::loading::file::SourceFile;

/// Bytes read at once.
const WINDOW: usize = 64 << 10;

/// A place in a file. Every read names what is read, for the message where the file ends before it.
pub struct Cursor<'a> {
    file: &'a SourceFile,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Cursor<'a> {
    /// The start of `file`.
    pub fn new(file: &'a SourceFile) -> Self {
        Cursor { file, position: 0, window: Vec::new(), window_start: 0 }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The name of the file, for messages.
    pub fn file_name(&self) -> String {
        self.file.name()
    }

    /// Length of the file.
    pub fn file_len(&self) -> u64 {
        self.file.len()
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        self.file.len().saturating_sub(self.position)
    }

    fn ensure_left(&self, count: u64, what: &str) -> Result<()> {
        crate::ensure!(
            count <= self.left(),
            Format,
            "truncated: {what} at byte {} takes {count} bytes, {} are left",
            self.position,
            self.left()
        );
        Ok(())
    }

    /// The next `count` bytes inside the window, which is moved here where they are not yet.
    fn window(&mut self, count: usize) -> Result<&[u8]> {
        let inside = self
            .position
            .checked_sub(self.window_start)
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| Some(at..at.checked_add(count)?))
            .filter(|range| range.end <= self.window.len());
        let range = match inside {
            Some(range) => range,
            None => {
                let len = usize::try_from(self.left()).unwrap_or(WINDOW).min(WINDOW);
                self.window.clear();
                self.window.resize(len, 0);
                self.window_start = self.position;
                if let Err(error) = self.file.read_at(self.position, &mut self.window) {
                    self.window.clear();
                    return Err(error);
                }
                0..count
            }
        };
        let found = self.window.get(range);
        found.ok_or_else(|| crate::error!(Internal, "a read of {count} bytes beyond the window"))
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.ensure_left(N as u64, what)?;
        let mut out = [0u8; N];
        out.copy_from_slice(self.window(N)?);
        self.position += N as u64;
        Ok(out)
    }

    /// The next `count` bytes, in memory of their own, once it is sure that they exist.
    pub fn bytes(&mut self, count: u64, what: &str) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.append(count, &mut out, what)?;
        Ok(out)
    }

    /// Appends the next `count` bytes to `out`.
    pub fn append(&mut self, count: u64, out: &mut Vec<u8>, what: &str) -> Result<()> {
        self.ensure_left(count, what)?;
        let count = crate::base::checked::usize(count, what)?;
        out.try_reserve(count)
            .map_err(|_| crate::error!(NoMemory, "{what}: cannot take {count} bytes of memory"))?;
        if count <= WINDOW / 4 {
            out.extend_from_slice(self.window(count)?);
        } else {
            let old = out.len();
            out.resize(old + count, 0);
            let part = out.get_mut(old..).unwrap_or_default();
            self.file.read_at(self.position, part)?;
        }
        self.position += count as u64;
        Ok(())
    }

    /// The next `count` bytes are passed over.
    pub fn skip(&mut self, count: u64, what: &str) -> Result<()> {
        self.ensure_left(count, what)?;
        self.position += count;
        Ok(())
    }

    /// A little-endian number.
    pub fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A little-endian number.
    pub fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length and as many bytes of UTF-8, at most `most`.
    pub fn string(&mut self, most: u64, what: &str) -> Result<String> {
        let len = self.string_len(most, what)?;
        let bytes = self.bytes(len, what)?;
        String::from_utf8(bytes).map_err(|cause| crate::error!(Format, "{what}: not UTF-8: {cause}"))
    }

    /// The length of a string, compared with `most` and the file.
    pub fn string_len(&mut self, most: u64, what: &str) -> Result<u64> {
        let len = self.u64(what)?;
        crate::ensure!(len <= most, Format, "{what}: a string of {len} bytes, expected at most {most}");
        self.ensure_left(len, what)?;
        Ok(len)
    }
}
