//! What a service leans on: prompts that begin alike, deadlines, priorities, many requests at one queue.

use super::*;
use aquila::engine::Job;
use aquila::engine::event_queue::{EventQueue, Heard};
use std::sync::atomic::Ordering;

/// Blocks of 16 positions, plenty of them.
fn small_blocks() -> Manner {
    Manner { block_tokens: 16, kv_blocks: 100, ..Manner::default() }
}

/// The counts once nothing runs: the last event of a request comes before the engine has put its blocks away.
fn settled(engine: &Engine) -> aquila::engine::metrics::EngineStats {
    for _ in 0..1000 {
        if engine.stats().kv_tokens_used == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    engine.stats()
}

#[test]
fn a_prompt_that_begins_alike_is_not_computed_again_and_gives_the_same_text() {
    for device_select in [false, true] {
        let bench = bench(Manner { device_select, ..small_blocks() });
        let shared = prompt(3, 100);
        for (extra, cached) in [(0, 0), (5, 96), (40, 96), (41, 128)] {
            let text: Vec<u32> = shared.iter().copied().chain(prompt(7, extra)).collect();
            let made = bench.engine.generate(Input::Tokens(text.clone()), greedy(12)).unwrap();
            assert_eq!(made.tokens, bench.plain.greedy(&text, 12), "{extra} more tokens");
            assert_eq!(made.timings.cached_tokens, cached, "{extra} more tokens");
        }
        let stats = settled(&bench.engine);
        assert_eq!((stats.requests, stats.prompt_tokens, stats.cached_tokens), (4, 486, 320));
        assert_eq!(stats.kv_tokens_used, 0);
        let alone = GenParams { no_cache: true, ..greedy(12) };
        let made = bench.engine.generate(Input::Tokens(shared.clone()), alone).unwrap();
        assert_eq!((made.timings.cached_tokens, made.tokens), (0, bench.plain.greedy(&shared, 12)));
    }
}

#[test]
fn the_next_turn_of_a_conversation_finds_the_answer_before_it() {
    let bench = bench(small_blocks());
    let mut text = prompt(5, 30);
    for turn in 0..4 {
        let made = bench.engine.generate(Input::Tokens(text.clone()), greedy(20)).unwrap();
        assert_eq!(made.tokens, bench.plain.greedy(&text, 20));
        // All but the last token of the answer was computed.
        let known = if turn == 0 { 0 } else { (text.len() - 3 - 1) / 16 * 16 };
        assert_eq!(made.timings.cached_tokens as usize, known, "turn {turn}");
        text.extend(made.tokens);
        text.extend(prompt(turn, 3));
    }
}

#[test]
fn a_device_that_takes_whole_prompts_shares_nothing() {
    let bench = bench(Manner { whole_prompts: true, step_tokens: CONTEXT, ..small_blocks() });
    for _ in 0..2 {
        let made = bench.engine.generate(Input::Tokens(prompt(1, 80)), greedy(5)).unwrap();
        assert_eq!(made.timings.cached_tokens, 0);
    }
}

#[test]
fn what_was_put_back_is_found_again() {
    // Eight requests of which two fit: while they take turns they find what they had computed.
    let bench = bench(Manner { kv_blocks: 20, ..small_blocks() });
    let jobs: Vec<_> = (0..8).map(|i| prompt(i, 60)).collect();
    let requests: Vec<_> =
        jobs.iter().map(|p| bench.engine.submit(Input::Tokens(p.clone()), greedy(90)).unwrap()).collect();
    for (prompt, request) in jobs.iter().zip(&requests) {
        assert_eq!(request.wait().unwrap().tokens, bench.plain.greedy(prompt, 90));
    }
    assert!(bench.engine.stats().preemptions > 0);
}

#[test]
fn a_deadline_ends_a_request_wherever_it_is() {
    let (opener, manner) = gated(small_blocks());
    let (clock, now) = Clock::stepped();
    let (plain, seen) = (plain(), Arc::default());
    let info = info(manner.kv_blocks, manner.block_tokens);
    let executor = Box::new(Mock::new(plain.clone(), manner, seen));
    let parts = Parts { info, tokenizer: None, chat: None, executor, max_waiting: 64, clock };
    let engine = Engine::start(parts).unwrap();
    let opener = opener;
    let late = GenParams { deadline: Some(Duration::from_millis(10)), ..greedy(200) };
    let running = engine.submit(Input::Tokens(prompt(1, 4)), late.clone()).unwrap();
    (0..5).for_each(|_| opener.send(()).unwrap());
    while !matches!(running.next(None).unwrap(), Next::Event(Event::Text { .. })) {}
    // One that comes when the time is over already, and one that has time.
    now.store(20_000_000, Ordering::Release);
    let patient =
        engine.submit(Input::Tokens(prompt(2, 4)), GenParams { max_tokens: 20, ..late.clone() }).unwrap();
    let over = engine
        .submit(Input::Tokens(prompt(2, 4)), GenParams { deadline: Some(Duration::ZERO), ..late })
        .unwrap();
    drop(opener);
    let made = running.wait().unwrap();
    assert_eq!(made.finish, Finish::Deadline);
    assert!((1..200).contains(&made.timings.output_tokens));
    assert_eq!(patient.wait().unwrap().tokens, plain.greedy(&prompt(2, 4), 20));
    let made = over.wait().unwrap();
    assert_eq!((made.finish, made.tokens.len()), (Finish::Deadline, 0));
    assert_eq!(settled(&engine).running, 0);
}

#[test]
fn higher_priority_goes_first_and_changes_no_text() {
    // Blocks for one full context and a little: the urgent one comes last and must not wait for the others.
    let (opener, manner) = gated(Manner { kv_blocks: 20, ..small_blocks() });
    let bench = bench(manner);
    let opener = opener;
    let others: Vec<_> =
        (0..4).map(|i| bench.engine.submit(Input::Tokens(prompt(i, 80)), greedy(60)).unwrap()).collect();
    (0..3).for_each(|_| opener.send(()).unwrap());
    let urgent = GenParams { priority: 1, ..greedy(60) };
    let urgent = bench.engine.submit(Input::Tokens(prompt(9, 200)), urgent).unwrap();
    // A step at a time: nothing runs on after the urgent one has ended.
    let mut made = Vec::new();
    loop {
        opener.send(()).unwrap();
        match urgent.next(Some(Duration::from_secs(1))).unwrap() {
            Next::Event(Event::Text { tokens, .. }) => made.extend(tokens),
            Next::Event(Event::Finish { .. }) => break,
            _ => {}
        }
    }
    assert_eq!(made, bench.plain.greedy(&prompt(9, 200), 60));
    let ended = |request: &aquila::engine::Request| {
        request.timings().total_ms > 0.0 && request.timings().output_tokens == 60
    };
    assert!(others.iter().filter(|request| ended(request)).count() <= 1, "the urgent one waited");
    drop(opener);
    for (i, request) in others.iter().enumerate() {
        assert_eq!(request.wait().unwrap().tokens, bench.plain.greedy(&prompt(i, 80), 60));
    }
}

#[test]
fn one_queue_serves_requests_of_two_engines() {
    let engines = [bench(small_blocks()), bench(Manner::default())];
    let queue = EventQueue::new().unwrap();
    let mut requests = Vec::new();
    for number in 0..40usize {
        let engine = &engines[number % 2].engine;
        let tokens = Input::Tokens(prompt(number, 3 + number));
        let (request, admission) =
            engine.prepare(Job { queue: Some(queue.clone()), ..Job::new(tokens, greedy(15)) }).unwrap();
        admission.admit(number + 1).unwrap();
        requests.push((request, Vec::new(), false));
    }
    let mut left = requests.len();
    while left > 0 {
        let mut names = [0; 5];
        let heard = queue.wait(&mut names, Some(Duration::from_secs(60))).unwrap();
        let Heard::Requests(count) = heard else { panic!("{heard:?}") };
        for name in &names[..count] {
            let (request, tokens, ended) = &mut requests[name - 1];
            match request.next(Some(Duration::ZERO)).unwrap() {
                Next::Event(Event::Text { tokens: new, .. }) => tokens.extend(new),
                Next::Event(Event::Finish { .. }) => {
                    assert!(!std::mem::replace(ended, true));
                    left -= 1;
                }
                _ => {}
            }
        }
    }
    for (number, (_, tokens, _)) in requests.iter().enumerate() {
        assert_eq!(*tokens, engines[0].plain.greedy(&prompt(number, 3 + number), 15), "{number}");
    }
}

/// A request that was refused once was handed out by its queue, with an end that nobody had asked for.
#[test]
fn a_refused_request_is_never_handed_out() {
    let (opener, manner) = gated(Manner::default());
    let (clock, _) = Clock::stepped();
    let info = info(manner.kv_blocks, manner.block_tokens);
    let executor = Box::new(Mock::new(plain(), manner, Arc::default()));
    let parts = Parts { info, tokenizer: None, chat: None, executor, max_waiting: 1, clock };
    let engine = Engine::start(parts).unwrap();
    let prepare = || {
        let queue = EventQueue::new().unwrap();
        let tokens = Input::Tokens(prompt(1, 4));
        let (request, admission) =
            engine.prepare(Job { queue: Some(queue.clone()), ..Job::new(tokens, greedy(2)) }).unwrap();
        (admission, request, queue)
    };
    let mut taken = Vec::new(); // some run, one waits
    let overloaded = loop {
        let (admission, request, queue) = prepare();
        match admission.admit(1) {
            Ok(()) => taken.push(request),
            Err(error) => break (error.status, request, queue),
        }
    };
    let (admission, request, queue) = prepare();
    drop(opener);
    engine.close();
    let closed = (admission.admit(1).unwrap_err().status, request, queue);
    assert_eq!((overloaded.0, closed.0), (Status::Overloaded, Status::Closed));
    for (_, _, queue) in [overloaded, closed] {
        assert_eq!(queue.wait(&mut [0; 4], Some(Duration::ZERO)).unwrap(), Heard::Timeout);
    }
}
