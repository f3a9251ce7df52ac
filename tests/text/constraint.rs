//! Which tokens a constraint allows: for real vocabularies the same as going through all ids, and asking of each whether
//! its bytes can go on, finds.

use crate::data::{directory, small_json};
use crate::languages::{Booleans, Brackets, Ideographs, Language, Listed, Pairs, Quoted};
use aquila::text::constraint::{Constraint, Ends, Grammars, Kind, Matcher};
use aquila::text::{Tokenizer, stop_ids};
use aquila::{Result, Status};
use proptest::prelude::*;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A vocabulary and the ids that end a text in it.
struct Model {
    tokenizer: Tokenizer,
    grammars: Grammars,
    rows: usize,
    ends: Ends,
}

impl Model {
    /// With rows in the embedding that no token has, as many models pad it.
    fn new(tokenizer: Tokenizer) -> Model {
        let rows = tokenizer.vocab() + 56;
        let grammars = Grammars::new(&tokenizer, rows).unwrap();
        let mut eos = stop_ids(&tokenizer, &[], &[]);
        if eos.is_empty() {
            eos.extend(tokenizer.token_id("</s>"));
        }
        let ends = Ends { eos, stops: Vec::new() };
        Model { tokenizer, grammars, rows, ends }
    }

    fn begin(&self, constraint: &Constraint) -> Result<Matcher> {
        self.grammars.compile(constraint, self.ends.clone())
    }
}

fn small() -> &'static Model {
    static MODEL: LazyLock<Model> = LazyLock::new(|| {
        Model::new(Tokenizer::from_json("small", small_json().to_string().as_bytes(), &[]).unwrap())
    });
    &MODEL
}

fn is_allowed(matcher: &Matcher, id: u32) -> bool {
    matcher.allowed().get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

/// Seeded numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// Walks through texts of a language at random, and compares what is allowed at each place with all ids.
fn check<L: Language>(model: &Model, constraint: &Constraint, language: &L, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let (mut random, mut state) = (Random(seed), language.start());
        let mut matcher = model.begin(constraint).unwrap();
        let mut text = Vec::new();
        for place in 0..24 {
            let complete = language.accepts(&state);
            let mut others = Vec::new();
            for id in 0..model.rows as u32 {
                let bytes = model.tokenizer.token_bytes(id);
                let spells = !bytes.is_empty()
                    && !model.tokenizer.is_special(id)
                    && language.run(&state, bytes).is_some();
                let expected = spells || (complete && model.ends.eos.contains(&id));
                let found = is_allowed(&matcher, id);
                assert_eq!(
                    found,
                    expected,
                    "{constraint:?}, seed {seed}, place {place}: token {id} {:?} after {:?}",
                    String::from_utf8_lossy(bytes),
                    String::from_utf8_lossy(&text)
                );
                if spells {
                    others.push(id);
                }
            }
            assert_eq!(matcher.is_complete(), complete, "{constraint:?} after {text:?}");
            assert_eq!(matcher.has_ended(), others.is_empty(), "{constraint:?} after {text:?}");
            assert!(matcher.allowed().len() * 32 < model.rows + 96, "bits for ids that do not exist");
            if others.is_empty() {
                break;
            }
            // What is forced is what all texts go on with, and asking for it changes nothing.
            if random.below(2) == 0 {
                let forced = matcher.forced();
                assert!(language.run(&state, &forced).is_some(), "{constraint:?}: {forced:?} after {text:?}");
                assert!(!complete || forced.is_empty());
            }
            // Every second token is a long one, for those are rare among the allowed.
            let mut token = others[random.below(others.len())];
            if random.below(2) == 0 {
                let length = |id: &u32| model.tokenizer.token_bytes(*id).len();
                let longest = others.iter().map(length).max().unwrap();
                let long: Vec<u32> = others.iter().copied().filter(|id| length(id) * 2 > longest).collect();
                token = long[random.below(long.len())];
            }
            let wrong = (1..model.rows as u32).find(|id| !others.contains(id)).unwrap();
            assert_eq!(
                matcher.count_allowed(&[token, wrong]),
                1 + usize::from(follows(language, &state, model, &[token, wrong]))
            );
            let bytes = model.tokenizer.token_bytes(token);
            state = language.run(&state, bytes).unwrap();
            text.extend_from_slice(bytes);
            matcher.advance(token).unwrap();
        }
    }
}

fn follows<L: Language>(language: &L, state: &L::State, model: &Model, tokens: &[u32]) -> bool {
    let spells = |id: &u32| !model.tokenizer.is_special(*id) && !model.tokenizer.token_bytes(*id).is_empty();
    let bytes: Vec<u8> = tokens.iter().flat_map(|&id| model.tokenizer.token_bytes(id)).copied().collect();
    tokens.iter().all(spells) && language.run(state, &bytes).is_some()
}

/// All languages, each with a constraint that says the same.
fn check_all(model: &Model, seeds: u64) {
    let dates: Vec<String> = (1..=12)
        .flat_map(|m| (1..=31).flat_map(move |d| [2024, 2025].map(|y| format!("{y}-{m:02}-{d:02}"))))
        .collect();
    let date = Constraint::regex(r"202[45]-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])".replace(r"\d", "[0-9]"));
    check(model, &date, &Listed(dates), 0..seeds);
    let answers = ["是", "是的", "不", "不是", "不知道。", "不知道！", "yes", "yes and no"];
    let listed = Listed(answers.map(String::from).to_vec());
    check(model, &Constraint::regex("是的?|不(是|知道[。！])?|yes( and no)?"), &listed, 0..seeds);
    let lark =
        "start: YES | NO | /yes( and no)?/\nYES: \"是\" \"的\"?\nNO: \"不\" (\"是\" | \"知道\" /[。！]/)?";
    check(model, &Constraint::lark(lark), &listed, 0..seeds);
    check(model, &Constraint::regex("[\u{4E00}-\u{9FFF}]{2,8}"), &Ideographs { low: 2, high: 8 }, 0..seeds);
    check(model, &Constraint::regex("(aa|bb)*c?"), &Pairs, 0..seeds);
    let quoted = r#""([^"\\\x00-\x1F\x7F]|\\["\\/bfnrt])*""#;
    check(model, &Constraint::regex(quoted), &Quoted, 0..seeds);
    let brackets = "start: \"(\" start \")\" | \"[\" start \"]\" | \"x\"";
    check(model, &Constraint::lark(brackets), &Brackets, 0..seeds);
    let array = r#"{"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}"#;
    check(model, &Constraint::json_schema(array), &Booleans, 0..seeds);
    let object = r#"{"type": "object", "additionalProperties": false, "required": ["n", "t"], "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 112}, "t": {"enum": ["a", "甲乙", null]}},
        "x-guidance": {"whitespace_flexible": false}}"#;
    let ends = ["\"a\"", "\"甲乙\"", "null"];
    let values = (0..=112).flat_map(|n| ends.map(|end| format!("{{\"n\":{n},\"t\":{end}}}"))).collect();
    check(model, &Constraint::json_schema(object), &Listed(values), 0..seeds);
}

#[test]
fn a_small_vocabulary_is_allowed_exactly() {
    check_all(small(), 12);
}

#[test]
fn the_aquila_vocabulary_is_allowed_exactly() {
    let Some(dir) = directory("aquila-tokenizer") else { return };
    let model = Model::new(Tokenizer::open(&dir).unwrap());
    assert_eq!((model.rows, &model.ends.eos[..]), (100_064, &[100_007, 0][..]));
    check_all(&model, 2);
}

#[test]
fn other_real_vocabularies_are_allowed_exactly() {
    for name in ["smollm2-hf", "qwen3", "llama3"] {
        let Some(dir) = directory(name) else { continue };
        check_all(&Model::new(Tokenizer::open(&dir).unwrap()), 1);
    }
}

fn refused(constraint: &Constraint) -> String {
    let error = small().begin(constraint).err().unwrap_or_else(|| panic!("{constraint:?} was taken"));
    assert_eq!(error.status, Status::Constraint, "{error}");
    assert!(error.message.starts_with("constraint: ") && !error.message.contains('\n'), "{error}");
    error.message
}

#[test]
fn what_cannot_be_met_is_refused_with_its_place() {
    let schemas = [
        ("", "no JSON: EOF"),
        ("{\"type\": \"object\",\n  \"properties\": {,}}", "line 2 column 18"),
        ("[1]", "expected an object, found an array"),
        ("null", "found null"),
        ("false", "schema is false"),
        (r#"{"type": "strin"}"#, "Invalid type: strin"),
        (r#"{"not": {}}"#, r#"["not"]"#),
        (r#"{"type": "string", "format": "x"}"#, "Unknown format: x"),
        (r#"{"type": "string", "pattern": "("}"#, "unclosed group"),
        (r#"{"type": "integer", "minimum": 5, "maximum": 3}"#, "minimum (5) is greater"),
        (r#"{"enum": []}"#, "Unsatisfiable"),
        (r#"{"allOf": [{"type": "string"}, {"type": "number"}]}"#, "incompatible types"),
        (r##"{"$ref": "#"}"##, "no text fits it"),
        (r#"{"$ref": "http://example.com/s"}"#, "http://example.com/s"),
        (r##"{"$ref": "#/$defs/none"}"##, "'$defs' not found"),
        (r#"{"x-guidance": {"foo": 3}}"#, "unknown field `foo`"),
    ];
    for (text, part) in schemas {
        let message = refused(&Constraint::json_schema(text));
        assert!(message.contains("JSON schema: ") && message.contains(part), "{text}: {message}");
    }
    let expressions = [
        ("ab(", "line 1, column 3: unclosed group"),
        ("a\n[z-a]", "line 2, column 2: invalid character class range"),
        ("a)|(b", "line 1, column 2: unopened group"),
        ("a\\", "column 2: incomplete escape"),
        ("(?=a)b", "look-ahead"),
        (r"(a)\1", "backreferences"),
        ("a^b", "^ as the first"),
        (r"a\b", "^ as the first"),
        (r"[^\s\S]", "no text fits it"),
        (r"(?-u:\xff)", "invalid UTF-8"),
    ];
    for (text, part) in expressions {
        let message = refused(&Constraint::regex(text));
        assert!(message.contains("regular expression: ") && message.contains(part), "{text}: {message}");
    }
    let grammars = [
        ("", "no start rule"),
        ("start: x", "line 1, column 8: unknown name: \"x\""),
        ("start: \"a\"\nother: (\"b\"", "line 2, column 12: Expected token ')'"),
        ("start: /(/", "line 1, column 8: invalid regex \"(\" (in regex): unclosed group"),
        ("start: A\nA: A \"x\"", "circular reference"),
        ("start: start \"a\"", "no text fits it"),
        ("%import common.FOO\nstart: FOO", "common.FOO"),
        ("start: <nothing>", "unknown special token: \"<nothing>\""),
        ("start: <[99999999]>", "too large"),
        ("start: @other", "unknown grammar @other"),
        ("start: %json {\"type\": 3}", "type must be a string"),
    ];
    for (text, part) in grammars {
        let message = refused(&Constraint::lark(text));
        assert!(message.contains("grammar: ") && message.contains(part), "{text}: {message}");
    }
}

/// Input that is deep, long or large when it is written out, within the time that a request may take. Some of it is taken,
/// for what is large is only large when it is walked through.
#[test]
fn hostile_constraints_take_bounded_time() {
    let deep = |open: &str, count| open.repeat(count);
    let closed = |open: &str, close: &str, count| format!("{}a{}", open.repeat(count), close.repeat(count));
    let rules = |count| (0..count).map(|i| format!("r{i}: r{} \"a\"\n", i + 1)).collect::<String>();
    let members =
        |count| (0..count).map(|i| format!("\"w{i}\": {{\"maxLength\": {i}}}, ")).collect::<String>();
    let constraints = [
        Constraint::json_schema(deep("[", 60_000)),
        Constraint::json_schema(deep("{\"items\":", 7_000)),
        Constraint::json_schema(format!("{{\"properties\": {{{}\"z\": {{}}}}}}", members(2_000))),
        Constraint::json_schema(r#"{"type": "string", "minLength": 100000000}"#),
        Constraint::json_schema(r#"{"items": {"type": "integer"}, "type": "array", "minItems": 1000000}"#),
        Constraint::json_schema(format!(
            "{{\"type\":\"string\",\"pattern\":\"{}\"}}",
            "(a|bc)?".repeat(5_000)
        )),
        Constraint::regex(deep("(", 16_000)),
        Constraint::regex(closed("(", ")", 8_000)),
        Constraint::regex(closed("(", ")", 249)),
        Constraint::regex("((a{1000}){1000}){1000}"),
        Constraint::regex("((((((((a?){30}){30}){30}){30}){30}){30}){30}){30}"),
        Constraint::regex(r"(\w{500}|\d{500}|x{700})*"),
        Constraint::regex("(.*){1000}x"),
        Constraint::regex("(?:ab|cd)*".repeat(1_600)),
        Constraint::regex("[a-z]?".repeat(2_700)),
        Constraint::regex("a|".repeat(8_000)),
        Constraint::lark(format!("start: {}", deep("(", 60_000))),
        Constraint::lark(format!("start: {}\nA: \"a\"", "A? ".repeat(3_000))),
        Constraint::lark(format!("start: A\nA: {}", "\"a\"? ".repeat(10_000))),
        Constraint::lark(format!("start: r0\n{}r3000: \"x\"", rules(3_000))),
        Constraint::lark("start: ((\"a\"|\"b\"){1000}){1000}"),
        Constraint::lark("start: a\na: b | a a | \"x\"\nb: a | b b | \"x\""),
    ];
    for constraint in constraints {
        let shown = || constraint.text.chars().take(40).collect::<String>();
        let start = Instant::now();
        match small().begin(&constraint) {
            Ok(matcher) => walk(small(), matcher, 40, &mut Random(1)),
            Err(error) => assert_eq!(error.status, Status::Constraint, "{}: {error}", shown()),
        }
        // A second here, and ten times as much where the machine is busy or the build is a slow one.
        assert!(start.elapsed() < Duration::from_secs(20), "{}: {:?}", shown(), start.elapsed());
    }
    for (constraint, most) in [
        (Constraint::json_schema(" ".repeat((64 << 10) + 1)), "65537 bytes, at most 65536"),
        (Constraint::regex("a".repeat((16 << 10) + 1)), "16385 bytes, at most 16384"),
        (Constraint::lark("a".repeat((64 << 10) + 1)), "65537 bytes, at most 65536"),
    ] {
        assert!(refused(&constraint).contains(most));
    }
}

/// Chooses allowed tokens at random. Only a limit of the parser may end it before its end.
fn walk(model: &Model, mut matcher: Matcher, most: usize, random: &mut Random) {
    for _ in 0..most {
        let allowed: Vec<u32> = (0..model.rows as u32).filter(|&id| is_allowed(&matcher, id)).collect();
        let tokens: Vec<u32> = allowed.iter().copied().filter(|id| !model.ends.eos.contains(id)).collect();
        assert_eq!(tokens.is_empty(), matcher.has_ended());
        assert_eq!(allowed.len() > tokens.len(), matcher.is_complete());
        if tokens.is_empty() {
            return;
        }
        let token = tokens[random.below(tokens.len())];
        assert_eq!(matcher.count_allowed(&[token]), 1, "a token that is allowed must be taken");
        if let Err(error) = matcher.advance(token) {
            assert_eq!(error.status, Status::Constraint, "{error}");
            return;
        }
    }
}

/// Special tokens are no text, however they are spelt, and ends are allowed at the end alone.
#[test]
fn special_tokens_come_only_where_a_grammar_names_them() {
    let model = small();
    let id = |text| model.tokenizer.token_id(text).unwrap();
    let (im_end, eos, begin, user) = (id("<|im_end|>"), id("</s>"), id("<s>"), id("<user>"));
    assert_eq!(model.ends.eos, [eos]);
    let matcher = model.begin(&Constraint::regex("(?s:.)*")).unwrap();
    assert!(is_allowed(&matcher, user) && is_allowed(&matcher, eos) && !is_allowed(&matcher, im_end));
    assert!((model.tokenizer.vocab()..model.rows).all(|id| !is_allowed(&matcher, id as u32)));
    let mut matcher = model.begin(&Constraint::lark("start: \"a\" <|im_end|> \"b\"?")).unwrap();
    assert!(!is_allowed(&matcher, im_end));
    matcher.advance(id("a")).unwrap();
    let only = |matcher: &Matcher, ids: &[u32]| {
        (0..model.rows as u32).all(|id| is_allowed(matcher, id) == ids.contains(&id))
    };
    assert!(only(&matcher, &[im_end]));
    matcher.advance(im_end).unwrap();
    assert!(only(&matcher, &[id("b"), eos]) && matcher.is_complete());
    // Every id that has a meaning, but no end before the end.
    let matcher = model.begin(&Constraint::lark("start: <[*]> \"b\"")).unwrap();
    assert!([im_end, begin, user, id("a")].iter().all(|&id| is_allowed(&matcher, id)));
    assert!(!is_allowed(&matcher, eos) && !is_allowed(&matcher, model.tokenizer.vocab() as u32));
    // A grammar that needs an end before the end cannot be met.
    let mut matcher = model.begin(&Constraint::lark("start: \"a\" </s> \"b\"")).unwrap();
    assert_eq!(matcher.advance(id("a")).unwrap_err().status, Status::Constraint);
}

/// What a request ends its text with is allowed where the text is complete, and where it is a part of the text.
#[test]
fn a_requests_own_ends_are_allowed_at_the_end() {
    let model = small();
    let id = |text| model.tokenizer.token_id(text).unwrap();
    let ends = Ends { eos: vec![id("</s>")], stops: vec![id("<|im_end|>"), id("b"), 1 << 30] };
    let mut matcher = model.grammars.compile(&Constraint::regex("a+b?c"), ends).unwrap();
    let stops =
        |matcher: &Matcher| ["</s>", "<|im_end|>", "b", "c"].map(|text| is_allowed(matcher, id(text)));
    assert_eq!(stops(&matcher), [false, false, false, false]);
    matcher.advance(id("aa")).unwrap();
    assert_eq!(stops(&matcher), [false, false, true, true]);
    assert!(matcher.allows_other_than(&[id("b"), id("b"), id("c"), 1 << 30]));
    matcher.advance(id("c")).unwrap();
    assert_eq!(stops(&matcher), [true, true, true, false]);
    assert!(matcher.is_complete() && matcher.has_ended());
    assert!(!matcher.allows_other_than(&[id("</s>"), id("<|im_end|>"), id("b")]));
}

/// An expression is one expression, whatever stands in it.
#[test]
fn expressions_mean_what_they_say() {
    let fits = |expression: &str, text: &str| {
        let mut matcher = small().begin(&Constraint::regex(expression)).unwrap();
        for &byte in text.as_bytes() {
            let token = (0..256).find(|&id| small().tokenizer.token_bytes(id) == [byte]).unwrap();
            if !is_allowed(&matcher, token) {
                return false;
            }
            matcher.advance(token).unwrap();
        }
        matcher.is_complete()
    };
    for (expression, good, bad) in [
        ("", "", "a"),
        ("^a$", "a", ""),
        ("/", "/", "\\"),
        (r"\/x", "/x", "\\/x"),
        ("a\tb\nc", "a\tb\nc", "a b c"),
        ("(?x) a # a note / here\n b", "ab", "a b"),
        ("(?i)straße", "STRAßE", "STRASSE"),
        (r"\\", "\\", "\\\\"),
        ("//", "//", "/"),
        ("#|\"", "\"", "#\""),
        ("(?s).", "\n", ""),
        (".", "中", "\n"),
        (r"\d", "٣", "x"),
        ("a|", "", "aa"),
    ] {
        assert!(fits(expression, good), "{expression:?} must take {good:?}");
        assert!(!fits(expression, bad), "{expression:?} must not take {bad:?}");
    }
}

/// The crate's tree would end the process at such a token: it goes as deep as the token is long.
#[test]
fn a_vocabulary_with_endless_tokens_is_survived() {
    let mut json = small_json();
    let long = "a".repeat(100_000);
    json["model"]["vocab"].as_object_mut().unwrap().insert(long, serde_json::json!(267));
    let tokenizer = Tokenizer::from_json("long", json.to_string().as_bytes(), &[]).unwrap();
    assert_eq!(tokenizer.longest_token(), 100_000);
    let grammars = Grammars::new(&tokenizer, tokenizer.vocab()).unwrap();
    let matcher = grammars.compile(&Constraint::regex("a*"), Ends::default()).unwrap();
    assert!(!is_allowed(&matcher, 267) && is_allowed(&matcher, u32::from(b'a')));
}

/// Pieces of the three languages in a jumble, so that many are understood.
fn jumble() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let pieces = prop::sample::select(vec![
        "start: ",
        "A",
        "B: ",
        "a",
        "\"a\"",
        "\"中\"",
        " | ",
        "?",
        "*",
        "+",
        "(",
        ")",
        "[",
        "]",
        "{2,3}",
        "/x+/",
        "\n",
        "%ignore / /",
        "%json ",
        "{",
        "}",
        "\"type\": ",
        "\"object\"",
        "\"string\"",
        "\"properties\": ",
        "\"items\": ",
        "\"enum\": ",
        "\"pattern\": ",
        "\"anyOf\": ",
        "\"$ref\": \"#\"",
        ", ",
        "1",
        "0.5",
        "true",
        "null",
        "\\d",
        "[a-z]",
        "\\w",
        "[^a]",
        ".",
        "^",
        "$",
        "(?i)",
        "(?P<stop>",
        "\\",
        "-",
        "<|im_end|>",
        "<[*]>",
        "~",
        "&",
        "[lazy]",
        "[stop=\"\"]",
        "start[max_tokens=2]: ",
        "start",
        "\u{0}",
        "\u{FF}",
        "%import common.INT",
        "//",
        "#",
        "\"required\": [\"a\"]",
    ]);
    let text = prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat().into_bytes());
    let bytes = prop::collection::vec(any::<u8>(), 0..60);
    (0u8..3, prop_oneof![4 => text, 1 => bytes])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    /// The fuzz target `constraint`, as far as random input leads.
    #[test]
    fn whatever_is_given_is_refused_or_can_be_met((kind, bytes) in jumble(), seed: u64) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let constraint = Constraint::new([Kind::JsonSchema, Kind::Regex, Kind::Lark][kind as usize], text);
        match small().begin(&constraint) {
            Ok(matcher) => walk(small(), matcher, 12, &mut Random(seed)),
            Err(error) => prop_assert_eq!(error.status, Status::Constraint, "{}", error),
        }
    }
}
