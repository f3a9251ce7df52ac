//! Which ids end a text.

use super::tokenizer::Tokenizer;

/// The end token of the Aquila vocabularies with 100008 ids; `</s>`.
const AQUILA_END: u32 = 100_007;

/// The ids that end a text, in the order of their sources: those of generation_config.json and of
/// config.json, each only if it is a special token of the loaded tokenizer (Aquila's config.json says
/// 2, which is a quotation mark), and for an Aquila vocabulary its true end `</s>` and `<|endoftext|>`,
/// at which BAAI's own code stops too. Where all of these give nothing, the tokenizer's own end.
pub fn stop_ids(tokenizer: &Tokenizer, generation_eos: &[u32], config_eos: &[u32]) -> Vec<u32> {
    let named = generation_eos.iter().chain(config_eos).copied().filter(|&id| tokenizer.is_special(id));
    let aquila = tokenizer.token_id("</s>") == Some(AQUILA_END);
    let mut ids = Vec::new();
    for id in named.chain(aquila.then_some([AQUILA_END, 0]).into_iter().flatten()) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.is_empty() {
        ids.extend(tokenizer.eos());
    }
    ids
}
