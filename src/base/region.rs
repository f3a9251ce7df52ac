//! A range of bytes with a shared owner: a part of a mapped file, or of memory that was read.

use crate::base::buffer::Buffer;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// What can own the bytes of a [`Region`].
pub type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A cheap, clonable view of bytes that live as long as any view of them. The bytes of a mapped file
/// are the host's to leave alone: a file that shrinks under its mapping is a SIGBUS.
#[derive(Clone)]
pub struct Region {
    owner: Owner,
    range: Range<usize>,
    mapped: bool,
}

impl Region {
    /// All bytes of an owner. `mapped` says whether they are pages of a file (shared, reclaimable)
    /// or private memory.
    pub fn new(owner: Owner, mapped: bool) -> Self {
        let len = (*owner).as_ref().len();
        Region { owner, range: 0..len, mapped }
    }

    /// The bytes `range` of this region, or `None` where they are not all inside it.
    pub fn slice(&self, range: Range<usize>) -> Option<Region> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let range = self.range.start + range.start..self.range.start + range.end;
        Some(Region { owner: self.owner.clone(), range, mapped: self.mapped })
    }

    /// Whether the bytes are pages of a file rather than private memory.
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }
}

impl Deref for Region {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Region {
    fn from(bytes: Vec<u8>) -> Self {
        Region::new(Arc::new(bytes), false)
    }
}

impl From<Buffer<u8>> for Region {
    fn from(bytes: Buffer<u8>) -> Self {
        struct Owned(Buffer<u8>);
        impl AsRef<[u8]> for Owned {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        Region::new(Arc::new(Owned(bytes)), false)
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Region({} bytes{})", self.range.len(), if self.mapped { ", mapped" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_and_refuse() {
        let region = Region::from(vec![0, 1, 2, 3, 4, 5]);
        let inner = region.slice(1..5).unwrap().slice(1..3).unwrap();
        assert_eq!(&*inner, &[2, 3]);
        assert!(region.slice(3..7).is_none());
        assert!(inner.slice(0..3).is_none());
    }
}
