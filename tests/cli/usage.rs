//! Help, version, exit codes, messages.

use super::{expect_code, run, stderr, stdout, text};
use crate::support::TempDir;

#[test]
fn help_and_version_go_to_the_standard_output() {
    for command in [&["--help"][..], &["run", "--help"], &["info", "--help"], &["bench", "--help"]] {
        let output = run(command);
        expect_code(&output, 0);
        assert!(stdout(&output).contains("Usage: aquila"), "{command:?}");
        assert_eq!(stderr(&output), "");
    }
    let output = run(&["--version"]);
    expect_code(&output, 0);
    let version = stdout(&output);
    assert!(version.starts_with(concat!("aquila ", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(version.contains("target: ") && version.contains("devices: cpu"), "{version}");
}

#[test]
fn wrong_usage_is_2_with_a_message_on_the_standard_error() {
    let cases: [&[&str]; 7] = [
        &["fly"],
        &["run"],
        &["run", "model", "prompt", "--max-tokens", "many"],
        &["run", "model", "prompt", "--host-memory", "8X"],
        &["run", "model", "prompt", "--system", "without --chat"],
        &["run", "model", "prompt", "--chat", "--template", "/no/such/file"],
        &["bench", "model", "--batch", "0"],
    ];
    for case in cases {
        let output = run(case);
        expect_code(&output, 2);
        assert_eq!(stdout(&output), "", "{case:?}");
        assert!(stderr(&output).starts_with("aquila: "), "{case:?}: {}", stderr(&output));
    }
    let output = run(&[]);
    expect_code(&output, 2);
    assert!(stderr(&output).contains("Usage: aquila"));
}

#[test]
fn a_model_that_is_none_is_1_and_named() {
    let empty = TempDir::new();
    for command in ["run", "info", "bench"] {
        for path in ["/no/such/model", text(empty.path())] {
            let output = run(&[command, path]);
            expect_code(&output, 1);
            assert_eq!(stdout(&output), "", "{command}");
            let message = stderr(&output);
            assert!(message.starts_with("aquila: ") && message.contains(path), "{command}: {message}");
            assert_eq!(message.lines().count(), 1, "{command}: {message}");
        }
    }
}
