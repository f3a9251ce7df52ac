//! From a request's input to token ids, on the caller's thread.

use crate::base::error::Result;
use crate::base::limits;
use crate::engine::params::{GenParams, Input};
use crate::engine::shared::Shared;
use crate::engine::shift::{kept, shift};
use crate::text::tokenizer::EncodeOptions;

/// A prompt ready for the engine's thread.
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    /// Its text, where the request wants it in front of the answer.
    pub(crate) echo: Option<String>,
    /// Strings that end an answer under the chat template.
    pub(crate) template_stops: Vec<String>,
}

/// Tokenises (and renders) `input`, which follows `history`. Every error names what was given and what the engine takes.
///
/// Text and tokens are put behind the history, and no token reaches over the border. Messages are a whole chat: what they
/// render to takes the history's place, and where both begin alike nothing is computed again.
pub(crate) fn prepare(
    shared: &Shared,
    input: Input,
    params: &GenParams,
    history: Vec<u32>,
) -> Result<Prompt> {
    let follows = !history.is_empty() && !matches!(input, Input::Messages(_));
    let (tokens, text, template_stops) = match input {
        Input::Tokens(tokens) => (tokens, None, Vec::new()),
        Input::Text(text) => {
            check_length(text.len())?;
            let options = EncodeOptions {
                add_special: !params.no_add_special && !follows,
                parse_special: !params.no_parse_special,
            };
            let tokenizer = shared.tokenizer()?;
            check_fits(text.len(), tokenizer.longest_token(), params, shared.info.context)?;
            (tokenizer.encode_prompt(&text, options)?, Some(text), Vec::new())
        }
        Input::Messages(json) => {
            check_length(json.len())?;
            let chat = shared.chat()?;
            let rendered = chat.render(&json, None, true)?;
            let tokenizer = shared.tokenizer()?;
            check_fits(rendered.text.len(), tokenizer.longest_token(), params, shared.info.context)?;
            let tokens = tokenizer.encode_rendered(&rendered)?;
            let stops = chat.stop_strings().iter().map(|s| s.to_string()).collect();
            (tokens, Some(rendered.text), stops)
        }
    };
    check_ids(&tokens, shared.info.vocab)?;
    let echo = match text {
        _ if !params.echo => None,
        Some(text) => Some(text),
        None => Some(shared.tokenizer()?.decode(&tokens, params.show_special)),
    };
    let mut tokens = if follows { [history, tokens].concat() } else { tokens };
    let context = shared.info.context as usize;
    if params.shift && tokens.len() >= context {
        let keep = kept(&tokens, params.n_keep, shared.info.bos, context);
        shift(&mut tokens, keep, context);
    }
    check_length_in_tokens(&tokens, context)?;
    Ok(Prompt { tokens, echo, template_stops })
}

fn check_length(bytes: usize) -> Result<()> {
    crate::ensure!(
        bytes <= limits::PROMPT_BYTES_MAX,
        Argument,
        "prompt: {bytes} bytes, at most {}",
        limits::PROMPT_BYTES_MAX
    );
    Ok(())
}

/// A text so long that even the longest token throughout would overrun the context is not tokenised
/// first.
fn check_fits(bytes: usize, longest_token: usize, params: &GenParams, context: u32) -> Result<()> {
    let most = longest_token.max(1).saturating_mul(context as usize);
    crate::ensure!(
        bytes <= most || params.shift,
        ContextFull,
        "prompt: {bytes} bytes, and a context of {context} tokens holds at most {most}"
    );
    Ok(())
}

fn check_ids(tokens: &[u32], vocab: u32) -> Result<()> {
    if let Some((place, id)) = tokens.iter().enumerate().find(|&(_, &id)| id >= vocab) {
        crate::bail!(
            Argument,
            "prompt: token {place} is {id}, expected an id below the vocabulary's {vocab}"
        );
    }
    Ok(())
}

fn check_length_in_tokens(tokens: &[u32], context: usize) -> Result<()> {
    crate::ensure!(!tokens.is_empty(), Argument, "prompt: it has no tokens");
    crate::ensure!(
        tokens.len() < context,
        ContextFull,
        "prompt: {} tokens, and the context of {context} must hold one more",
        tokens.len()
    );
    Ok(())
}
