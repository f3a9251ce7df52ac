//! Structs that cross the door by pointer and only grow at the end: `struct_size` first.
//!
//! A program compiled against an older header passes a shorter struct: its missing tail means the
//! defaults. One compiled against a newer header passes a longer one: where the tail is all zero it asks
//! for nothing new, else the call is refused with the byte named, so that no option is ignored in
//! silence. A size that ends inside a field is a mistake, and so is one over [`STRUCT_SIZE_MAX`].

use super::guard;
use crate::base::error::Result;
use std::ptr;

/// No struct of the header will reach this: a larger `struct_size` was never set.
const STRUCT_SIZE_MAX: usize = 4096;

/// A struct with a `struct_size`.
///
/// # Safety
/// `#[repr(C)]`, without padding, with `struct_size: u32` first, valid for any bytes (all fields are
/// numbers, raw pointers or nullable function pointers), and `ENDS` as [`sized!`] makes it.
pub(super) unsafe trait Versioned: Copy {
    /// The C type, for messages.
    const NAME: &'static str;
    /// Where each field ends: the sizes that the struct has had or could have had.
    const ENDS: &'static [usize];
    /// What a missing tail means. `struct_size` is that of this library.
    fn defaults() -> Self;
}

/// Whether each number is more than the one before.
pub(super) const fn rises(numbers: &[usize]) -> bool {
    let mut i = 1;
    while i < numbers.len() {
        if numbers[i] <= numbers[i - 1] {
            return false;
        }
        i += 1;
    }
    true
}

/// Implements [`Versioned`] for a struct from all its fields, in order.
macro_rules! sized {
    ($type:ident { struct_size, $($field:ident),+ $(,)? } $defaults:expr) => {
        // SAFETY: that all fields are numbers and pointers is seen in the struct; that they stand in this
        // order is checked below; that nothing lies between them is checked by the C compilers, which
        // are given the header with -Wpadded (tests/capi/header.rs).
        unsafe impl $crate::capi::options::Versioned for $type {
            const NAME: &'static str = stringify!($type);
            const ENDS: &'static [usize] = {
                const ENDS: &[usize] = &[$(::std::mem::offset_of!($type, $field)),+, size_of::<$type>()];
                const _: () = assert!(::std::mem::offset_of!($type, struct_size) == 0 && ENDS[0] == 4);
                const _: () = assert!($crate::capi::options::rises(ENDS), "list the fields in order");
                ENDS
            };
            fn defaults() -> Self {
                $defaults
            }
        }
    };
}
pub(super) use sized;

/// Reads a caller's struct: the defaults for NULL.
///
/// # Safety
/// `from`, unless NULL or misaligned, points to as many readable bytes as its first 4 say.
pub(super) unsafe fn read<T: Versioned>(from: *const T) -> Result<T> {
    let mut value = T::defaults();
    if from.is_null() {
        return Ok(value);
    }
    // SAFETY: the caller's promise; at least the size itself is there.
    let size = unsafe { checked_size(from) }?;
    let own = size_of::<T>();
    // SAFETY: `size` bytes are readable by the caller's promise, `own` are writable; T takes any bytes.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast::<u8>(), size.min(own)) };
    if size > own {
        // SAFETY: the caller's promise.
        let tail = unsafe { std::slice::from_raw_parts(from.cast::<u8>().add(own), size - own) };
        if let Some(at) = tail.iter().position(|&byte| byte != 0) {
            crate::bail!(
                Unsupported,
                "{}: byte {} is set, and libaquila {} knows only the first {own}: its header is older",
                T::NAME,
                own + at,
                env!("CARGO_PKG_VERSION")
            );
        }
    }
    Ok(value)
}

/// Fills a caller's struct for output: at most its `struct_size` bytes; a tail that this library does
/// not know becomes zero. `struct_size` stays the caller's.
///
/// # Safety
/// `to`, unless NULL or misaligned, points to as many writable bytes as its first 4 say.
pub(super) unsafe fn write<T: Versioned>(name: &str, to: *mut T, value: &T) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { check_out(name, to) }?;
    // SAFETY: not NULL and aligned as just checked; the size is the caller's.
    let size = unsafe { to.cast::<u32>().read() } as usize;
    // SAFETY: `size` bytes are writable by the caller's promise.
    unsafe { put(to, value, size) };
    Ok(())
}

/// Writes the defaults into the first `size` bytes and sets `struct_size` to `size`. Where there is no
/// room for that, or `to` is NULL or misaligned, nothing is written.
///
/// # Safety
/// `to`, unless NULL or misaligned, points to `size` writable bytes.
pub(super) unsafe fn init<T: Versioned>(to: *mut T, size: usize) -> Result<()> {
    guard::check_pointer(T::NAME, to)?;
    crate::ensure!((4..=STRUCT_SIZE_MAX).contains(&size), Argument, "{}: {size} bytes", T::NAME);
    // SAFETY: aligned, and `size` (4 or more) bytes are writable.
    unsafe {
        to.cast::<u32>().write(size as u32);
        put(to, &T::defaults(), size);
    }
    Ok(())
}

/// Copies all but `struct_size` and zeroes what lies beyond `T`.
///
/// # Safety
/// `to` is aligned and points to `size` writable bytes, 4 or more.
unsafe fn put<T: Versioned>(to: *mut T, value: &T, size: usize) {
    let known = size.min(size_of::<T>());
    // SAFETY: both sides have `known` bytes, and `to` has `size`.
    unsafe {
        let (from, to) = (ptr::from_ref(value).cast::<u8>(), to.cast::<u8>());
        ptr::copy_nonoverlapping(from.add(4), to.add(4), known - 4);
        ptr::write_bytes(to.add(known), 0, size - known);
    }
}

/// Checks a caller's struct for output before work is done for it.
///
/// # Safety
/// As for [`write`].
pub(super) unsafe fn check_out<T: Versioned>(name: &str, to: *const T) -> Result<()> {
    guard::check_pointer(name, to)?;
    // SAFETY: the caller's promise.
    unsafe { checked_size(to) }.map(|_| ())
}

/// `Unsupported`, naming the bits, where `flags` has some that are not in `known`.
pub(super) fn check_flags(name: &str, flags: u32, known: u32) -> Result<()> {
    let unknown = flags & !known;
    crate::ensure!(
        unknown == 0,
        Unsupported,
        "{name}: bits {unknown:#x} are unknown to libaquila {}, expected some of {known:#x}",
        env!("CARGO_PKG_VERSION")
    );
    Ok(())
}

/// # Safety
/// `from`, unless misaligned, points to at least 4 readable bytes.
unsafe fn checked_size<T: Versioned>(from: *const T) -> Result<usize> {
    crate::ensure!(
        from.is_aligned(),
        Argument,
        "{}: address {:#x} is misaligned, expected a multiple of {}",
        T::NAME,
        from.addr(),
        align_of::<T>()
    );
    // SAFETY: aligned to at least 4 as just checked; readable by the caller's promise.
    let size = unsafe { from.cast::<u32>().read() } as usize;
    let own = size_of::<T>();
    crate::ensure!(
        (size > own && size <= STRUCT_SIZE_MAX) || T::ENDS.contains(&size),
        Argument,
        "{}: struct_size {size} is no size of it, expected sizeof({}), {own} in libaquila {}",
        T::NAME,
        T::NAME,
        env!("CARGO_PKG_VERSION")
    );
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Sample {
        struct_size: u32,
        flags: u32,
        wide: u64,
        a: u32,
        b: u32,
    }
    sized!(Sample { struct_size, flags, wide, a, b } Sample { struct_size: 24, flags: 1, wide: 2, a: 3, b: 4 });

    #[repr(C, align(8))]
    struct Room([u8; 64]);

    fn room(size: u32, fill: impl Fn(usize) -> u8) -> Room {
        let mut room = Room(std::array::from_fn(fill));
        room.0[..4].copy_from_slice(&size.to_ne_bytes());
        room
    }

    fn read_room(room: &Room) -> Result<Sample> {
        // SAFETY: the room is aligned to 8 and the tests claim no more than its 64 bytes.
        unsafe { read(room.0.as_ptr().cast::<Sample>()) }
    }

    #[test]
    fn ends_are_those_of_the_fields() {
        assert_eq!(Sample::ENDS, [4, 8, 16, 20, 24]);
    }

    #[test]
    fn older_callers_get_defaults_and_newer_ones_are_understood_or_refused() {
        assert_eq!(
            read_room(&room(16, |_| 0)).unwrap(),
            Sample { struct_size: 16, flags: 0, wide: 0, a: 3, b: 4 }
        );
        assert_eq!(read_room(&room(32, |_| 0)).unwrap().b, 0);
        let newer = read_room(&room(32, |i| u8::from(i == 29))).unwrap_err();
        assert_eq!(newer.status, Status::Unsupported);
        assert!(newer.message.contains("Sample: byte 29"), "{}", newer.message);
        for size in [0, 1, 3, 5, 12, 17, 23, 5000, u32::MAX] {
            assert_eq!(read_room(&room(size, |_| 0)).unwrap_err().status, Status::Argument, "{size}");
        }
    }

    proptest! {
        /// Output never goes beyond the caller's size, and `init` makes what `read` takes.
        #[test]
        fn writes_stay_inside(size in 0usize..64, garbage: u8) {
            let mut room = room(size as u32, |_| garbage);
            let value = Sample { struct_size: 24, flags: 9, wide: 9, a: 9, b: 9 };
            let to = room.0.as_mut_ptr().cast::<Sample>();
            // SAFETY: the room is aligned and has 64 bytes, more than any size claimed.
            let wrote = unsafe { write("out", to, &value) }.is_ok();
            prop_assert_eq!(wrote, size > 24 || Sample::ENDS.contains(&size));
            prop_assert!(room.0[size.max(4)..].iter().all(|&byte| byte == garbage));
            // SAFETY: as above.
            let _ = unsafe { init(to, size) };
            prop_assert!(room.0[size.max(4)..].iter().all(|&byte| byte == garbage));
            if wrote {
                let mut expected = Sample::defaults();
                expected.struct_size = size as u32;
                prop_assert_eq!(read_room(&room).map(|mut s| {
                    // A longer struct has a zero tail; a shorter one the defaults: both equal.
                    s.struct_size = size as u32;
                    s
                }).ok(), Some(expected));
            }
        }
    }
}
