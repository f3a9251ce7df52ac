//! How much the CPU executor will take, and how many KV blocks fit. Pure arithmetic on bytes.

use crate::base::limits;

/// Most sequences of one step where the caller does not say.
pub const BATCH_DEFAULT: usize = 16;
/// Full contexts that the KV cache holds at most where the caller gives no budget: sequences are seldom
/// full, and a small model must not take gigabytes of its host unasked.
const CONTEXTS_DEFAULT: u64 = 4;
/// Kept free for the host and the system: at least this much, and at least 5 % of what is available.
const RESERVE_BYTES_MIN: u64 = 512 << 20;

const _: () = assert!(limits::BATCH_MAX as usize >= BATCH_DEFAULT);

/// What an executor needs beside its KV cache, and how its KV cache is counted. Bytes unless said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Weights used where they lie in mapped files.
    pub mapped: u64,
    /// Weights used where they lie in private memory that the loader took already.
    pub held: u64,
    /// Copies of mapped weights that the loader is still to take. Those from which weights are converted
    /// go after the load, but at its end both are there.
    pub copied: u64,
    /// Weights that are converted into memory still to be taken.
    pub converted: u64,
    /// Activations, scratch, logits.
    pub workspace: u64,
    /// Keys and values of one block, all layers.
    pub block: u64,
    /// Blocks of one sequence of full length.
    pub context_blocks: u64,
    /// Blocks that all sequences together could use.
    pub batch_blocks: u64,
    /// Tokens of one sequence, for the message.
    pub context: usize,
}

/// What there is to take it from. Bytes; 0 means no bound for the budgets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bounds {
    /// The caller's budget for host memory.
    pub host_memory: u64,
    /// The caller's budget for the KV cache.
    pub kv_memory: u64,
    /// What the system says is available, if it says.
    pub available: Option<u64>,
}

/// Number of KV blocks, and why it does not fit if it does not.
///
/// Without a budget the mapped weights are counted too: they are page cache, but decoding reads all of
/// them for every token, and a cache that does not stay resident turns each token into disk reads. With
/// a budget the caller has decided, and the budget is compared with private memory alone.
///
/// Without `kv_memory` the cache takes what a budget leaves, or half of what the machine leaves (the
/// host needs memory too) and no more than [`CONTEXTS_DEFAULT`] full contexts, but never less than one and
/// never more than all sequences use.
pub fn kv_blocks(needs: &Needs, bounds: &Bounds) -> (usize, Option<String>) {
    let reserve = bounds.available.map_or(0, |n| (n / 20).max(RESERVE_BYTES_MIN));
    let budgeted = bounds.host_memory > 0;
    let mut room = bounds.available.map_or(u64::MAX, |n| n.saturating_sub(reserve));
    if budgeted {
        // Memory that the loader took already is within the budget, yet no longer available.
        room = bounds.host_memory.saturating_sub(needs.held).min(room);
    }
    let mut fixed = needs.converted.saturating_add(needs.copied).saturating_add(needs.workspace);
    if !budgeted {
        fixed = fixed.saturating_add(needs.mapped);
    }
    let one_context = needs.block.saturating_mul(needs.context_blocks);
    let left = room.saturating_sub(fixed);

    if bounds.kv_memory > 0 {
        let blocks = (bounds.kv_memory / needs.block.max(1)).min(needs.batch_blocks);
        if blocks < needs.context_blocks {
            let refusal = format!(
                "a KV cache of {} was asked for, and one sequence of {} tokens needs {}: raise kv_memory or \
                 lower max_context",
                amount(bounds.kv_memory),
                needs.context,
                amount(one_context)
            );
            return (needs.context_blocks as usize, Some(refusal));
        }
        let cache = blocks.saturating_mul(needs.block);
        let refusal = (cache > left).then(|| refusal(needs, bounds, cache, reserve));
        return (blocks as usize, refusal);
    }
    if one_context > left {
        let refusal = refusal(needs, bounds, one_context, reserve);
        return (needs.context_blocks as usize, Some(refusal));
    }
    let most = if budgeted { left } else { (left / 2).min(one_context.saturating_mul(CONTEXTS_DEFAULT)) };
    let blocks = (most / needs.block.max(1)).clamp(needs.context_blocks, needs.batch_blocks);
    (blocks as usize, None)
}

/// One sentence with the whole sum.
fn refusal(needs: &Needs, bounds: &Bounds, cache: u64, reserve: u64) -> String {
    let budgeted = bounds.host_memory > 0;
    let to_take = needs.converted.saturating_add(needs.copied);
    let mut sum = to_take.saturating_add(needs.workspace).saturating_add(cache);
    let mapped = if budgeted {
        sum = sum.saturating_add(needs.held);
        String::new()
    } else {
        sum = sum.saturating_add(needs.mapped);
        format!("{} of mapped weights + ", amount(needs.mapped))
    };
    let private = to_take.saturating_add(if budgeted { needs.held } else { 0 });
    let available = match bounds.available {
        Some(n) => format!("{} are available, of which {} are kept in reserve", amount(n), amount(reserve)),
        None => "the system does not say what is available".into(),
    };
    let budget = if budgeted {
        format!("the host memory budget is {} and ", amount(bounds.host_memory))
    } else {
        String::new()
    };
    format!(
        "{mapped}{} of private weights + {} of workspace + {} of KV cache ({} for each sequence of {} tokens) \
         = {}, but {budget}{available}",
        amount(private),
        amount(needs.workspace),
        amount(cache),
        amount(needs.block.saturating_mul(needs.context_blocks)),
        needs.context,
        amount(sum),
    )
}

/// Bytes with enough digits to be compared: as GiB, and what is too little for that as MiB or KiB.
fn amount(bytes: u64) -> String {
    let (unit, shift) = match bytes {
        0..0x10_0000 => ("KiB", 10),
        0x10_0000..0x1000_0000 => ("MiB", 20),
        _ => ("GiB", 30),
    };
    format!("{:.2} {unit}", bytes as f64 / f64::from(1u32 << shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// Aquila-7B in f16 at 2048 tokens: 13.6 GiB mapped, 0.12 GiB workspace, 1 GiB of KV a sequence.
    fn aquila_7b() -> Needs {
        Needs {
            mapped: 13 * GIB + 614 * (1 << 20),
            workspace: 120 << 20,
            block: 8 << 20,
            context_blocks: 128,
            batch_blocks: 2048,
            context: 2048,
            ..Needs::default()
        }
    }

    #[test]
    fn aquila_7b_fits_a_machine_of_24_gib() {
        let bounds = Bounds { available: Some(23 * GIB), ..Bounds::default() };
        let (blocks, refusal) = kv_blocks(&aquila_7b(), &bounds);
        assert_eq!(refusal, None);
        // Half of what is left: 23 − 1.15 − 13.6 − 0.12 = 8.1 GiB.
        assert!((128 * 3..=128 * 4).contains(&blocks), "{blocks}");
        let small = Needs { mapped: 256 << 20, ..aquila_7b() };
        assert_eq!(kv_blocks(&small, &bounds), (128 * 4, None), "four contexts unasked");
    }

    #[test]
    fn one_context_may_take_more_than_half() {
        let bounds = Bounds { available: Some(16 * GIB), ..Bounds::default() };
        assert_eq!(kv_blocks(&aquila_7b(), &bounds), (128, None));
    }

    #[test]
    fn refusals_spell_out_the_sum() {
        let bounds = Bounds { available: Some(8 * GIB), ..Bounds::default() };
        let text = kv_blocks(&aquila_7b(), &bounds).1.unwrap();
        for part in ["13.60 GiB", "1.00 GiB", "14.72 GiB", "8.00 GiB", "0.50 GiB", "2048 tokens"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let bounds = Bounds { host_memory: GIB, available: Some(8 * GIB), ..Bounds::default() };
        let text = kv_blocks(&aquila_7b(), &bounds).1.unwrap();
        assert!(text.contains("budget is 1.00 GiB") && !text.contains("mapped"), "{text}");
    }

    #[test]
    fn budgets_bound_private_memory() {
        let bounds = Bounds { host_memory: 3 * GIB, available: Some(8 * GIB), ..Bounds::default() };
        let (blocks, refusal) = kv_blocks(&aquila_7b(), &bounds);
        assert_eq!((blocks, refusal), ((3 * 1024 - 120) / 8, None));
        let held = Needs { held: 2 * GIB, mapped: 0, ..aquila_7b() };
        assert!(kv_blocks(&held, &bounds).1.is_some());
    }

    #[test]
    fn copies_count_within_a_budget() {
        let copied = 13 * GIB + 614 * (1 << 20);
        let needs = Needs { copied, mapped: 0, ..aquila_7b() };
        let at = |host_memory| Bounds { host_memory, available: Some(23 * GIB), ..Bounds::default() };
        let text = kv_blocks(&needs, &at(3 * GIB)).1.unwrap();
        assert!(text.contains("13.60 GiB of private weights") && text.contains("14.72 GiB"), "{text}");
        assert_eq!(kv_blocks(&needs, &at(15 * GIB)).1, None);
    }

    #[test]
    fn kv_memory_is_taken_as_given() {
        let at = |kv_memory| Bounds { kv_memory, available: Some(23 * GIB), ..Bounds::default() };
        assert_eq!(kv_blocks(&aquila_7b(), &at(2 * GIB + 1)), (256, None));
        assert_eq!(kv_blocks(&Needs { batch_blocks: 128, ..aquila_7b() }, &at(2 * GIB)), (128, None));
        let text = kv_blocks(&aquila_7b(), &at(GIB / 2)).1.unwrap();
        assert!(text.contains("0.50 GiB") && text.contains("1.00 GiB"), "{text}");
        let text = kv_blocks(&aquila_7b(), &at(1500 << 10)).1.unwrap();
        assert!(text.contains("1.46 MiB"), "not 0.00 GiB: {text}");
        assert!(kv_blocks(&aquila_7b(), &at(12 * GIB)).1.is_some());
    }

    #[test]
    fn never_more_than_all_sequences_use() {
        let needs = Needs { block: 1 << 10, ..aquila_7b() };
        let bounds = Bounds { host_memory: 64 * GIB, available: Some(64 * GIB), ..Bounds::default() };
        assert_eq!(kv_blocks(&needs, &bounds), (2048, None));
        assert_eq!(kv_blocks(&needs, &Bounds::default()), (512, None), "four contexts without a budget");
    }
}
