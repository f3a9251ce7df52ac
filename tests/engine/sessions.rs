//! Texts that grow from request to request: sessions, their copies, their files; and a context that shifts.

use super::*;
use aquila::engine::{Job, Session};
use std::path::PathBuf;

/// Blocks of 16 positions, plenty of them.
fn small_blocks() -> Manner {
    Manner { block_tokens: 16, kv_blocks: 100, ..Manner::default() }
}

fn on<'a>(session: &'a Session, tokens: &[u32], params: GenParams) -> Job<'a> {
    Job { session: Some(session), ..Job::new(Input::Tokens(tokens.to_vec()), params) }
}

fn say(engine: &Engine, session: &Session, tokens: &[u32], n: u32) -> aquila::engine::params::Generation {
    engine.run(on(session, tokens, greedy(n))).unwrap().wait().unwrap()
}

struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        File(std::env::temp_dir().join(format!("aquila-sessions-{}-{name}", std::process::id())))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn each_request_goes_on_where_the_one_before_ended() {
    for device_select in [false, true] {
        let bench = bench(Manner { device_select, ..small_blocks() });
        let session = bench.engine.session().unwrap();
        let mut text = Vec::new();
        for turn in 0..5 {
            let input = prompt(turn, 9);
            text.extend(&input);
            let made = say(&bench.engine, &session, &input, 20);
            assert_eq!(made.tokens, bench.plain.greedy(&text, 20), "turn {turn}");
            // All whole blocks but that of the last token, which was never computed.
            let known = if turn == 0 { 0 } else { (text.len() - 9 - 1) / 16 * 16 };
            assert_eq!(made.timings.cached_tokens as usize, known, "turn {turn}");
            text.extend(&made.tokens);
            assert_eq!(session.tokens().unwrap(), text);
        }
        // Nothing more is said: the text itself goes on.
        let made = say(&bench.engine, &session, &[], 5);
        assert_eq!(made.tokens, bench.plain.greedy(&text, 5));
        assert_eq!(session.len(), text.len() + 5);
    }
}

#[test]
fn copies_go_their_own_ways_and_a_cut_text_goes_on_from_there() {
    let bench = bench(small_blocks());
    let first = bench.engine.session().unwrap();
    let made = say(&bench.engine, &first, &prompt(1, 50), 20);
    let text = [prompt(1, 50), made.tokens].concat();
    let copies: Vec<Session> = (0..3).map(|_| first.fork().unwrap()).collect();
    assert_eq!(bench.engine.stats().sessions, 4);
    let inputs: Vec<Vec<u32>> = (0..3).map(|i| prompt(10 + i, 4)).collect();
    // All at once, and again after their siblings ran.
    for round in 0..2 {
        let requests: Vec<_> = copies
            .iter()
            .zip(&inputs)
            .map(|(copy, input)| bench.engine.run(on(copy, input, greedy(15))).unwrap())
            .collect();
        for ((request, copy), input) in requests.iter().zip(&copies).zip(&inputs) {
            let made = request.wait().unwrap();
            let text = [&text[..], input].concat();
            assert_eq!(made.tokens, bench.plain.greedy(&text, 15), "round {round}");
            assert_eq!(made.timings.cached_tokens, 64);
            assert_eq!(copy.tokens().unwrap(), [text, made.tokens].concat());
            copy.rollback(70).unwrap();
        }
    }
    assert_eq!(first.tokens().unwrap(), text, "what copies do is not seen");
    first.rollback(33).unwrap();
    assert_eq!(first.len(), 33);
    let made = say(&bench.engine, &first, &[7], 10);
    assert_eq!(made.tokens, bench.plain.greedy(&[&text[..33], &[7]].concat(), 10));
    let error = first.rollback(45).unwrap_err();
    assert_eq!(error.status, Status::Argument);
    assert!(error.message.contains("45") && error.message.contains("44"), "{}", error.message);
    first.rollback(0).unwrap();
    let error = bench.engine.run(on(&first, &[], greedy(1))).err().unwrap();
    assert_eq!(error.status, Status::Argument, "nothing to go on from");
    drop(copies);
    drop(first);
    assert_eq!(bench.engine.stats().sessions, 0);
}

#[test]
fn a_session_is_busy_while_a_request_runs_and_as_it_was_after_one_that_failed() {
    let (opener, manner) = gated(Manner { failing_submits: vec![30], ..small_blocks() });
    let bench = bench(manner);
    let opener = opener;
    let session = bench.engine.session().unwrap();
    let request = bench.engine.run(on(&session, &prompt(1, 20), greedy(10))).unwrap();
    let status = |result: aquila::Result<()>| result.unwrap_err().status;
    assert_eq!(status(bench.engine.run(on(&session, &[1], greedy(1))).map(drop)), Status::Busy);
    assert_eq!(status(session.fork().map(drop)), Status::Busy);
    assert_eq!(status(session.rollback(0)), Status::Busy);
    assert_eq!(status(session.tokens().map(drop)), Status::Busy);
    assert_eq!(status(session.save(&File::new("busy").0)), Status::Busy);
    assert_eq!(session.len(), 0);
    (0..10).for_each(|_| opener.send(()).unwrap());
    let made = request.wait().unwrap();
    // Whoever has read the end may go on at once.
    let text = session.tokens().unwrap();
    assert_eq!(text, [prompt(1, 20), made.tokens].concat());
    // Refused at the door: nothing is changed and nothing is held.
    let long = vec![1; CONTEXT];
    assert_eq!(status(bench.engine.run(on(&session, &long, greedy(1))).map(drop)), Status::ContextFull);
    assert_eq!(session.tokens().unwrap(), text);
    // Cancelled: what was made is kept.
    let request = bench.engine.run(on(&session, &[3], greedy(100))).unwrap();
    (0..5).for_each(|_| opener.send(()).unwrap());
    while !matches!(request.next(None).unwrap(), Next::Event(Event::Text { .. })) {}
    request.cancel();
    drop(opener);
    let made = request.wait().unwrap();
    assert_eq!(made.finish, Finish::Cancelled);
    let text = session.tokens().unwrap();
    assert_eq!(text.len(), 31 + made.timings.output_tokens as usize);
    // Failed by the device: as it was.
    let error = bench.engine.run(on(&session, &[4], greedy(100))).unwrap().wait().unwrap_err();
    assert_eq!(error.status, Status::Device);
    assert_eq!(session.tokens().unwrap(), text);
    let made = say(&bench.engine, &session, &[4], 3);
    assert_eq!(made.tokens, bench.plain.greedy(&[&text[..], &[4]].concat(), 3));
}

#[test]
fn a_session_of_another_engine_and_of_one_that_was_closed_is_refused() {
    let (one, other) = (bench(small_blocks()), bench(small_blocks()));
    let session = one.engine.session().unwrap();
    let status = |result: aquila::Result<()>| result.unwrap_err().status;
    assert_eq!(status(other.engine.run(on(&session, &[1], greedy(1))).map(drop)), Status::Argument);
    say(&one.engine, &session, &[1], 3);
    one.engine.close();
    assert_eq!(status(session.fork().map(drop)), Status::Closed);
    assert_eq!(status(session.rollback(0)), Status::Closed);
    assert_eq!(status(session.save(&File::new("closed").0)), Status::Closed);
    assert_eq!(status(one.engine.run(on(&session, &[1], greedy(1))).map(drop)), Status::Closed);
    assert_eq!(status(one.engine.session().map(drop)), Status::Closed);
}

#[test]
fn a_saved_session_goes_on_on_another_engine_without_computing_it_again() {
    let file = File::new("again");
    let one = bench(small_blocks());
    let session = one.engine.session().unwrap();
    let made = say(&one.engine, &session, &prompt(1, 60), 30);
    let text = [prompt(1, 60), made.tokens].concat();
    session.save(&file.0).unwrap();
    let other = bench(small_blocks());
    let restored = other.engine.restore_session(&file.0).unwrap();
    assert_eq!(restored.tokens().unwrap(), text);
    let made = say(&other.engine, &restored, &[9], 12);
    assert_eq!(made.tokens, other.plain.greedy(&[&text[..], &[9]].concat(), 12));
    assert_eq!(made.timings.cached_tokens, 80, "89 tokens were computed: five whole blocks");
    // Nobody else is served from the file, whatever stands in it.
    let alone = other.engine.generate(Input::Tokens([&text[..], &[8]].concat()), greedy(2)).unwrap();
    assert_eq!(alone.timings.cached_tokens, 0);
    // Its copies are, and what it said since is saved with the rest.
    restored.save(&file.0).unwrap();
    let copy = restored.fork().unwrap();
    let again = other.engine.restore_session(&file.0).unwrap();
    for session in [copy, again] {
        let text = session.tokens().unwrap();
        let made = say(&other.engine, &session, &[5], 4);
        assert_eq!(made.timings.cached_tokens, 96);
        assert_eq!(made.tokens, other.plain.greedy(&[&text[..], &[5]].concat(), 4));
    }
}

#[test]
fn a_session_that_asks_for_no_cache_shares_with_itself_alone() {
    let bench = bench(small_blocks());
    let session = bench.engine.session().unwrap();
    let alone = GenParams { no_cache: true, ..greedy(4) };
    bench.engine.run(on(&session, &prompt(1, 40), alone.clone())).unwrap().wait().unwrap();
    let other = bench.engine.generate(Input::Tokens(prompt(1, 40)), greedy(4)).unwrap();
    assert_eq!(other.timings.cached_tokens, 0);
    let made = bench.engine.run(on(&session, &[1], alone)).unwrap().wait().unwrap();
    assert_eq!(made.timings.cached_tokens, 32);
    let file = File::new("alone");
    session.save(&file.0).unwrap();
    let restored = bench.engine.restore_session(&file.0).unwrap();
    assert_eq!(say(&bench.engine, &restored, &[2], 1).timings.cached_tokens, 48);
}

#[test]
fn a_refused_file_changes_nothing_for_anyone() {
    let file = File::new("refused");
    let bench = bench(small_blocks());
    let sessions: Vec<Session> = (0..3).map(|_| bench.engine.session().unwrap()).collect();
    let texts: Vec<Vec<u32>> = (0..3).map(|i| prompt(20 + i, 40)).collect();
    for (session, text) in sessions.iter().zip(&texts) {
        say(&bench.engine, session, text, 10);
    }
    let before: Vec<_> = sessions.iter().map(|s| s.tokens().unwrap()).collect();
    sessions[0].save(&file.0).unwrap();
    let whole = std::fs::read(&file.0).unwrap();
    let cached = bench.engine.stats().kv_tokens_cached;
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&file.0, &bytes).unwrap();
        let error = bench.engine.restore_session(&file.0).err().unwrap();
        assert_eq!(error.status, Status::Format, "byte {at}");
        assert!(error.message.contains(file.0.to_str().unwrap()), "{}", error.message);
    }
    std::fs::remove_file(&file.0).unwrap();
    let error = bench.engine.restore_session(&file.0).err().unwrap();
    assert_eq!(error.status, Status::NotFound);
    assert_eq!(bench.engine.stats().sessions, 3);
    assert_eq!(bench.engine.stats().kv_tokens_cached, cached);
    for (session, before) in sessions.iter().zip(&before) {
        let made = say(&bench.engine, session, &[1], 10);
        assert_eq!(made.tokens, bench.plain.greedy(&[&before[..], &[1]].concat(), 10));
        assert_eq!(made.timings.cached_tokens, 48);
    }
}

#[test]
fn a_file_that_cannot_be_written_leaves_the_old_one() {
    let bench = bench(small_blocks());
    let session = bench.engine.session().unwrap();
    say(&bench.engine, &session, &prompt(1, 20), 3);
    let error = session.save(&File::new("none").0.join("missing/file")).unwrap_err();
    assert_eq!(error.status, Status::NotFound);
    let dir = File::new("directory");
    std::fs::create_dir(&dir.0).unwrap();
    let error = session.save(&dir.0).unwrap_err();
    assert_eq!(error.status, Status::Io);
    std::fs::remove_dir(&dir.0).unwrap();
    let left = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(".aquila-");
    let mine = format!(".aquila-{}-", std::process::id());
    let stray = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let stray = stray.filter(|e| e.file_name().to_string_lossy().starts_with(&mine));
    assert_eq!(stray.filter(|_| true).map(left).filter(|&x| x).count(), 0, "temporary files are removed");
}

/// More sessions than the KV cache holds: the oldest are computed again, and no request fails.
#[test]
fn idle_sessions_never_keep_others_out() {
    let bench = bench(Manner { kv_blocks: 20, ..small_blocks() });
    let sessions: Vec<Session> = (0..12).map(|_| bench.engine.session().unwrap()).collect();
    for round in 0..3 {
        for (i, session) in sessions.iter().enumerate() {
            let text = session.tokens().unwrap();
            let input = prompt(i + 100 * round, 30);
            let made = say(&bench.engine, session, &input, 10);
            assert_eq!(made.tokens, bench.plain.greedy(&[&text[..], &input].concat(), 10));
        }
    }
}

/// What a text becomes whose context shifts, by the plain decoder.
fn shifted(bench: &Bench, prompt: &[u32], keep: usize, n: usize) -> (Vec<u32>, Vec<u32>) {
    let cut = |text: &mut Vec<u32>| {
        let left = keep + (CONTEXT - keep) / 2;
        text.drain(keep..keep + text.len() - left);
    };
    let (mut text, mut made) = (prompt.to_vec(), Vec::new());
    if text.len() >= CONTEXT {
        cut(&mut text);
    }
    while made.len() < n {
        let room = (CONTEXT - text.len()).min(n - made.len());
        let new = bench.plain.greedy(&text, room);
        text.extend(&new);
        made.extend(new);
        if text.len() == CONTEXT && made.len() < n {
            cut(&mut text);
        }
    }
    (made, text)
}

#[test]
fn a_context_that_shifts_goes_on_as_the_text_that_is_left() {
    for (device_select, speculate) in [(false, 0), (true, 0), (false, 6)] {
        let bench = bench(Manner { device_select, ..small_blocks() });
        for (keep, length, n) in
            [(0, 40, 700), (20, 250, 333), (150, CONTEXT - 1, 200), (30, 2 * CONTEXT, 100)]
        {
            let session = bench.engine.session().unwrap();
            let params = GenParams { shift: true, n_keep: keep as u32, speculate, ..greedy(n as u32) };
            let input = prompt(3, length);
            let made = bench.engine.run(on(&session, &input, params)).unwrap().wait().unwrap();
            let (expected, text) = shifted(&bench, &input, keep, n);
            assert_eq!(made.tokens, expected, "keep {keep}, prompt {length}");
            assert_eq!(made.finish, Finish::Length);
            assert_eq!(session.tokens().unwrap(), text);
        }
    }
}

#[test]
fn shifts_beside_each_other_and_short_of_blocks_change_nothing() {
    let bench = bench(Manner { kv_blocks: 25, ..small_blocks() });
    let params = GenParams { shift: true, n_keep: 16, ..greedy(400) };
    let requests: Vec<_> =
        (0..4).map(|i| bench.engine.submit(Input::Tokens(prompt(i, 60)), params.clone()).unwrap()).collect();
    for (i, request) in requests.iter().enumerate() {
        assert_eq!(request.wait().unwrap().tokens, shifted(&bench, &prompt(i, 60), 16, 400).0);
    }
}

#[test]
fn a_shift_without_an_end_or_that_keeps_too_much_is_refused() {
    let bench = bench(small_blocks());
    let refused = |params: GenParams| bench.engine.submit(Input::Tokens(vec![1]), params).err().unwrap();
    let error = refused(GenParams { shift: true, ..GenParams::default() });
    assert_eq!((error.status, error.message.contains("max_tokens")), (Status::Argument, true));
    let error = refused(GenParams { shift: true, n_keep: 151, ..greedy(3) });
    assert_eq!((error.status, error.message.contains("n_keep: 151")), (Status::Argument, true));
}
