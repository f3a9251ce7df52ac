//! What is learnt of a prompt itself: how likely its tokens are, and where it lies among other texts.

use crate::base::error::Result;
use crate::engine::params::{GenParams, Input};
use crate::engine::shared::{Arrival, Task};
use crate::engine::{Engine, Request, prompt};
use crate::sampling::logprob_of;

impl Engine {
    /// How likely each of `choices` is after `prompt`: the sum of the log-probabilities of its tokens, which are those
    /// that prompt and choice together have beyond the prompt's own. Blocks until all are done. `Argument` for an empty
    /// prompt or choice, `ContextFull`, and as [`Engine::submit`].
    pub fn score(&self, prompt: &str, choices: &[&str]) -> Result<Vec<f64>> {
        let params = GenParams::default();
        let encode = |text: String| {
            prompt::prepare(&self.shared, Input::Text(text), &params, Vec::new()).map(|p| p.tokens)
        };
        let start = encode(prompt.to_owned())?;
        let mut texts = Vec::new();
        for (at, choice) in choices.iter().enumerate() {
            let place = |e: crate::Error| e.at(format!("choices[{at}]"));
            let text = encode([prompt, choice].concat()).map_err(place)?;
            // A token may reach over the border; then it belongs to the choice.
            let same = start.iter().zip(&text).take_while(|(a, b)| a == b).count();
            crate::ensure!(same < text.len(), Argument, "choices[{at}]: it adds no token to the prompt");
            crate::ensure!(same > 0, Argument, "prompt: none of its tokens is left with choices[{at}]");
            texts.push((text, same));
        }
        let sum = |request: Request| Ok(request.wait()?.logprobs.iter().map(|&l| f64::from(l)).sum());
        // The first leaves the prompt's KV blocks to the others.
        let mut texts = texts.into_iter();
        let Some((text, from)) = texts.next() else { return Ok(Vec::new()) };
        let mut scores = vec![sum(self.submit_task(text, Task::Score(from))?)?];
        let others: Vec<_> =
            texts.map(|(text, from)| self.submit_task(text, Task::Score(from))).collect::<Result<_>>()?;
        for request in others {
            scores.push(sum(request)?);
        }
        Ok(scores)
    }

    /// Where each of `texts` lies among others: the mean of the hidden states after the final norm, of length 1,
    /// `[hidden]`. Blocks until all are done. Errors as [`Engine::submit`].
    pub fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        let params = GenParams::default();
        let mut requests = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            let prompt = prompt::prepare(&self.shared, Input::Text(text.to_string()), &params, Vec::new());
            let tokens = prompt.map_err(|e| e.at(format!("texts[{at}]")))?.tokens;
            requests.push(self.submit_task(tokens, Task::Embed)?);
        }
        requests
            .into_iter()
            .map(|request| {
                request.wait()?;
                Ok(request.take_embedding())
            })
            .collect()
    }

    fn submit_task(&self, tokens: Vec<u32>, task: Task) -> Result<Request> {
        let shared = &self.shared;
        shared.process.check()?;
        let (request, state) = self.request(shared.clock.now_ns(), 0.0, tokens.len(), None, None);
        let params = GenParams::default();
        let arrival =
            Arrival { state, prompt: tokens, params, echo: None, task, session: None, matcher: None };
        shared.admit(arrival, 0)?;
        Ok(request)
    }
}

/// What was put together so far.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Positions before it were taken in.
    next: usize,
    /// The sum of the hidden states.
    sum: Vec<f64>,
    states: usize,
}

impl Measured {
    /// Whether the result of `position` was not taken in yet; it counts as taken in from now on.
    pub(crate) fn is_new(&mut self, position: usize) -> bool {
        let new = position >= self.next;
        self.next = self.next.max(position + 1);
        new
    }

    /// The token that follows `position` in a text, and its log-probability under the logits there.
    pub(crate) fn score(tokens: &[u32], position: usize, logits: &[f32]) -> Result<(u32, f32)> {
        let found = tokens.get(position + 1).and_then(|&id| Some((id, logprob_of(logits, id)?)));
        found.ok_or_else(|| {
            crate::error!(State, "no finite logit at position {position}: the model's output is broken")
        })
    }

    /// Adds a hidden state.
    pub(crate) fn add(&mut self, state: &[f32]) {
        self.sum.resize(state.len(), 0.0);
        self.sum.iter_mut().zip(state).for_each(|(sum, &x)| *sum += f64::from(x));
        self.states += 1;
    }

    /// The mean of the hidden states, of length 1. `None` where there are none.
    pub(crate) fn embedding(&mut self) -> Option<Vec<f32>> {
        if self.states == 0 {
            return None;
        }
        let length = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        Some(self.sum.iter().map(|x| (x * scale) as f32).collect())
    }
}
