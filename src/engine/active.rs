//! A request on the engine's thread: its tokens, its sampler, its text, its clock marks.

use crate::backend::{Row, Want};
use crate::base::error::{Error, Result};
use crate::engine::measured::Measured;
use crate::engine::offer::Offer;
use crate::engine::output::TextOutput;
use crate::engine::params::{Finish, Timings};
use crate::engine::request::{Made, Served};
use crate::engine::scheduler::{Results, Sequence};
use crate::engine::session::SessionHold;
use crate::engine::shared::{Arrival, Shared, Task};
use crate::engine::shift::{kept, shift};
use crate::engine::speculation::Speculation;
use crate::sampling::{Allowed, Largest, Likely, Sampler, SamplingParams, most_likely};
use crate::text::constraint::Matcher;
use crate::text::{EncodeOptions, Tokenizer};
use std::sync::atomic::Ordering::Relaxed;

/// Marks on the engine's clock, in nanoseconds; 0: not yet.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    first_step: u64,
    first_token: u64,
    last_token: u64,
}

/// One request that the engine's thread has taken in.
pub(crate) struct Active {
    pub(crate) state: Served,
    /// The prompt and what was generated, but for what a shift took out.
    pub(crate) tokens: Vec<u32>,
    prompt_len: usize,
    /// Tokens made so far.
    made: usize,
    /// New tokens that may be made.
    new_max: usize,
    /// Whether `new_max` is what the context leaves rather than what was asked for.
    bounded_by_context: bool,
    /// Where the text goes on when the context is full: how many of its first tokens stay.
    keep: Option<usize>,
    context: usize,
    /// Set again at the end to what it has become.
    session: Option<SessionHold>,
    sampling: SamplingParams,
    /// Made of `sampling` with the first choice: it takes some 20 bytes for each id of the vocabulary, and
    /// a thousand requests may wait.
    sampler: Option<Sampler>,
    /// Where the text must fit a constraint: what may follow. It stays as it is when the sequence is put back.
    matcher: Option<Box<Matcher>>,
    output: TextOutput,
    /// Ids that end the text as the model's own end.
    eos_ids: Vec<u32>,
    /// Ids that end the text because the request says so.
    stop_ids: Vec<u32>,
    /// Both, for `min_tokens`.
    ending_ids: Vec<u32>,
    min_tokens: usize,
    /// How many of the most likely tokens are told, and those of the last place.
    likely_count: usize,
    likely: Vec<Likely>,
    /// What is wanted of the rows of which its tokens are made.
    want: Want,
    /// Whether the tokens' log-probabilities are told: where whole rows were wanted from the first on.
    tells_logprobs: bool,
    /// Where the request asks for it and the device can verify.
    speculation: Option<Speculation>,
    marks: Marks,
    /// Where the prompt itself is what is asked about.
    pub(crate) measured: Option<Measured>,
    /// Tokens of the prompt that were not computed for this request.
    cached: usize,
}

/// Most generated tokens for which room is taken at the start; longer texts grow it.
const ROOM_TOKENS: usize = 4096;

impl Active {
    /// The request and its place in the queues.
    pub(crate) fn new(arrival: Arrival, shared: &Shared, offer: Offer) -> (Self, Sequence) {
        let Arrival { state, prompt, params, echo, task, session, matcher } = arrival;
        let prompt_len = prompt.len();
        let (known, results) = match task {
            Task::Generate => (prompt_len, Results::Last),
            // What follows the last token is not asked for.
            Task::Score(from) => (prompt_len - 1, Results::LogitsFrom(from - 1)),
            Task::Embed => (prompt_len, Results::Hidden),
        };
        let context = shared.info.context as usize;
        let room = context.saturating_sub(prompt_len);
        let asked = if params.max_tokens == 0 { usize::MAX } else { params.max_tokens as usize };
        let new_max = if params.shift { asked } else { asked.min(room) };
        let eos_ids = shared.eos_ids(&params);
        let ending_ids: Vec<u32> = eos_ids.iter().chain(&params.stop_tokens).copied().collect();
        let want = match task {
            Task::Generate => offer.want(&params, matcher.is_some()),
            Task::Score(_) => Want::Logits,
            Task::Embed => Want::Hidden,
        };
        let output = TextOutput::new(&params);
        let keep = params.shift.then(|| kept(&prompt, params.n_keep, shared.info.bos, context));
        let mut tokens = prompt;
        tokens.reserve(new_max.min(ROOM_TOKENS));
        let timings = Timings { prompt_tokens: prompt_len as u32, ..Timings::default() };
        if let Some(text) = echo {
            state.made(None, &text, timings);
        }
        let sequence = Sequence {
            id: state.id,
            known,
            positions_max: prompt_len + new_max.min(room) - 1,
            results,
            device_select: want == Want::Select,
            priority: params.priority,
            shares: !params.no_cache || session.is_some(),
            realm: session.as_ref().map_or(0, |session| session.realm),
            ..Sequence::default()
        };
        let proposals_max = (params.speculate as usize).min(offer.cheap_rows.saturating_sub(1));
        let active = Active {
            state,
            tokens,
            prompt_len,
            made: 0,
            new_max,
            bounded_by_context: new_max < asked,
            keep,
            context,
            session,
            sampling: params.sampling,
            sampler: None,
            matcher,
            output,
            eos_ids,
            stop_ids: params.stop_tokens,
            ending_ids,
            min_tokens: params.min_tokens as usize,
            likely_count: params.logprobs as usize,
            likely: Vec::new(),
            want,
            tells_logprobs: want == Want::Logits,
            speculation: (proposals_max > 0).then(|| Speculation::new(proposals_max)),
            marks: Marks::default(),
            measured: (task != Task::Generate).then(Measured::default),
            cached: 0,
        };
        (active, sequence)
    }

    /// Notes that rows of this request from position `first` on are in a step.
    pub(crate) fn stepped(&mut self, now_ns: u64, first: usize, shared: &Shared) {
        if self.marks.first_step == 0 {
            self.marks.first_step = now_ns;
            self.cached = first;
            shared.counters.started(self.prompt_len, first, now_ns.saturating_sub(self.state.submitted_ns));
        }
    }

    /// Notes that the rows up to position `done` are computed.
    pub(crate) fn computed(&self, done: usize) {
        if self.made == 0 {
            self.state.prefilled(done.min(self.prompt_len), self.prompt_len);
        }
    }

    /// Proposes up to `room` tokens to follow those known, and gives how many: what the constraint leaves no choice
    /// about, else what is looked up, as far as it is allowed.
    pub(crate) fn propose(&mut self, room: usize, tokenizer: Option<&Tokenizer>) -> usize {
        let Some(speculation) = &mut self.speculation else { return 0 };
        if let (Some(matcher), Some(tokenizer)) = (&mut self.matcher, tokenizer)
            && room > 0
        {
            let forced = tokens_of(&matcher.forced(), tokenizer);
            let allowed = matcher.count_allowed(&forced);
            if speculation.propose_forced(&forced[..allowed], room) > 0 {
                return speculation.proposals().len();
            }
        }
        let expected = self.prompt_len + self.new_max.min(ROOM_TOKENS);
        speculation.propose(&self.tokens, room, expected);
        if let Some(matcher) = &mut self.matcher {
            speculation.keep(matcher.count_allowed(speculation.proposals()));
        }
        speculation.proposals().len()
    }

    /// What [`Active::propose`] proposed last.
    pub(crate) fn proposals(&self) -> &[u32] {
        self.speculation.as_ref().map_or(&[], Speculation::proposals)
    }

    /// Takes in the tokens of a step's wanted rows: one, and while it is the one that was proposed, the
    /// next. `proposed`: rows of proposed tokens. Gives how many tokens were taken in before the text
    /// ended, and how it ended. None, and no end: the row is to be computed again, because only a whole one will do.
    pub(crate) fn take_rows<'a>(
        &mut self,
        rows: impl Iterator<Item = Row<'a>>,
        proposed: usize,
        shared: &Shared,
    ) -> (usize, Result<Option<Finish>>) {
        if let Some(speculation) = &mut self.speculation {
            speculation.begin(proposed);
        }
        let (mut taken, mut ended) = (0, Ok(None));
        for row in rows {
            ended = match row {
                Row::Logits(logits) => self.choose(logits, shared),
                Row::Selected(token) => self.take(token, None, shared),
                Row::Candidates { logits, ids } => match self.choose_largest(Largest { logits, ids }, shared)
                {
                    Ok(Some(token)) => self.take(token, None, shared),
                    Ok(None) => {
                        // A model so undecided will be so again.
                        self.want = Want::Logits;
                        break;
                    }
                    Err(error) => Err(error),
                },
                Row::Hidden(_) => Ok(None),
            };
            if !matches!(ended, Ok(None)) {
                break;
            }
            taken += 1;
            let (speculation, token) = (self.speculation.as_mut(), self.tokens.last());
            if !speculation.zip(token).is_some_and(|(s, &token)| s.accepts(token)) {
                break;
            }
        }
        if let Some(speculation) = &mut self.speculation {
            speculation.end();
        }
        (taken, ended)
    }

    /// Takes in the results of rows from position `first` on of a prompt that is asked about itself.
    pub(crate) fn measure<'a>(
        &mut self,
        first: usize,
        rows: impl Iterator<Item = Row<'a>>,
        shared: &Shared,
    ) -> Result<()> {
        let Some(measured) = &mut self.measured else { return Ok(()) };
        for (position, row) in (first..).zip(rows) {
            // A text that was put back comes by again.
            if !measured.is_new(position) {
                continue;
            }
            match row {
                Row::Logits(logits) => {
                    let (id, logprob) = Measured::score(&self.tokens, position, logits)?;
                    let made = Made { id, logprob: Some(logprob), top: &[] };
                    self.state.made(
                        Some(made),
                        "",
                        Timings { prompt_tokens: self.prompt_len as u32, ..Timings::default() },
                    );
                }
                Row::Hidden(state) => measured.add(state),
                Row::Selected(_) | Row::Candidates { .. } => {}
            }
        }
        self.marks.last_token = shared.clock.now_ns();
        Ok(())
    }

    /// Delivers what [`Active::measure`] put together.
    pub(crate) fn measured_to_the_end(&mut self) {
        if let Some(embedding) = self.measured.as_mut().and_then(Measured::embedding) {
            self.state.embedded(embedding);
        }
    }

    /// Chooses the next token from its logits and takes it in. `Some`: the text has ended.
    fn choose(&mut self, logits: &[f32], shared: &Shared) -> Result<Option<Finish>> {
        let made = self.made;
        let matcher = self.matcher.as_deref();
        if matcher.is_some_and(Matcher::has_ended) {
            // The only text that fits is the empty one.
            return Ok(Some(self.end_text(Finish::Stop, shared)));
        }
        let held_off =
            made < self.min_tokens && matcher.is_none_or(|m| m.allows_other_than(&self.ending_ids));
        let banned: &[u32] = if held_off { &self.ending_ids } else { &[] };
        let allowed = matcher.map(|matcher| Allowed(matcher.allowed()));
        let prompt = self.tokens.get(..self.prompt_len).unwrap_or_default();
        let sampler = sampler_of(&mut self.sampler, &mut self.sampling, prompt, shared)?;
        let choice = sampler.choose_among(logits, allowed, banned, made as u64)?;
        self.likely.clear();
        if self.likely_count > 0 {
            most_likely(logits, self.likely_count, &mut self.likely);
        }
        self.take(choice.token, self.tells_logprobs.then_some(choice.logprob), shared)
    }

    /// Chooses the next token from the largest of its logits; `None` where only all of them tell.
    fn choose_largest(&mut self, largest: Largest<'_>, shared: &Shared) -> Result<Option<u32>> {
        let prompt = self.tokens.get(..self.prompt_len).unwrap_or_default();
        let sampler = sampler_of(&mut self.sampler, &mut self.sampling, prompt, shared)?;
        sampler.choose_largest(largest, self.made as u64)
    }

    /// Takes in a token, chosen here or on the device. `Some`: the text has ended, and everything that
    /// can be read is delivered.
    fn take(&mut self, token: u32, logprob: Option<f32>, shared: &Shared) -> Result<Option<Finish>> {
        let now = shared.clock.now_ns();
        if self.marks.first_token == 0 {
            self.marks.first_token = now;
            shared.counters.first_token.add(now.saturating_sub(self.state.submitted_ns));
        } else {
            shared.counters.between_tokens.add(now.saturating_sub(self.marks.last_token));
        }
        shared.counters.output_tokens.fetch_add(1, Relaxed);
        self.marks.last_token = now;
        let ended = if self.eos_ids.contains(&token) {
            Some(Finish::Eos)
        } else if self.stop_ids.contains(&token) {
            Some(Finish::Stop)
        } else {
            None
        };
        if ended.is_some() {
            // The ending token is counted but is no part of the text.
            self.output.finish();
            let timings = self.timings(now, 1);
            self.state.made(None, &self.output.text, timings);
            return Ok(ended);
        }
        self.tokens.push(token);
        self.made += 1;
        let stopped = self.output.push(token, shared.tokenizer.as_ref());
        let timings = self.timings(now, 0);
        let made = Made { id: token, logprob, top: &self.likely };
        self.state.made(Some(made), &self.output.text, timings);
        if stopped {
            return Ok(Some(Finish::Stop));
        }
        let complete = match &mut self.matcher {
            Some(matcher) => matcher.advance(token).map(|()| matcher.has_ended()),
            None => Ok(false),
        };
        if let Ok(true) = complete {
            return Ok(Some(self.end_text(Finish::Stop, shared)));
        }
        if self.made < self.new_max {
            return complete.map(|_| None);
        }
        let bound = if self.bounded_by_context { Finish::Context } else { Finish::Length };
        Ok(Some(self.end_text(bound, shared)))
    }

    /// Delivers what was held back of a text that ends without an ending token.
    fn end_text(&mut self, reason: Finish, shared: &Shared) -> Finish {
        self.output.finish();
        let timings = self.timings(shared.clock.now_ns(), 0);
        self.state.made(None, &self.output.text, timings);
        reason
    }

    /// Where the text fills the context and goes on without its middle: takes that out, and gives how many tokens are known
    /// now and how many positions will be needed.
    pub(crate) fn shift_if_full(&mut self) -> Option<(usize, usize)> {
        let keep = self.keep.filter(|_| self.tokens.len() >= self.context)?;
        shift(&mut self.tokens, keep, self.context);
        if let Some(speculation) = &mut self.speculation {
            speculation.forget();
        }
        let known = self.tokens.len();
        Some((known, (known + self.new_max - self.made).min(self.context) - 1))
    }

    /// Ends the request: what was held back is delivered, then the last event.
    pub(crate) fn finish(mut self, reason: Finish, error: Option<Error>, shared: &Shared) {
        let now_ns = shared.clock.now_ns();
        let ended_early = matches!(reason, Finish::Cancelled | Finish::Deadline | Finish::Error);
        if ended_early {
            self.output.finish();
        }
        let timings = if ended_early { self.timings(now_ns, 0) } else { self.state.timings() };
        if ended_early {
            self.state.made(None, &self.output.text, timings);
        }
        shared.counters.finished(reason);
        // Before the last event: whoever reads it may go on with the session.
        if let Some(session) = self.session.take().filter(|_| reason != Finish::Error) {
            session.commit(std::mem::take(&mut self.tokens));
        }
        self.state.finish(reason, error, Some(timings));
    }

    fn timings(&self, now_ns: u64, ending_tokens: u32) -> Timings {
        let start = self.state.submitted_ns;
        let ms = |from: u64, to: u64| {
            if from == 0 || to == 0 { 0.0 } else { to.saturating_sub(from) as f64 / 1e6 }
        };
        let m = &self.marks;
        Timings {
            prompt_tokens: self.prompt_len as u32,
            cached_tokens: self.cached as u32,
            output_tokens: self.made as u32 + ending_tokens,
            queue_ms: m.first_step.max(start).saturating_sub(start) as f64 / 1e6,
            tokenize_ms: self.state.tokenize_ms,
            prefill_ms: ms(m.first_step, m.first_token),
            first_token_ms: if m.first_token == 0 {
                0.0
            } else {
                m.first_token.saturating_sub(start) as f64 / 1e6
            },
            decode_ms: ms(m.first_token, m.last_token),
            total_ms: now_ns.saturating_sub(start) as f64 / 1e6,
            proposed_tokens: self.speculation.as_ref().map_or(0, |s| s.proposed),
            accepted_tokens: self.speculation.as_ref().map_or(0, |s| s.accepted),
        }
    }

    /// What is wanted of the rows of which this request's tokens are made.
    pub(crate) fn want(&self) -> Want {
        self.want
    }
}

/// The request's sampler, made with its first choice, when the prompt is still whole.
fn sampler_of<'a>(
    sampler: &'a mut Option<Sampler>,
    params: &mut SamplingParams,
    prompt: &[u32],
    shared: &Shared,
) -> Result<&'a mut Sampler> {
    match sampler {
        Some(sampler) => Ok(sampler),
        None => {
            let made = Sampler::new(std::mem::take(params), shared.info.vocab as usize)?;
            let made = sampler.insert(made);
            made.see_prompt(prompt);
            Ok(made)
        }
    }
}

/// The tokens that the tokenizer makes of a text, as the model learned to write it; none of bytes that are no text.
fn tokens_of(bytes: &[u8], tokenizer: &Tokenizer) -> Vec<u32> {
    const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };
    let text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    if text.is_empty() { Vec::new() } else { tokenizer.encode(text, PLAIN).unwrap_or_default() }
}
