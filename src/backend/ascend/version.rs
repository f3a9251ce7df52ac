//! Versions of what CANN is made of, and the files that tell them.

use std::path::{Path, PathBuf};

/// A version such as `8.0.0`, `8.1.RC1.B110` or `8.0.T63.B020`.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// What stands behind.
    pub rest: String,
}

impl Version {
    /// The version that a text begins with; `None` where it begins otherwise.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let mut parts = text.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let second = parts.next()?;
        let digits = second.find(|c: char| !c.is_ascii_digit()).unwrap_or(second.len());
        let minor = second[..digits].parse().ok()?;
        let rest = parts.next().unwrap_or_default().split_whitespace().next().unwrap_or_default();
        Some(Version { major, minor, rest: rest.to_owned() })
    }

    /// Whether it is 8.0.0 or later. `8.0.RC2` and `8.0.T63` came before 8.0.0.
    pub fn is_at_least_8_0_0(&self) -> bool {
        let released = self.rest.starts_with(|c: char| c.is_ascii_digit());
        (self.major, self.minor) > (8, 0) || ((self.major, self.minor) == (8, 0) && released)
    }

    /// Whether ATB's `Linear` has `quantMode`: since 8.2, its release candidates too.
    pub fn has_per_token_products(&self) -> bool {
        (self.major, self.minor) >= (8, 2)
    }
}

/// Where a version was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The version as it is written there.
    pub text: String,
    /// The file.
    pub file: PathBuf,
}

/// The value of `key=value` or `key : value` in a file's lines. A file is at most 64 KiB.
fn value_in(file: &Path, keys: &[&str]) -> Option<Found> {
    let size = std::fs::metadata(file).ok()?;
    if !size.is_file() || size.len() > 64 << 10 {
        return None;
    }
    let bytes = std::fs::read(file).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    keys.iter().find_map(|key| {
        let value = text.lines().find_map(|line| {
            let rest = line.trim().strip_prefix(key)?.trim_start();
            rest.strip_prefix('=').or(rest.strip_prefix(':')).map(str::trim)
        })?;
        (!value.is_empty()).then(|| Found { text: value.to_owned(), file: file.to_path_buf() })
    })
}

/// ATB's version: `version.info` in one of the folders above its library (`…/latest/atb/cxx_abi_1/lib/libatb.so`).
pub fn of_atb(library: &Path) -> Option<Found> {
    let keys = ["Ascend-cann-atb Version", "Ascend-cann-atb"];
    library.ancestors().skip(1).take(5).find_map(|dir| value_in(&dir.join("version.info"), &keys))
}

/// The toolkit's version: a file beside or above its library (`…/latest/lib64/libascendcl.so`).
pub fn of_toolkit(library: &Path) -> Option<Found> {
    let architecture = format!("{}-linux", std::env::consts::ARCH);
    library.ancestors().skip(1).take(4).find_map(|dir| {
        ["ascend_toolkit_install.info", "ascend_nnrt_install.info"].iter().find_map(|name| {
            [dir.join(name), dir.join(&architecture).join(name)]
                .iter()
                .find_map(|file| value_in(file, &["version"]))
        })
    })
}

/// The version of the driver or the firmware below Ascend's root: `driver/version.info`, `firmware/version.info`.
pub fn of_package(root: &Path, package: &str) -> Option<Found> {
    value_in(&root.join(package).join("version.info"), &["Version", "package_version", "firmware_version"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_before_8_0_0_are_told_from_later_ones() {
        for text in ["8.0.0", "8.0.0.B100", "8.0.1", "8.1.RC1.B110", "8.2.RC2", "8.5.0", "9.1.0.B150", "10.0"]
        {
            assert!(Version::parse(text).unwrap().is_at_least_8_0_0(), "{text}");
        }
        for text in ["8.0.RC1", "8.0.RC3.B020", "8.0.T2.B010", "8.0.T63.B020", "8.0", "7.0.0", "1.0.RC1"] {
            assert!(!Version::parse(text).unwrap().is_at_least_8_0_0(), "{text}");
        }
        for text in ["", "master", "8", "a.b", ".", "99999999999.0"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert_eq!(Version::parse(" 8.0.0 (x)\n").unwrap().rest, "0");
    }

    #[test]
    fn products_by_tokens_came_with_8_2() {
        let has = |text| Version::parse(text).unwrap().has_per_token_products();
        assert!(has("8.2.RC1.B100") && has("8.3.0") && has("9.0.0") && !has("8.1.RC1") && !has("8.0.0"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_version_or_none(text in "\\PC*|[0-9.RCT]{0,12}") {
            if let Some(version) = Version::parse(&text) {
                let begins = format!("{}", version.major);
                proptest::prop_assert!(text.trim().trim_start_matches(['0', '+']).starts_with(&begins) || version.major == 0);
            }
        }
    }

    #[test]
    fn the_files_that_tell_them() {
        let root = std::env::temp_dir().join(format!("aquila-version-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "nnal/atb/latest/version.info",
            "    Ascend-cann-atb : 8.1.RC1\n    Ascend-cann-atb Version : 8.1.RC1.B110\n",
        );
        write("driver/version.info", "Version=24.1.rc1\nascendhal_version=7.35.19\n");
        let architecture = std::env::consts::ARCH;
        write(
            &format!("toolkit/{architecture}-linux/ascend_toolkit_install.info"),
            "package_name=x\nversion=8.0.0\n",
        );
        let atb = of_atb(&root.join("nnal/atb/latest/atb/cxx_abi_1/lib/libatb.so")).unwrap();
        assert_eq!(atb.text, "8.1.RC1.B110");
        assert_eq!(of_toolkit(&root.join("toolkit/lib64/libascendcl.so")).unwrap().text, "8.0.0");
        assert_eq!(of_package(&root, "driver").unwrap().text, "24.1.rc1");
        assert_eq!(of_package(&root, "firmware"), None);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
