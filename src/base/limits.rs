//! Every bound of the library in one place, with its reason. A file or option beyond a bound is
//! refused with the bound named; nothing is clipped in silence.

/// Most tokens a context may have: positions are `u32` and rotary angles lose all meaning long before.
pub const CONTEXT_MAX: u32 = 1 << 24;
/// Most layers, so that a hostile `num_hidden_layers` cannot size a table.
pub const LAYERS_MAX: u32 = 1024;
/// Widest hidden, feed-forward or head dimension: 2^20 is 85 times Aquila2-34B's feed-forward.
pub const WIDTH_MAX: u32 = 1 << 20;
/// Largest vocabulary.
pub const VOCAB_MAX: u32 = 1 << 24;
/// Largest attention head: beyond it no kernel's stack tile would fit.
pub const HEAD_DIM_MAX: u32 = 1024;
/// Most parts that a model is cut in: more than any server has cards.
pub const RANKS_MAX: u32 = 256;
/// Most tensors in a checkpoint.
pub const TENSORS_MAX: usize = 1 << 17;
/// Longest JSON text (config, index, tokenizer): Aquila2's tokenizer.json has under 10 MB.
pub const JSON_BYTES_MAX: u64 = 256 << 20;
/// Longest rank table of HCCL: a device takes some 100 bytes, and a group has at most thousands.
pub const RANK_TABLE_BYTES_MAX: u64 = 1 << 20;
/// Longest config.json and generation_config.json: as values they take 40 times their text at worst.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Longest index of shards: [`TENSORS_MAX`] tensors with 250 bytes each.
pub const INDEX_BYTES_MAX: u64 = 32 << 20;
/// Most shards of a checkpoint.
pub const SHARDS_MAX: usize = 4096;
/// Longest safetensors header; the limit of the reference implementation.
pub const SAFETENSORS_HEADER_MAX: u64 = 100_000_000;
/// Most metadata entries of a GGUF file.
pub const GGUF_ENTRIES_MAX: u64 = 1 << 16;
/// Most elements of a GGUF array: merges are about twice the vocabulary.
pub const GGUF_ARRAY_MAX: u64 = 1 << 26;
/// Longest GGUF key and tensor name; the format's own limits are 65535 and 64.
pub const GGUF_NAME_MAX: u64 = 65535;
/// Largest GGUF alignment: the usual one is 32, and a huge page is the most that makes sense.
pub const GGUF_ALIGNMENT_MAX: u64 = 2 << 20;
/// Longest GGUF string (a chat template, not a book).
pub const GGUF_STRING_MAX: u64 = 16 << 20;
/// Longest pickle of a torch checkpoint: that of Aquila2-34B has 200 KB.
pub const PICKLE_BYTES_MAX: u64 = 16 << 20;
/// Most values of a pickle, each of 16 bytes: a tensor takes about 60 with its place in the memo, Aquila2-34B 30,000.
pub const PICKLE_VALUES_MAX: usize = 1 << 20;
/// Longest name of a class or function in a pickle.
pub const PICKLE_NAME_MAX: usize = 255;
/// Most entries of a torch checkpoint's zip archive: a storage a tensor, and the few of torch's own.
pub const ZIP_ENTRIES_MAX: u64 = TENSORS_MAX as u64 + 64;
/// Most lines of a `special_tokens.txt`: BAAI's has eight.
pub const SPECIAL_TOKENS_MAX: usize = 4096;
/// Most tokens in one executor step.
pub const STEP_TOKENS_MAX: usize = 512;
/// Most sequences decoded in one step.
pub const BATCH_MAX: u32 = 256;
/// Requests that may wait in line when `max_waiting` is 0.
pub const WAITING_DEFAULT: u32 = 1024;
/// Most stop strings of one request.
pub const STOP_STRINGS_MAX: usize = 64;
/// Longest stop string, in bytes: text this long may be held back.
pub const STOP_BYTES_MAX: usize = 4096;
/// Most likely tokens that a request may ask for at each place: as many as the usual services give.
pub const LOGPROBS_MAX: u32 = 20;
/// Most tokens a step that speculation may propose: beyond it no device verifies them for nothing.
pub const SPECULATE_MAX: u32 = 64;
/// Longest JSON schema or grammar that constrains a text. The time to compile one grows with the square of its length
/// at worst, to some seconds for so much; the schemas that are written for it are far shorter.
pub const CONSTRAINT_BYTES_MAX: usize = 64 << 10;
/// Longest regular expression that does. The same at worst, and one lexeme is more work than many.
pub const CONSTRAINT_REGEX_BYTES_MAX: usize = 16 << 10;
/// Symbols in the rules of a constraint: some ten for each member of an object.
pub const CONSTRAINT_SYMBOLS_MAX: usize = 30_000;
/// Work to build the lexer of a constraint, in the parser's own units: a schema of some pages takes a tenth of it.
pub const CONSTRAINT_LEXER_FUEL: u64 = 300_000;
/// Longest token, in bytes, that a constrained text may have: the tree of tokens counts its depth in 10 bits. Aquila's
/// longest has 512.
pub const CONSTRAINT_TOKEN_BYTES_MAX: usize = 1000;
/// Most bytes of all tokens together in that tree, which counts its nodes in 22 bits: Aquila's have 707,924.
pub const CONSTRAINT_VOCABULARY_BYTES_MAX: usize = 4_000_000;
/// States that the lexer of one constraint may have, 1 to 2 KB each.
pub const CONSTRAINT_LEXER_STATES_MAX: usize = 50_000;
/// Most worker threads of one engine.
pub const THREADS_MAX: usize = 256;
/// Largest prompt text in bytes.
pub const PROMPT_BYTES_MAX: usize = 256 << 20;
/// Longest JSON text of a chat: with less overhead than this its prompt would overrun [`TEMPLATE_BYTES_MAX`].
pub const CHAT_BYTES_MAX: usize = 64 << 20;
/// Most values in the JSON of a chat: each takes up to 100 bytes as a value, and is copied for the template.
pub const CHAT_VALUES_MAX: usize = 1 << 20;
/// Most named chat templates of one model: two or three are published.
pub const CHAT_TEMPLATES_MAX: usize = 16;
/// Instructions a chat template may take before it is ended: a thousand messages take some 200,000.
pub const TEMPLATE_FUEL: u64 = 4_000_000;
/// Longest time for a chat template, in seconds: published ones take milliseconds.
pub const TEMPLATE_SECONDS: u64 = 10;
/// Longest chat template: the published ones stay below 32 KiB.
pub const TEMPLATE_SOURCE_MAX: usize = 256 << 10;
/// Longest text a chat template may render, and largest value it may make.
pub const TEMPLATE_BYTES_MAX: usize = 64 << 20;
