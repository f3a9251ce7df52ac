//! Constrained output beside everything else that an engine does: batches, sampling, streaming, stop rules, speculation,
//! being put back. Whatever the model says (these have random weights), the text fits.

use super::support::{TempDir, TinyModel, TinyTokenizer, tokenizer};
use super::{gated, greedy, info, plain, prompt};
use crate::mock::{Manner, Mock, Seen};
use aquila::base::clock::Clock;
use aquila::engine::params::{Event, Finish, GenParams, Generation, Input};
use aquila::engine::{Engine, EngineInfo, Next, Parts};
use aquila::open::{self, LoadOptions};
use aquila::sampling::SamplingParams;
use aquila::text::{Constraint, Tokenizer};
use aquila::{Result, Status};
use serde_json::Value;
use std::ops::ControlFlow;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

/// A small real model on the CPU. Its vocabulary has rows that no token has.
fn engine() -> &'static Engine {
    static ENGINE: LazyLock<(TempDir, Engine)> = LazyLock::new(|| {
        let dir = TempDir::new();
        TinyModel { context: 600, ..TinyModel::default() }.write_dir(dir.path());
        let options = LoadOptions { device: "cpu".into(), threads: 2, ..LoadOptions::default() };
        let engine = open::load(dir.path(), &options, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
        (dir, engine)
    });
    &ENGINE.1
}

fn generate(params: GenParams) -> Result<Generation> {
    engine().generate(Input::Text("hello world".into()), params)
}

fn constrained(constraint: Constraint, max_tokens: u32) -> GenParams {
    GenParams { constraint: Some(constraint), ..greedy(max_tokens) }
}

fn hot(seed: u64) -> SamplingParams {
    SamplingParams { temperature: 1.5 + seed as f32 / 20.0, seed, ..SamplingParams::default() }
}

const ORDER: &str = r#"{"type": "object", "additionalProperties": false,
    "required": ["kind", "amount", "rows"], "properties": {
        "kind": {"enum": ["买", "sell", null]},
        "amount": {"type": "number", "minimum": -10, "exclusiveMaximum": 250},
        "rows": {"type": "array", "minItems": 1, "maxItems": 2,
            "items": {"type": "array", "maxItems": 3, "items": {"type": "integer", "minimum": 0, "maximum": 99}}},
        "note": {"type": "string", "maxLength": 6}}}"#;

/// Whether a text is what [`ORDER`] describes; not by the library's own parser.
fn is_order(text: &str) -> bool {
    let Ok(Value::Object(order)) = serde_json::from_str::<Value>(text) else { return false };
    let kind = [Value::from("买"), Value::from("sell"), Value::Null].contains(&order["kind"]);
    let amount = order["amount"].as_f64().is_some_and(|amount| (-10.0..250.0).contains(&amount));
    let small = |cell: &Value| cell.as_u64().is_some_and(|cell| cell <= 99);
    let row = |row: &Value| row.as_array().is_some_and(|row| row.len() <= 3 && row.iter().all(small));
    let rows =
        order["rows"].as_array().is_some_and(|rows| (1..=2).contains(&rows.len()) && rows.iter().all(row));
    let note =
        order.get("note").is_none_or(|note| note.as_str().is_some_and(|note| note.chars().count() <= 6));
    let names = ["kind", "amount", "rows", "note"];
    kind && amount && rows && note && order.keys().all(|key| names.contains(&key.as_str()))
}

/// Whether a text is a date with a comment behind it.
fn is_dated(text: &str) -> bool {
    let Some((date, note)) = text.split_at_checked(7) else { return false };
    let digits = |range: std::ops::Range<usize>| date[range].bytes().all(|b| b.is_ascii_digit());
    date.is_ascii() && digits(0..4) && &date[4..5] == "-" && digits(5..7) && {
        let letters = note.strip_prefix(": ").unwrap_or("");
        note.is_empty()
            || ((1..=5).contains(&letters.len()) && letters.bytes().all(|b| b.is_ascii_lowercase()))
    }
}

const DATED: &str = "[0-9]{4}-[0-9]{2}(: [a-z]{1,5})?";
const SUM: &str = "start: term (/[+*]/ term)~0..3\nterm: \"(\" start \")\" | /[1-9][0-9]?/";

fn is_sum(text: &str) -> bool {
    let mut depth = 0i32;
    let brackets = text.chars().all(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth >= 0 && "()+*0123456789".contains(c)
    });
    brackets && depth == 0 && !text.is_empty() && !text.starts_with(['+', '*']) && !text.ends_with(['+', '*'])
}

#[test]
fn whatever_the_model_prefers_the_text_fits() {
    let mut ends = [0; 2];
    for seed in 0..60 {
        let sampling = if seed == 0 { SamplingParams::default() } else { hot(seed) };
        let run = |constraint| {
            let made =
                generate(GenParams { sampling: sampling.clone(), ..constrained(constraint, 0) }).unwrap();
            assert_eq!(made.logprobs.len(), made.tokens.len());
            made
        };
        let made = run(Constraint::json_schema(ORDER));
        assert!(is_order(&made.text) || made.finish == Finish::Context, "seed {seed}: {}", made.text);
        ends[usize::from(made.finish == Finish::Context)] += 1;
        let made = run(Constraint::regex(DATED));
        assert!(is_dated(&made.text), "seed {seed}: {}", made.text);
        assert!(matches!(made.finish, Finish::Stop | Finish::Eos), "{:?}", made.finish);
        let made = run(Constraint::lark(SUM));
        assert!(is_sum(&made.text) || made.finish == Finish::Context, "seed {seed}: {}", made.text);
    }
    assert!(ends[0] > 40, "few texts were complete: {ends:?}");
}

/// Requests of all kinds at once: each as if it ran alone.
#[test]
fn a_batch_of_constraints_and_free_texts_is_each_of_them_alone() {
    let constraints = [
        None,
        Some(Constraint::json_schema(ORDER)),
        Some(Constraint::regex(DATED)),
        None,
        Some(Constraint::lark(SUM)),
        Some(Constraint::regex("[\u{4E00}-\u{9FFF}]{3,9}。")),
    ];
    let params: Vec<GenParams> = (0..24)
        .map(|i| GenParams {
            constraint: constraints[i % constraints.len()].clone(),
            sampling: if i % 4 == 0 { SamplingParams::default() } else { hot(i as u64) },
            speculate: if i % 3 == 0 { 7 } else { 0 },
            logprobs: (i % 2) as u32,
            ..greedy(40)
        })
        .collect();
    let alone: Vec<Generation> =
        params.iter().map(|p| generate(GenParams { speculate: 0, ..p.clone() }).unwrap()).collect();
    let input = || Input::Text("hello world".into());
    let requests: Vec<_> = params.iter().map(|p| engine().submit(input(), p.clone()).unwrap()).collect();
    for ((request, alone), params) in requests.iter().zip(&alone).zip(&params) {
        let made = request.wait().unwrap();
        assert_eq!((&made.text, &made.tokens, made.finish), (&alone.text, &alone.tokens, alone.finish));
        assert_eq!((&made.logprobs, &made.top), (&alone.logprobs, &alone.top), "{params:?}");
    }
}

/// The probability that is told is the model's own, without the constraint.
#[test]
fn log_probabilities_are_the_models() {
    let made = generate(GenParams { logprobs: 1, ..constrained(Constraint::regex("[0-9]{6}"), 0) }).unwrap();
    assert_eq!((made.tokens.len(), made.finish), (6, Finish::Stop));
    let told = made.top.iter().zip(&made.logprobs);
    assert!(told.clone().all(|(best, chosen)| best.logprob >= *chosen));
    assert!(made.top.iter().zip(&made.tokens).any(|(best, chosen)| best.token != *chosen));
}

#[test]
fn streamed_pieces_are_whole_characters_and_together_the_text() {
    let params = GenParams { sampling: hot(4), ..constrained(Constraint::json_schema(ORDER), 0) };
    let whole = generate(params.clone()).unwrap();
    let request = engine().submit(Input::Text("hello world".into()), params).unwrap();
    let (mut text, mut tokens) = (String::new(), Vec::new());
    while let Next::Event(event) = request.next(None).unwrap() {
        if let Event::Text { text: piece, tokens: made, .. } = event {
            text.push_str(&piece);
            tokens.extend(made);
        }
    }
    assert_eq!((text, tokens), (whole.text, whole.tokens));
}

#[test]
fn the_end_is_told_as_it_was() {
    let run = |params: GenParams| {
        let made = generate(params).unwrap();
        (made.text.clone(), made.finish, made.timings.output_tokens)
    };
    // Nothing can follow: no token is spent on the end.
    let fixed = constrained(Constraint::regex("a"), 0);
    assert_eq!(run(fixed.clone()), ("a".into(), Finish::Stop, 1));
    assert_eq!(run(GenParams { max_tokens: 1, ..fixed.clone() }), ("a".into(), Finish::Stop, 1));
    assert_eq!(run(GenParams { ignore_eos: true, ..fixed.clone() }), ("a".into(), Finish::Stop, 1));
    assert_eq!(run(GenParams { min_tokens: 5, max_tokens: 9, ..fixed }), ("a".into(), Finish::Stop, 1));
    assert_eq!(run(constrained(Constraint::regex(""), 0)), (String::new(), Finish::Stop, 0));
    // The model says that it ends, or the request's token does, where the text is complete.
    let eos = tokenizer::EOS as u32;
    let wants = |id: u32| SamplingParams { logit_bias: vec![(id, 1000.0)], ..SamplingParams::default() };
    let many = constrained(Constraint::regex("aa(bb)*"), 0);
    let ended = GenParams { sampling: wants(eos), ..many.clone() };
    assert_eq!(run(ended.clone()), ("aa".into(), Finish::Eos, 3));
    assert_eq!(run(GenParams { min_tokens: 3, ..ended.clone() }), ("aabb".into(), Finish::Eos, 5));
    assert_eq!(run(GenParams { ignore_eos: true, max_tokens: 7, ..ended }).1, Finish::Length);
    let mask = 3 + tokenizer::BASE as u32;
    let stopped = GenParams { stop_tokens: vec![mask], sampling: wants(mask), ..many.clone() };
    assert_eq!(run(stopped), ("aa".into(), Finish::Stop, 3));
    // A stop token that fits nowhere is never chosen; one that spells text ends it there, complete or not.
    let byte = |byte: u8| engine().tokenizer().unwrap().token_id(&(byte as char).to_string()).unwrap();
    let foreign = GenParams { stop_tokens: vec![byte(b'q')], sampling: wants(byte(b'b')), ..many.clone() };
    assert_eq!(run(GenParams { max_tokens: 6, ..foreign }), ("aabbbb".into(), Finish::Length, 6));
    let inside = GenParams { stop_tokens: vec![byte(b'b')], sampling: wants(byte(b'b')), ..many.clone() };
    assert_eq!(run(inside), ("aa".into(), Finish::Stop, 3));
    // Stop strings and limits, too.
    let string = GenParams { stop: vec!["ab".into()], sampling: wants(byte(b'b')), ..many.clone() };
    assert_eq!(run(string), ("a".into(), Finish::Stop, 3));
    assert_eq!(run(GenParams { max_tokens: 1, ..many.clone() }), ("a".into(), Finish::Length, 1));
    let prefix = GenParams { echo: true, ..constrained(Constraint::regex("a"), 0) };
    assert_eq!(run(prefix).0, "hello worlda");
    let full = engine().generate(Input::Tokens(vec![5; 596]), many).unwrap();
    assert!(matches!(full.finish, Finish::Context | Finish::Eos), "{:?}", full.finish);
}

#[test]
fn what_cannot_be_met_ends_the_request_alone() {
    let free =
        engine().submit(Input::Text("hello".into()), GenParams { ignore_eos: true, ..greedy(80) }).unwrap();
    let refused = |params: GenParams| {
        let error = generate(params).unwrap_err();
        assert_eq!(error.status, Status::Constraint, "{error}");
        error.message
    };
    assert!(refused(constrained(Constraint::regex("a("), 0)).contains("line 1, column 2"));
    assert!(refused(constrained(Constraint::json_schema("{\"enum\": []}"), 0)).contains("Unsatisfiable"));
    // A text that comes to where no token can follow: what was made is told, and then the error.
    let dead = constrained(Constraint::lark("start: \"a\" </s> \"b\""), 0);
    let request = engine().submit(Input::Text("hello".into()), dead.clone()).unwrap();
    let mut text = String::new();
    let error = loop {
        match request.next(None).unwrap() {
            Next::Event(Event::Text { text: piece, .. }) => text.push_str(&piece),
            Next::Event(Event::Finish { reason, error }) => {
                assert_eq!(reason, Finish::Error);
                break error.unwrap();
            }
            Next::Event(Event::Prefill { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((error.status, text.as_str()), (Status::Constraint, "a"));
    assert!(error.message.contains("not complete"), "{error}");
    // Bias that forbids all that is allowed.
    let forbidden: Vec<_> = (0..288).map(|id| (id, f32::NEG_INFINITY)).collect();
    let sampling = SamplingParams { logit_bias: forbidden, ..SamplingParams::default() };
    assert!(refused(GenParams { sampling, ..constrained(Constraint::regex("a"), 0) }).contains("bias"));
    assert_eq!(free.wait().unwrap().tokens.len(), 80);
    assert!(engine().check().is_ok());
}

#[test]
fn speculation_proposes_what_is_forced_and_changes_nothing() {
    let mut accepted = 0;
    for seed in 0..12 {
        for constraint in [
            Constraint::json_schema(ORDER),
            Constraint::regex("(hello world, ){3}[0-9]{3}( hello hello){4}"),
            Constraint::lark("start: (\"hello \" /[0-9]/ \" world \")~4"),
        ] {
            let sampling = if seed == 0 { SamplingParams::default() } else { hot(seed) };
            let plain = GenParams { sampling, ..constrained(constraint, 120) };
            let without = generate(plain.clone()).unwrap();
            let with = generate(GenParams { speculate: 7, ..plain }).unwrap();
            assert_eq!(
                (&with.text, &with.tokens, with.finish),
                (&without.text, &without.tokens, without.finish)
            );
            assert_eq!(with.logprobs, without.logprobs);
            assert!(with.timings.accepted_tokens <= with.timings.proposed_tokens);
            accepted += with.timings.accepted_tokens;
        }
    }
    assert!(accepted > 60, "{accepted} of the forced tokens were right");
}

/// The first fifty ids of the small vocabulary: `!` to `Q`, and an end.
fn mock(manner: Manner) -> (Engine, Arc<Mutex<Seen>>) {
    let dir = TempDir::new();
    tokenizer::write_files(dir.path(), TinyTokenizer::Json);
    let tokenizer = Some(Tokenizer::open(dir.path()).unwrap());
    let info = EngineInfo { stop_ids: vec![0], ..info(manner.kv_blocks, manner.block_tokens) };
    let seen = Arc::default();
    let executor = Box::new(Mock::new(plain(), manner, Arc::clone(&seen)));
    let parts = Parts { info, tokenizer, chat: None, executor, max_waiting: 64, clock: Clock::real() };
    (Engine::start(parts).unwrap(), seen)
}

#[test]
fn being_put_back_and_the_manner_of_the_device_change_no_text() {
    let constraint = Constraint::regex("([0-9]{2}:[A-F]{1,4},){9,12}[.;]");
    let params = |i: u64| GenParams {
        sampling: if i.is_multiple_of(2) { SamplingParams::default() } else { hot(i) },
        speculate: if i.is_multiple_of(3) { 5 } else { 0 },
        ..constrained(constraint.clone(), 0)
    };
    let input = |i: u64| Input::Tokens(prompt(i as usize, 40 + i as usize * 9));
    let fits = |text: &str| {
        let groups: Vec<&str> = text.trim_end_matches(['.', ';']).trim_end_matches(',').split(',').collect();
        (9..=12).contains(&groups.len()) && groups.iter().all(|group| group.len() >= 4 && &group[2..3] == ":")
    };
    let (roomy, _) = mock(Manner::default());
    let alone: Vec<Generation> = (0..8).map(|i| roomy.generate(input(i), params(i)).unwrap()).collect();
    assert!(alone.iter().all(|made| fits(&made.text) && made.finish == Finish::Stop), "{alone:?}");
    for (name, manner) in super::manners() {
        let tight =
            if manner.whole_prompts { manner } else { Manner { kv_blocks: 20, block_tokens: 16, ..manner } };
        let (engine, seen) = mock(tight);
        let requests: Vec<_> = (0..8).map(|i| engine.submit(input(i), params(i)).unwrap()).collect();
        for (request, alone) in requests.iter().zip(&alone) {
            assert_eq!(request.wait().unwrap().text, alone.text, "{name}");
        }
        assert_eq!(seen.lock().unwrap().carried, 0, "{name}: the device cannot choose under a constraint");
        assert!(name != "small blocks" || engine.stats().preemptions > 0);
    }
}

#[test]
fn a_deadline_and_a_cancel_leave_a_text_incomplete() {
    let (opener, manner) = gated(Manner::default());
    let (engine, _) = mock(manner);
    let opener = opener; // goes before the engine, which waits for its device
    let long = constrained(Constraint::regex("[0-9]{200}"), 0);
    let request = engine.submit(Input::Tokens(prompt(1, 4)), long.clone()).unwrap();
    let late = GenParams { deadline: Some(Duration::from_millis(20)), ..long };
    let late = engine.submit(Input::Tokens(prompt(1, 4)), late).unwrap();
    (0..10).for_each(|_| opener.send(()).unwrap());
    while !matches!(request.next(None).unwrap(), Next::Event(Event::Text { .. })) {}
    request.cancel();
    std::thread::sleep(Duration::from_millis(30));
    drop(opener);
    assert_eq!(request.wait().unwrap().finish, Finish::Cancelled);
    let made = late.wait().unwrap();
    assert_eq!(made.finish, Finish::Deadline);
    assert!(made.text.len() < 200 && made.text.bytes().all(|b| b.is_ascii_digit()));
}

#[test]
fn a_model_without_tokenizer_has_no_constraints() {
    let bench = super::bench(Manner::default());
    let params = constrained(Constraint::regex("a"), 0);
    let error = bench.engine.generate(Input::Tokens(vec![1]), params).unwrap_err();
    assert_eq!(error.status, Status::Unsupported);
    assert!(error.message.contains("tokenizer"), "{error}");
}

/// Many threads ask for the first constraint at once; each compiles its own.
#[test]
fn the_vocabulary_is_prepared_once_for_all_threads() {
    let dir = TempDir::new();
    TinyModel::default().write_dir(dir.path());
    let options = LoadOptions { device: "cpu".into(), threads: 1, ..LoadOptions::default() };
    let engine = open::load(dir.path(), &options, &mut |_, _, _| ControlFlow::Continue(())).unwrap();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                let digit = char::from(b'0' + i);
                let params = constrained(Constraint::regex(format!("{digit}{{5}}")), 0);
                let made = engine.generate(Input::Text("hello".into()), params).unwrap();
                assert_eq!(made.text, digit.to_string().repeat(5));
            });
        }
    });
}
