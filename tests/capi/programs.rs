//! The C programs beside this file and the examples, built against the installed tree and run on small
//! models: linked to the shared library, to the archive, and with AddressSanitizer.

use crate::deadline;
use crate::stage::{
    Compiler, Link, build, build_dir, is_here, is_here_as, manifest_dir, pkg_config, program, said, scratch,
    staged,
};
use crate::support::{TempDir, TinyModel};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// One C test a noun, each with a model as its argument.
const NOUNS: &[&str] = &[
    "library",
    "engine",
    "load",
    "constraint",
    "generate",
    "request",
    "queue",
    "session",
    "result",
    "text",
    "score",
    "log",
    "contract",
    "limits",
    "lifetimes",
    "manners",
    "threads",
    "together",
    "memory",
    "soak",
];

/// A model that all tests read: two layers, 128 tokens of context.
fn model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-model");
        TinyModel::default().write_dir(&dir);
        dir
    })
}

/// One without a chat template: neither its name nor its vocabulary is Aquila's.
fn plain_model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-plain");
        TinyModel { model_type: "llama", architecture: "LlamaForCausalLM", ..TinyModel::default() }
            .write_dir(&dir);
        let tokenizer = dir.join("tokenizer.json");
        let vocabulary = fs::read_to_string(&tokenizer).expect("tokenizer.json").replace("LDWANG", "LAWN");
        fs::write(&tokenizer, vocabulary).expect("tokenizer.json");
        dir
    })
}

fn source(name: &str) -> PathBuf {
    manifest_dir().join("tests/capi").join(name).with_extension("c")
}

/// Runs a program that must succeed and say nothing on its error output: the library never prints.
fn run_quietly(command: &mut Command) -> Output {
    let output = deadline::output(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{command:?}: {}\n{out}{err}", output.status);
    output
}

fn run_nouns(compiler: Compiler, link: Link, flags: &[&str], label: &str) {
    let dir = scratch(label);
    for &noun in NOUNS {
        let path = dir.join(noun);
        build(compiler.c(), &source(noun), &path, link, &[flags, &["-pthread"]].concat());
        let mut command = program(&path);
        if noun != "library" {
            command.arg(model());
        }
        if noun == "memory" && (link == Link::Static || compiler != Compiler::found()[0]) {
            command.arg("20"); // all of it once is enough
        }
        if noun == "text" {
            command.arg(plain_model());
        }
        let output = run_quietly(&mut command);
        let tells = matches!(noun, "memory" | "soak");
        assert!(tells || output.stdout.is_empty(), "{noun} printed");
    }
}

#[test]
fn nouns_with_the_shared_library() {
    for &compiler in Compiler::found() {
        run_nouns(compiler, Link::Shared, &["-std=gnu11"], &format!("shared-{}", compiler.name));
    }
}

#[test]
fn nouns_with_the_archive() {
    run_nouns(Compiler::found()[0], Link::Static, &["-std=gnu99"], "static");
}

/// Leaks and overflows on the C side, and leaks of what the library allocates.
#[test]
fn nouns_under_address_sanitizer() {
    let gcc = Compiler::found()[0];
    run_nouns(gcc, Link::Static, &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], "asan");
    // Proof that a leak would have been seen.
    let dir = scratch("asan-leak");
    let (code, path) = (dir.join("leak.c"), dir.join("leak"));
    let leak = "#include <stdlib.h>\nvoid *volatile lost;\n\
        int main(void) { lost = malloc(77); lost = NULL; return 0; }\n";
    fs::write(&code, leak).expect("leak.c");
    build(gcc.c(), &code, &path, Link::Static, &["-fsanitize=address"]);
    let output = deadline::output(&mut program(&path));
    assert!(String::from_utf8_lossy(&output.stderr).contains("77 byte(s) leaked"), "{output:?}");
}

/// A plug-in host: the library is opened and closed again and again, also with an engine alive.
#[test]
fn the_library_can_be_opened_and_closed_again() {
    let dir = scratch("unload");
    let path = dir.join("unload");
    build(Compiler::found()[0].c(), &source("unload"), &path, Link::Shared, &["-Wl,--as-needed"]);
    let needed = said(Command::new("readelf").arg("-d").arg(&path));
    assert!(!needed.contains("libaquila"), "it must not be linked: {needed}");
    run_quietly(program(&path).arg(model()));
}

/// Not under AddressSanitizer, which has the allocator for itself.
#[test]
fn lack_of_memory_is_a_status() {
    let dir = scratch("nomemory");
    for (link, name) in [(Link::Shared, "shared"), (Link::Static, "static")] {
        let path = dir.join(name);
        build(Compiler::found()[0].c(), &source("nomemory"), &path, link, &["-std=gnu11", "-pthread"]);
        print!("{}", String::from_utf8_lossy(&run_quietly(program(&path).arg(model())).stdout));
    }
}

/// What each kind of broken checkpoint is refused with: a status, and a word of the message.
#[test]
fn bad_files_are_named() {
    let dir = TempDir::new();
    let path = dir.join("badfile");
    build(Compiler::found()[0].c(), &source("badfile"), &path, Link::Shared, &[]);
    let mut command = program(&path);
    for (name, status, word, spoil) in bad_files() {
        let model = dir.join(name);
        spoil(&model);
        command.args([status, word]).arg(&model);
    }
    print!("{}", String::from_utf8_lossy(&run_quietly(&mut command).stdout));
}

type Spoil = fn(&Path);

/// Name, status, word in the message, maker.
fn bad_files() -> Vec<(&'static str, &'static str, &'static str, Spoil)> {
    fn tiny(dir: &Path) {
        TinyModel::default().write_dir(dir);
    }
    fn edit(dir: &Path, file: &str, from: &str, to: &str) {
        let path = dir.join(file);
        let text = fs::read_to_string(&path).expect("a file of the model");
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(path, text.replace(from, to)).expect("a file of the model");
    }
    fn cut(path: PathBuf) {
        let bytes = fs::read(&path).expect("a file of the model");
        fs::write(path, &bytes[..bytes.len() - 1000]).expect("a file of the model");
    }
    vec![
        ("missing", "AQUILA_ERR_NOT_FOUND", "missing", |_| ()),
        ("empty", "AQUILA_ERR_FORMAT", "empty", |dir| fs::create_dir(dir).expect("a directory")),
        ("text.txt", "AQUILA_ERR_FORMAT", "text.txt", |path| fs::write(path, "hello\n").expect("a file")),
        ("truncated", "AQUILA_ERR_FORMAT", "model.safetensors", |dir| {
            tiny(dir);
            cut(dir.join("model.safetensors"));
        }),
        ("shard-missing", "AQUILA_ERR_FORMAT", "model-00002-of-00003.safetensors", |dir| {
            TinyModel { shards: 3, ..TinyModel::default() }.write_dir(dir);
            fs::remove_file(dir.join("model-00002-of-00003.safetensors")).expect("the shard");
        }),
        ("wrong-shape", "AQUILA_ERR_FORMAT", "mlp.gate_proj", |dir| {
            tiny(dir);
            edit(dir, "config.json", "\"intermediate_size\": 96", "\"intermediate_size\": 80");
        }),
        ("architecture", "AQUILA_ERR_UNSUPPORTED", "mamba", |dir| {
            tiny(dir);
            edit(dir, "config.json", "\"aquila\"", "\"mamba\"");
            edit(dir, "config.json", "AquilaForCausalLM", "MambaForCausalLM");
        }),
        ("vocabulary", "AQUILA_ERR_FORMAT", "embed_tokens", |dir| {
            tiny(dir);
            edit(dir, "config.json", "\"vocab_size\": 288", "\"vocab_size\": 280");
        }),
        ("gguf", "AQUILA_ERR_FORMAT", "gguf", |path| {
            let whole = path.with_extension("gguf");
            TinyModel::default().write_gguf(&whole);
            cut(whole.clone());
            fs::rename(whole, path).expect("the file");
        }),
    ]
}

#[test]
fn c_examples_run() {
    let dir = scratch("examples-c");
    for name in ["version", "generate", "stream", "json", "chat", "errors", "threads", "service", "session"] {
        let code = manifest_dir().join("examples-c").join(name).with_extension("c");
        let text = fs::read_to_string(&code).expect("an example");
        assert!(text.lines().count() < 80, "{name}.c is an example, not a program");
        for (link, suffix) in [(Link::Shared, "shared"), (Link::Static, "static")] {
            let path = dir.join(format!("{name}-{suffix}"));
            for &compiler in Compiler::found() {
                build(compiler.c(), &code, &path, link, &["-std=c99", "-pthread"]);
            }
            run_example(name, &path);
        }
    }
}

#[test]
fn cpp_examples_run() {
    let dir = scratch("examples-cpp");
    for name in ["version", "generate", "stream"] {
        let code = manifest_dir().join("examples-cpp").join(name).with_extension("cpp");
        let path = dir.join(name);
        for &compiler in Compiler::found() {
            build(compiler.cpp(), &code, &path, Link::Shared, &["-std=c++17"]);
        }
        run_example(name, &path);
    }
}

/// The wrapper: exceptions through callbacks, twins without exceptions, two translation units.
#[test]
fn the_cpp_wrapper_keeps_its_promises() {
    let dir = scratch("wrapper");
    let code = manifest_dir().join("tests/capi/wrapper.cpp");
    for &compiler in Compiler::found() {
        for flags in [&["-std=c++17"][..], &["-std=c++20"], &["-std=c++17", "-fno-exceptions"]] {
            let path = dir.join("wrapper");
            let second = manifest_dir().join("tests/capi/wrapper_second.cpp");
            let both = [flags, &[second.to_str().expect("UTF-8"), "-Wconversion"]].concat();
            build(compiler.cpp(), &code, &path, Link::Shared, &both);
            run_quietly(program(&path).arg(model()));
        }
    }
}

/// A client by ctypes, whose structs are its own.
#[test]
fn the_python_example_runs() {
    let mut command = Command::new("python3");
    command
        .arg(manifest_dir().join("examples-python/service.py"))
        .arg(model())
        .args(["hello", "hello world"]);
    command.env("LD_LIBRARY_PATH", staged().join("lib"));
    let output = run_quietly(&mut command);
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches(" tokens, first after").count(), 2);
}

/// What it writes down of the header agrees with the installed layout, as any binding can ask when it starts.
#[test]
fn the_python_examples_structs_agree_with_the_layout() {
    let ask = "import json, sys, service\n\
        structs = json.load(open(sys.argv[1]))['structs']\n\
        for own, name in (('Error', 'error'), ('Params', 'gen_params'), ('Job', 'job'), ('Stats', 'stats'), \
        ('Event', 'event')):\n    \
        own, fields = getattr(service, own), structs['aquila_' + name]['fields']\n    \
        there = [(f['name'], f['offset'], f['size']) for f in fields][:len(own._fields_)]\n    \
        here = [(f[0], getattr(own, f[0]).offset, getattr(own, f[0]).size) for f in own._fields_]\n    \
        assert here == there, (name, here, there)\n";
    let mut command = Command::new("python3");
    command.args(["-c", ask]).arg(staged().join("share/aquila/layout.json"));
    command.env("PYTHONPATH", manifest_dir().join("examples-python")).env("PYTHONDONTWRITEBYTECODE", "1");
    run_quietly(&mut command);
}

/// A client by cgo.
#[test]
fn the_go_example_runs() {
    if !is_here_as("go", "version") {
        return;
    }
    let dir = scratch("examples-go");
    let program_path = dir.join("service");
    let mut command = Command::new("go");
    command.args(["build", "-o"]).arg(&program_path).arg(manifest_dir().join("examples-go/service.go"));
    command
        .env("CGO_CFLAGS", pkg_config(&["--cflags"]).join(" "))
        .env("CGO_LDFLAGS", pkg_config(&["--libs"]).join(" "));
    // Nothing is fetched, and nothing is left in the home directory.
    command.envs([("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GO111MODULE", "off")]);
    command.env("GOCACHE", dir.join("cache")).env("GOPATH", dir.join("path"));
    crate::stage::run(&mut command);
    // Each text is checked against cgo's rules of pointers.
    let mut command = program(&program_path);
    command.arg(model()).args(["hello", "hello world", "hello again"]).env("GODEBUG", "cgocheck=2");
    let output = run_quietly(&mut command);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("hello again") && said.len() > 60, "{said}");
}

fn run_example(name: &str, path: &Path) {
    let mut command = program(path);
    match name {
        "version" => (),
        "generate" | "stream" | "service" => drop(command.arg(model()).arg("hello world")),
        // A longer text than the small model holds.
        "chat" | "session" => drop(command.arg(chat_model())),
        "json" => drop(command.arg(chat_model()).arg("A hello world")),
        _ => drop(command.arg(model())),
    }
    let output = deadline::output_of(&mut command, b"hello\nyou \"and\" me\n");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    let expected = match name {
        "version" => "libaquila 1.",
        "errors" => "AQUILA_ERR_CLOSED",
        "threads" => " 7: ",
        "chat" => "> ",
        "json" => "[{\"city\":",
        _ => "",
    };
    assert!(!out.is_empty() && out.contains(expected), "{name}: {out}");
}

/// A longer context and a chat template: a conversation does not fit in 128 byte tokens.
fn chat_model() -> &'static Path {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    MODEL.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi-model-chat");
        TinyModel { context: 4096, ..TinyModel::default() }.write_dir(&dir);
        let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
        fs::write(dir.join("chat_template.jinja"), template).expect("the template");
        dir
    })
}

/// The root of `sudo make install` often has no cargo: what was built before is installed.
#[test]
fn make_installs_without_cargo_and_uninstalls_every_file() {
    if !is_here("make") {
        return;
    }
    let dir = scratch("install");
    let make = |goal: &str| {
        let mut command = Command::new("make");
        command.current_dir(manifest_dir()).args(["--no-print-directory", goal, "CARGO=no-such-cargo"]);
        command.args(["PREFIX=/usr", "LIBDIR=lib/triplet"]);
        command.arg(format!("DESTDIR={}", dir.join("to").display()));
        command.arg(format!("CARGO_TARGET_DIR={}", dir.display()));
        // Not as a part of the `make test` that may have begun this.
        command.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL");
        command
    };
    let nothing = deadline::output(&mut make("install"));
    let told = String::from_utf8_lossy(&nothing.stderr);
    assert!(!nothing.status.success() && told.contains("nothing was built before"), "{told}");

    std::os::unix::fs::symlink(build_dir(), dir.join("release")).expect("a link");
    crate::stage::run(&mut make("install"));
    let files =
        || said(Command::new("find").arg(dir.join("to")).args(["(", "-type", "f", "-o", "-type", "l", ")"]));
    for file in [
        "lib/triplet/libaquila.so.1",
        "include/aquila.hpp",
        "share/man/man1/aquila.1",
        "share/aquila/layout.json",
    ] {
        assert!(files().contains(file), "{file}: {}", files());
    }
    crate::stage::run(&mut make("uninstall"));
    assert_eq!(files(), "");
}

#[test]
fn the_tree_can_be_moved_and_found_by_cmake() {
    if !is_here("cmake") {
        return;
    }
    let dir = scratch("cmake");
    let tree = dir.join("moved/here");
    fs::create_dir_all(tree.parent().expect("moved")).expect("a folder");
    crate::stage::run(Command::new("cp").arg("-a").arg(staged()).arg(&tree));
    let project = "cmake_minimum_required(VERSION 3.16)\nproject(use C)\n\
        find_package(aquila 1 CONFIG REQUIRED)\nadd_executable(shared version.c)\n\
        target_link_libraries(shared aquila::aquila)\nadd_executable(static version.c)\n\
        target_link_libraries(static aquila::static)\n";
    fs::write(dir.join("CMakeLists.txt"), project).expect("CMakeLists.txt");
    fs::copy(manifest_dir().join("examples-c/version.c"), dir.join("version.c")).expect("version.c");
    let build = dir.join("build");
    let prefix = format!("-DCMAKE_PREFIX_PATH={}", tree.display());
    crate::stage::run(Command::new("cmake").arg("-S").arg(&dir).arg("-B").arg(&build).arg(prefix));
    crate::stage::run(Command::new("cmake").arg("--build").arg(&build));
    for target in ["shared", "static"] {
        assert!(said(&mut Command::new(build.join(target))).contains("libaquila 1."), "{target}");
    }
}
