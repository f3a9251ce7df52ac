//! Where the real models lie that `tests/fetch/fetch.sh` brings.

use std::path::PathBuf;

/// The cache of real models: `$AQUILA_TEST_DATA`, which `make test` sets. `None`, with a line on stderr, where it is
/// not set; a panic in CI, where no test may be left out.
pub fn real_data() -> Option<PathBuf> {
    let path = std::env::var_os("AQUILA_TEST_DATA").map(PathBuf::from);
    if path.is_none() {
        assert!(std::env::var_os("CI").is_none(), "AQUILA_TEST_DATA is not set: tests/fetch/fetch.sh models");
        eprintln!("skipped: AQUILA_TEST_DATA is not set (tests/fetch/fetch.sh models)");
    }
    path
}
