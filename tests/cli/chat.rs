//! The conversation on a terminal, over a pseudo-terminal on the standard input.

use super::{aquila, expect_code, model, run, stdout, text};
use crate::support::formats::GgufValue;
use crate::support::{TempDir, TinyModel};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::FromRawFd;
use std::process::{Child, Command, Stdio};

#[test]
fn a_prompt_with_chat_is_one_turn_by_the_template() {
    let model = model(|m| m.context = 512);
    let path = text(model.path());
    let ask = |more: &[&str]| {
        let common =
            ["run", path, "--chat", "hello", "--template", "aquila-chat", "-n", "6", "--ignore-eos", "-q"];
        let output = run(&[&common[..], more].concat());
        expect_code(&output, 0);
        stdout(&output).to_string()
    };
    assert!(ask(&["--echo"]).contains("###Human: hello###Assistant:"));
    assert!(ask(&["--echo", "--system", "Be brief."]).contains("Be brief."));
}

#[test]
fn a_chat_comes_from_a_file_with_its_tools() {
    let model = model(|m| m.context = 512);
    let path = text(model.path());
    let files = TempDir::new();
    let (chat, template) = (files.join("chat.json"), files.join("tools.jinja"));
    std::fs::write(&template, "{{ tools | length }} tools, {{ messages[0].content }}{{ mood }}").unwrap();
    let ask = |json: &str| {
        std::fs::write(&chat, json).unwrap();
        run(&[
            "run",
            path,
            "--messages",
            text(&chat),
            "--template",
            text(&template),
            "-n",
            "2",
            "--echo",
            "-q",
        ])
    };
    let messages =
        r#"{"messages":[{"role":"user","content":"hi"}],"tools":[{},{}],"template_args":{"mood":"!"}}"#;
    let output = ask(messages);
    expect_code(&output, 0);
    assert!(stdout(&output).starts_with("2 tools, hi!"), "{}", stdout(&output));
    let output = ask(r#"{"messages":[],"tool":[]}"#);
    expect_code(&output, 2);
    assert!(super::stderr(&output).contains("nearest known one is \"tools\""), "{}", super::stderr(&output));
    let output = run(&["run", path, "--messages", "/no/such/file"]);
    expect_code(&output, 1);
    assert!(super::stderr(&output).contains("--messages /no/such/file"), "{}", super::stderr(&output));
    let output = run(&["run", path, "a prompt", "--messages", text(&chat)]);
    expect_code(&output, 2);
}

/// A model may have several templates: as in transformers the one for tools is taken where there are tools,
/// the default one else, another by its name. From a directory and from a GGUF file.
#[test]
fn tools_choose_among_named_templates() {
    let names = ["default", "rag", "tool_use"];
    let text_of = |name: &str| format!("{name}: {{{{ messages[0].content }}}}");
    let directory = model(|_| {});
    let more = directory.path().join("additional_chat_templates");
    std::fs::create_dir(&more).unwrap();
    std::fs::write(directory.path().join("chat_template.jinja"), text_of("default")).unwrap();
    let mut gguf = TinyModel::default().gguf();
    gguf.set("tokenizer.chat_template", GgufValue::Str(text_of("default")));
    gguf.set("tokenizer.chat_templates", GgufValue::Strings(vec!["rag".into(), "tool_use".into()]));
    for name in &names[1..] {
        std::fs::write(more.join(format!("{name}.jinja")), text_of(name)).unwrap();
        gguf.set(&format!("tokenizer.chat_template.{name}"), GgufValue::Str(text_of(name)));
    }
    let files = TempDir::new();
    let (chat, file) = (files.join("chat.json"), files.join("model.gguf"));
    std::fs::write(&file, gguf.bytes()).unwrap();
    for path in [text(directory.path()), text(&file)] {
        for (options, expected) in [
            ("", "default: hi"),
            (r#","tools":[]"#, "tool_use: hi"),
            (r#","chat_template":"rag","tools":[]"#, "rag: hi"),
        ] {
            std::fs::write(&chat, format!(r#"{{"messages":[{{"role":"user","content":"hi"}}]{options}}}"#))
                .unwrap();
            let output = run(&["run", path, "--messages", text(&chat), "-n", "1", "--echo", "-q"]);
            expect_code(&output, 0);
            assert!(stdout(&output).starts_with(expected), "{path} {options}: {}", stdout(&output));
        }
        std::fs::write(&chat, r#"{"messages":[],"chat_template":"other"}"#).unwrap();
        let output = run(&["run", path, "--messages", text(&chat)]);
        expect_code(&output, 2);
        let said = super::stderr(&output);
        assert!(names.iter().all(|name| said.contains(name)), "{said}");
    }
}

#[test]
fn a_model_without_a_template_says_what_was_looked_for() {
    // Neither its name nor its vocabulary is Aquila's.
    let temporary = TempDir::new();
    let dir = temporary.join("plain");
    let model = TinyModel { model_type: "llama", architecture: "LlamaForCausalLM", ..TinyModel::default() };
    model.write_dir(&dir);
    let tokenizer = dir.join("tokenizer.json");
    let vocabulary = std::fs::read_to_string(&tokenizer).unwrap().replace("LDWANG", "LAWN");
    std::fs::write(&tokenizer, vocabulary).unwrap();
    let output = run(&["run", text(&dir), "--chat", "hello"]);
    expect_code(&output, 1);
    assert!(super::stderr(&output).contains("template"), "{}", super::stderr(&output));
}

/// The program with a pseudo-terminal as its standard input.
struct Talk {
    child: Child,
    keyboard: File,
    errors: BufReader<std::process::ChildStderr>,
}

impl Talk {
    fn start(path: &str, more: &[&str]) -> Talk {
        let common = ["run", path, "--chat", "--template", "aquila-chat", "--ignore-eos"];
        Talk::run(&[&common[..], more].concat())
    }

    fn run(arguments: &[&str]) -> Talk {
        let (mut ours, mut theirs) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: two writable ints; name, settings and size may be NULL.
        let opened = unsafe { libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()) };
        assert_eq!(opened, 0);
        // SAFETY: openpty gave both descriptors to us alone.
        let (keyboard, terminal) = unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) };
        let mut child = aquila()
            .args(arguments)
            .stdin(Stdio::from(terminal))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        Talk { child, keyboard, errors }
    }

    /// Waits for the mark that asks for a line.
    fn prompt(&mut self) -> String {
        let mut said = Vec::new();
        while !said.ends_with(b"> ") {
            assert!(
                self.errors.read_until(b' ', &mut said).unwrap() > 0,
                "{}",
                String::from_utf8_lossy(&said)
            );
        }
        String::from_utf8(said).unwrap()
    }

    fn say(&mut self, line: &str) {
        self.keyboard.write_all(line.as_bytes()).unwrap();
    }

    fn interrupt(&self) {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut answers = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut answers).unwrap();
        (self.child.wait().unwrap().code(), answers)
    }
}

#[test]
fn without_a_prompt_a_terminal_is_told_what_is_waited_for() {
    let model = model(|_| {});
    let mut talk = Talk::run(&["run", text(model.path()), "-n", "2", "--ignore-eos"]);
    let mut told = String::new();
    talk.errors.read_line(&mut told).unwrap();
    assert!(told.contains("Ctrl-D"), "{told}");
    talk.say("hello\n\x04");
    assert_eq!(talk.end().0, Some(0));
}

#[test]
fn turns_follow_each_other_until_exit() {
    let model = model(|m| m.context = 512);
    let path = text(model.path());
    let mut talk = Talk::start(path, &["-n", "5"]);
    assert!(talk.prompt().contains("/exit"));
    talk.say("hello\n");
    let first = talk.prompt();
    assert!(first.contains("answer 5 tokens at"), "{first}");
    talk.say("hello\n");
    let second = talk.prompt();
    let prompt_tokens = |line: &str| -> u32 {
        let words: Vec<&str> = line.split(' ').collect();
        let at = words.iter().position(|&word| word == "prompt").unwrap();
        words[at + 1].parse().unwrap()
    };
    assert!(prompt_tokens(&second) > prompt_tokens(&first) + 10, "the history goes along: {second}");
    talk.say("/reset\n");
    talk.prompt();
    talk.say("hello\n");
    assert_eq!(prompt_tokens(&talk.prompt()), prompt_tokens(&first), "and is forgotten");
    talk.say("/exit\n");
    assert_eq!(talk.end().0, Some(0));
}

#[test]
fn a_full_context_is_told_and_the_conversation_goes_on() {
    let model = model(|m| m.context = 256);
    let mut talk = Talk::start(text(model.path()), &["-n", "4"]);
    talk.prompt();
    talk.say(&format!("{}\n", "hello ".repeat(100)));
    let told = talk.prompt();
    assert!(told.contains("/reset"), "{told}");
    talk.say("hello\n");
    assert!(talk.prompt().contains("answer 4 tokens at"));
    talk.say("\x04");
    assert_eq!(talk.end().0, Some(0), "Ctrl-D ends");
}

#[test]
fn ctrl_c_stops_an_answer_and_twice_the_program() {
    let model = model(|m| m.context = 16384);
    let mut talk = Talk::start(text(model.path()), &[]);
    talk.prompt();
    talk.say("hello\n");
    let mut first = [0u8; 1];
    talk.child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    talk.interrupt();
    // The answer written so far must be read, or the program waits for room in the pipe.
    let mut pipe = talk.child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut rest = Vec::new();
        pipe.read_to_end(&mut rest).unwrap();
    });
    let told = talk.prompt();
    assert!(told.contains("stopped"), "{told}");
    talk.interrupt();
    assert!(talk.prompt().contains("again"), "one press at the prompt only warns");
    talk.say("/help\n");
    assert!(talk.prompt().contains("/reset"), "and the conversation goes on");
    talk.interrupt();
    assert!(talk.prompt().contains("again"));
    talk.interrupt();
    assert_eq!(talk.child.wait().unwrap().code(), Some(130));
    reader.join().unwrap();
}
