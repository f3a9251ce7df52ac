//! Chat templates that mean harm: each ends in an error, soon and within bounded memory. Alone in its program,
//! for it counts what the program takes.

#[path = "../support/allocations.rs"]
mod allocations;

use aquila::Status;
use aquila::text::{ChatTemplate, Tokenizer};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// Most that a template may take at once: the texts that it may make in all, and a copy or two of one.
const BYTES_MOST: u64 = 400 << 20;
/// Ten seconds by the clock, and the instruction under way.
const TIME_MOST: Duration = Duration::from_secs(20);

const CHAT: &str =
    r#"[{"role": "user", "content": "hello </s> world"}, {"role": "assistant", "content": "ok"}]"#;

fn tokenizer() -> Tokenizer {
    let json = r#"{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},
        "added_tokens":[{"id":3,"content":"</s>","special":true}],
        "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"}}"#;
    Tokenizer::from_json("t", json.as_bytes(), &[]).unwrap()
}

fn run(source: &str, tokenizer: &Tokenizer) -> aquila::Result<String> {
    let template = ChatTemplate::jinja(source, tokenizer)?;
    template.render(CHAT, Some("[{}]"), true).map(|rendered| rendered.text)
}

/// A loop that doubles `ns.x` by an expression.
fn doubling(start: &str, step: &str) -> String {
    format!(
        "{{% set ns = namespace(x={start}) %}}{{% for i in range(99) %}}{{% set ns.x = {step} %}}{{% endfor %}}{{{{ ns.x }}}}"
    )
}

#[test]
fn each_ends_soon_and_within_bounds() {
    const BIG: &str = "{% set big = 'x' * 30000000 %}";
    let with_big = |rest: &str| format!("{BIG}{rest}");
    let loops = |body: &str| {
        format!(
            "{{% for i in range(99999) %}}{{% for j in range(99999) %}}{body}{{% endfor %}}{{% endfor %}}"
        )
    };
    let hostile = [
        ("endless loop", loops(""), "instructions"),
        ("endless output", loops(&"x".repeat(90_000)), "text in all"),
        ("endless comparing", with_big(&format!("{{% set b = big ~ 'y' %}}{}", loops("{% if b == b ~ '' %}{% endif %}"))), ""),
        ("doubled by ~", doubling("'aaaaaaaa'", "ns.x ~ ns.x"), "text"),
        ("doubled by +", doubling("'aaaaaaaa'", "ns.x + ns.x"), "text"),
        ("doubled by *", doubling("'aaaaaaaa'", "ns.x * 9"), "text"),
        ("doubled by join", doubling("'aaaaaaaa'", "[ns.x, ns.x] | join"), ""),
        ("doubled by str.join", doubling("'aaaaaaaa'", "''.join([ns.x, ns.x])"), ""),
        ("doubled by format", doubling("'aaaaaaaa'", "'%s%s' | format(ns.x, ns.x)"), ""),
        ("doubled by str.format", doubling("'aaaaaaaa'", "'{0}{0}'.format(ns.x)"), ""),
        ("doubled by replace", doubling("'aaaaaaaa'", "ns.x | replace('a', 'aa')"), ""),
        ("doubled by tojson", doubling("'\\\\'", "ns.x | tojson"), ""),
        ("doubled lists", doubling("[1, 2]", "ns.x + ns.x"), ""),
        ("lists in lists, shared", doubling("[1]", "[ns.x, ns.x]"), ""),
        ("objects in objects, shared", doubling("{}", "{'a': ns.x, 'b': ns.x}"), ""),
        (
            "lists in lists, deep",
            "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}".into(),
            "nested",
        ),
        (
            "doubled by capturing",
            "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}\
             {% set ns.x = y %}{% endfor %}"
                .into(),
            "",
        ),
        (
            "doubled by a macro",
            "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(x='aaaaaaaa') %}\
             {% for i in range(99) %}{% set ns.x = f(ns.x) %}{% endfor %}"
                .into(),
            "",
        ),
        ("a namespace in itself", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{{ [ns] }}{{ ns | tojson }}{{ nothing() }}".into(), ""),
        ("a macro that calls itself", "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}".into(), "recursion"),
        ("a loop in itself", "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".into(), ""),
        ("products of constants", "{{ 'x' * 99999999 }}".repeat(500), ""),
        ("sums of products", format!("{{{{ {} }}}}", vec!["'x' * 99999999"; 500].join(" ~ ")), ""),
        ("a power", "{{ 10 ** 10 ** 10 }}".into(), ""),
        ("a long range", "{{ range(10**12) | list }}".into(), ""),
        ("replace", with_big("{{ big | replace('x', big) }}"), ""),
        ("replace nothing", with_big("{{ big | replace('', big) }}"), ""),
        ("join with long between", with_big("{{ range(99999) | join(big) }}"), ""),
        ("map with long default", with_big("{{ range(99999) | map(attribute='a', default=big) | join }}"), ""),
        ("sorted characters", with_big("{{ big | sort | list | length }}"), ""),
        ("characters", with_big("{{ big | map('upper') | list }}"), ""),
        ("split", with_big("{{ big.split('x') }}"), ""),
        ("indent", "{{ ('a\\n' * 100000) | indent(100000) }}".into(), ""),
        ("indent by much", "{{ 'a' | indent(10**12) }}".into(), ""),
        ("a wide format", "{{ '%999999999999d' | format(1) }}".into(), ""),
        ("a wide str.format", "{{ '{:>999999999999}'.format('x') }}".into(), ""),
        ("a format of fields", with_big(&format!("{{{{ '{}'.format(big) }}}}", "{0}".repeat(50_000))), ""),
        ("wide JSON", "{{ [[[[1]]]] | tojson(indent=10**12) }}{{ nothing() }}".into(), ""),
        ("tags without end", "{% if true %}".repeat(20_000), ""),
        ("brackets", format!("{{{{ {}1{} }}}}", "[".repeat(60_000), "]".repeat(60_000)), ""),
        ("too long", "x".repeat(1 << 20), "expected at most"),
        ("Python's inside", "{{ ''.__class__.__mro__[1].__subclasses__() }}".into(), "__"),
        ("a file", "{% include '/etc/passwd' %}".into(), ""),
        ("itself", "{% include 'chat_template' %}".into(), ""),
        ("another", "{% extends 'chat_template' %}".into(), ""),
        ("an import", "{% import 'os' as os %}{{ os.system('x') }}".into(), ""),
        ("no such function", "{{ lipsum(1000000) }}".into(), ""),
        ("no such filter", "{{ 'x' | center(10**12) }}".into(), "filter"),
        ("a filter beneath", "{{ ['%9999999999d'] | map('format!', 1) | list }}".into(), "filter"),
        ("no such variable", "{{ a.b.c }}".into(), ""),
    ];
    let tokenizer = tokenizer();
    for (name, source, part) in &hostile {
        let start = Instant::now();
        let (outcome, most) = allocations::peak_of(|| run(source, &tokenizer));
        let (took, error) = (start.elapsed(), outcome.expect_err(name));
        println!("{name}: {took:?}, {} MiB: {error}", most >> 20);
        assert!(error.status == Status::Format && error.message.contains(part), "{name}: {error}");
        assert!(error.message.len() < 1000, "{name}: a message of {} bytes", error.message.len());
        assert!(took < TIME_MOST, "{name}: {took:?}");
        assert!(most < BYTES_MOST, "{name}: {} MiB", most >> 20);
    }
}

/// A long chat is no crime: a template may collect the text message by message, which makes it anew each time.
#[test]
fn a_long_chat_that_is_collected_renders() {
    let message = format!(r#"{{"role": "user", "content": "{}"}}"#, "word ".repeat(600));
    let chat = format!("[{}]", vec![message.as_str(); 400].join(","));
    let source = "{% set ns = namespace(out='') %}{% for m in messages %}{% set ns.out = ns.out ~ m.role + ': ' %}\
                  {% set ns.out = ns.out + m.content %}{% set ns.out = ns.out ~ '\n' %}{% endfor %}{{ ns.out }}";
    let template = ChatTemplate::jinja(source, &tokenizer()).unwrap();
    let rendered = template.render(&chat, None, true).unwrap();
    assert_eq!(rendered.text.len(), 400 * (3000 + 7));
}

/// The words of a template that refuses reach the caller; so does the line of one that fails.
#[test]
fn what_a_template_says_is_given_back() {
    let tokenizer = tokenizer();
    let error =
        run("\n\n{{ raise_exception('system role: ' ~ messages | length) }}", &tokenizer).unwrap_err();
    assert_eq!(error.status, Status::Argument);
    assert_eq!(error.message, "messages: the chat template refuses them: system role: 2");
    let inside = "{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}";
    assert!(run(inside, &tokenizer).unwrap_err().message.ends_with("refuses them: deep"));
    let error = run("\n\n{{ nothing() }}", &tokenizer).unwrap_err();
    assert!(error.message.starts_with("chat template line 3: "), "{error}");
    let error = run("\n{% for %}", &tokenizer).unwrap_err();
    assert!(error.message.starts_with("chat template line 2: "), "{error}");
}

/// Pieces of templates, of which most do not fit together.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{{ ",
        " }}",
        "{% ",
        " %}",
        "{%- ",
        " -%}",
        "for m in messages",
        "endfor",
        "if ",
        "else",
        "endif",
        "set x = ",
        "set ns = namespace(x='a')",
        "set ns.x = ns.x ~ ns.x",
        "macro f(a, b=1)",
        "endmacro",
        "f(x, b=ns.x)",
        "x",
        "m",
        "m.content",
        "messages",
        "tools",
        "loop.index",
        "loop(",
        "recursive",
        " ~ ",
        " + ",
        " * ",
        " ** ",
        "'a'",
        "\"</s>\"",
        "99999",
        "-1",
        "1.5",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        " | ",
        "tojson",
        "tojson(indent=2)",
        "join(",
        "replace('a', x)",
        "length",
        "list",
        "map(attribute='content')",
        "selectattr('role')",
        "sort",
        "string",
        ".split('a')",
        ".strip()",
        ".format(x)",
        "[::-1]",
        "[1:]",
        " in ",
        " is defined",
        " is not none",
        " == ",
        " and ",
        "not ",
        "raise_exception('no')",
        "strftime_now('%Y')",
        "range(99)",
        "中",
        "\n",
        " ",
        "generation",
        "endgeneration",
        "break",
        "continue",
        "#}",
        "{#",
        "block b",
        "endblock",
        "call f()",
        "endcall",
        "filter upper",
        "endfilter",
        "loop.cycle(1, 2)",
        "do ns",
        "__one",
        "guard!",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn random_templates_render_or_are_refused(source in prop_oneof![pieces(), any::<String>()]) {
        thread_local! {
            static TOKENIZER: Tokenizer = tokenizer();
        }
        TOKENIZER.with(|tokenizer| {
            let Ok(template) = ChatTemplate::jinja(&source, tokenizer) else { return Ok(()) };
            let start = Instant::now();
            if let Ok(rendered) = template.render(CHAT, Some("[{\"a\": [1, {}]}]"), true) {
                prop_assert!(rendered.literal.iter().all(|range| rendered.text.get(range.clone()).is_some()));
                let ids = tokenizer.encode_rendered(&rendered).unwrap();
                prop_assert!(ids.iter().all(|&id| id < 4));
            }
            prop_assert!(start.elapsed() < TIME_MOST);
            Ok(())
        })?;
    }
}
