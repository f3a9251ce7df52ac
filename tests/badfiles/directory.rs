//! Paths that hold no model.

use super::{refused, small, small_dir};
use crate::support::TempDir;
use aquila::Status;
use std::path::Path;

#[test]
fn no_model_at_all() {
    let dir = TempDir::new();
    refused(Path::new("/no/such/model"), Status::NotFound, &["/no/such/model"]);
    refused(&dir.join("gone.gguf"), Status::NotFound, &["gone.gguf"]);
    refused(dir.path(), Status::Format, &["no model", "config.json", ".gguf", "found nothing"]);
    std::fs::write(dir.join("notes.txt"), "Aquila is an eagle.").unwrap();
    refused(dir.path(), Status::Format, &["found one other file"]);
    refused(&dir.join("notes.txt"), Status::Format, &["notes.txt", "a GGUF file", "Aquila i"]);
    std::fs::write(dir.join("empty"), "").unwrap();
    refused(&dir.join("empty"), Status::Format, &["empty", "found neither"]);
    refused(Path::new("/dev/null"), Status::Format, &["/dev/null", "a device"]);
}

#[test]
fn a_pipe_does_not_hang() {
    let dir = TempDir::new();
    let path = dir.join("pipe.gguf");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    // Without a writer a careless open would wait for ever: in a thread of its own it can be given up.
    let (sender, receiver) = std::sync::mpsc::channel();
    let opened = path.clone();
    std::thread::spawn(move || sender.send(aquila::model::Checkpoint::open(&opened, false).is_err()));
    assert!(receiver.recv_timeout(std::time::Duration::from_secs(10)).expect("the open hangs"));
    refused(&path, Status::Format, &["pipe.gguf", "a pipe"]);
    small().write_dir(dir.path());
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    std::fs::rename(&path, dir.join("model.safetensors")).unwrap();
    refused(dir.path(), Status::Format, &["model.safetensors", "a pipe"]);
}

#[test]
fn weights_missing_or_of_another_kind() {
    let dir = small_dir();
    let weights = dir.join("model.safetensors");
    let valid = std::fs::read(&weights).unwrap();
    std::fs::remove_file(&weights).unwrap();
    refused(dir.path(), Status::Format, &["no weights", "model.safetensors.index.json"]);
    let shards = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    std::fs::write(dir.join(shards[0]), "PK").unwrap();
    refused(dir.path(), Status::Format, &[shards[0], "expected a file written by torch.save", "PK"]);
    std::fs::write(dir.join(shards[1]), "PK").unwrap();
    refused(dir.path(), Status::Format, &["2 .bin files", shards[0], "without pytorch_model.bin.index.json"]);
    std::fs::write(dir.join("a.safetensors"), &valid).unwrap();
    aquila::model::Checkpoint::open(dir.path(), false).expect("a single file of another name");
    std::fs::write(dir.join("b.safetensors"), &valid).unwrap();
    refused(dir.path(), Status::Format, &["2 .safetensors files", "without model.safetensors.index.json"]);
    std::fs::create_dir(&weights).unwrap();
    refused(dir.path(), Status::Format, &["model.safetensors", "a directory"]);
    std::fs::write(dir.join("torch.pt"), b"PK\x03\x04 and more").unwrap();
    refused(&dir.join("torch.pt"), Status::Format, &["torch.pt", "no zip archive"]);
    std::fs::remove_file(dir.join("config.json")).unwrap();
    refused(&dir.join("a.safetensors"), Status::NotFound, &["config.json"]);
    std::fs::remove_dir(&weights).unwrap();
    std::fs::write(&weights, &valid).unwrap();
    refused(dir.path(), Status::Format, &["model.safetensors without config.json"]);
    let bare = TempDir::new();
    std::fs::write(bare.join("pytorch_model.bin"), "").unwrap();
    refused(bare.path(), Status::Format, &["pytorch_model.bin without config.json"]);
}

#[test]
fn several_gguf_files_are_a_question() {
    let dir = TempDir::new();
    small().write_gguf(&dir.join("a.gguf"));
    small().write_gguf(&dir.join("b.gguf"));
    refused(dir.path(), Status::Format, &["2 .gguf files", "a.gguf"]);
    std::fs::write(dir.join("config.json"), "{}").unwrap();
    refused(dir.path(), Status::Format, &["2 .gguf files", "a.gguf"]);
    std::fs::remove_file(dir.join("b.gguf")).unwrap();
    aquila::model::Checkpoint::open(dir.path(), false).expect("one beside the model's config.json");
}

#[cfg(unix)]
#[test]
fn a_refused_read_is_an_io_error() {
    use std::os::unix::fs::PermissionsExt;
    let dir = small_dir();
    let path = dir.join("config.json");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::File::open(&path).is_ok() {
        return; // root may read everything
    }
    refused(dir.path(), Status::Io, &["config.json", "ermission"]);
}
