//! The library itself: version and build.

use super::guard::value_call;
use std::ffi::{CString, c_char};
use std::ptr;
use std::sync::OnceLock;

/// Version of this header: new functions and fields raise MINOR.
pub const AQUILA_VERSION_MAJOR: u32 = 1;
/// See AQUILA_VERSION_MAJOR.
pub const AQUILA_VERSION_MINOR: u32 = 0;
/// See AQUILA_VERSION_MAJOR.
pub const AQUILA_VERSION_PATCH: u32 = 0;

/// As a size: the string is NUL-terminated, count it. cbindgen has no word for this number:
/// `cbindgen.toml` defines it.
pub(super) const AQUILA_NTS: usize = usize::MAX;

/// The version of the library that is loaded, as 0x00MMmmpp (major, minor, patch).
///
/// Returns: a number to compare with the header's; at least the header's is all that a program needs.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_version() -> u32 {
    AQUILA_VERSION_MAJOR << 16 | AQUILA_VERSION_MINOR << 8 | AQUILA_VERSION_PATCH
}

/// The version of the library as text, with a suffix before the first release: "1.0.0-rc.1".
///
/// Returns: a static string. Never NULL.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_version_string() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// How the library was built: a JSON object with "version", "architecture", "os", "optimized",
/// "backends" and "atb_shim": whether libaquila's part for Ascend NPUs was built with it.
///
/// Returns: a static string; NULL only if memory is exhausted.
/// Threads: any, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn aquila_build_info() -> *const c_char {
    static INFO: OnceLock<CString> = OnceLock::new();
    value_call(ptr::null(), || {
        let text = || {
            serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "architecture": std::env::consts::ARCH,
                "os": std::env::consts::OS,
                "optimized": !cfg!(debug_assertions),
                "backends": ["cpu"],
                "atb_shim": env!("AQUILA_ATB_SHIM") == "true",
            })
        };
        // JSON escapes NUL, so there is none inside.
        Ok(INFO.get_or_init(|| CString::new(text().to_string()).unwrap_or_default()).as_ptr())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_version_is_the_package_version() {
        let numbers = format!("{AQUILA_VERSION_MAJOR}.{AQUILA_VERSION_MINOR}.{AQUILA_VERSION_PATCH}");
        assert_eq!(env!("CARGO_PKG_VERSION").split('-').next(), Some(numbers.as_str()));
        assert_eq!(aquila_version(), 0x0001_0000);
    }
}
