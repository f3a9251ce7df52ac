//! Which devices there are, and whether an engine can be put on those that are asked for.

use super::acl::{ACL_DDR_MEM, ACL_HBM_MEM};
use super::errors;
use super::open::{self, Cann};
use super::soc::Facts;
use crate::backend::ComputeType;
use crate::base::error::Result;

/// A device as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceReport {
    /// Its number in this process.
    pub id: u32,
    /// The chip's name.
    pub soc: String,
    /// What the chip can do; `None` for one that this backend does not know.
    pub facts: Option<&'static Facts>,
    /// Bytes free.
    pub memory_free: u64,
    /// Bytes in all, without what the system keeps.
    pub memory_total: u64,
}

/// The devices of `npu:0,1`: their numbers, in order. `Argument` for anything else, and for a number that stands twice.
pub fn parse_devices(text: &str) -> Result<Vec<u32>> {
    let wrong =
        || crate::error!(Argument, "device: expected \"npu:0\", or \"npu:0,1\" for several, found {text:?}");
    let list = text.strip_prefix("npu:").ok_or_else(wrong)?;
    let mut ids = Vec::new();
    for word in list.split(',') {
        let digits = word.trim();
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let id = digits.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
        crate::ensure!(
            !ids.contains(&id),
            Argument,
            "device {text:?}: {id} stands twice; each rank needs a device of its own"
        );
        ids.push(id);
    }
    Ok(ids)
}

/// How many devices this process sees.
pub fn device_count(cann: &Cann) -> Result<u32> {
    let mut count = 0;
    // SAFETY: a valid number is written to.
    cann.acl.check("aclrtGetDeviceCount", unsafe { (cann.acl.aclrtGetDeviceCount)(&mut count) })?;
    Ok(count)
}

/// Looks at devices: the chip and its memory. Each is set and reset again on a thread that ends with it, so nothing of it
/// stays with the caller. The error is that of the first one that does not answer.
pub fn look_at(cann: &'static Cann, ids: &[u32]) -> Result<Vec<DeviceReport>> {
    let ids = ids.to_vec();
    open::on_own_thread("aquila-npu-look", move || ids.iter().map(|&id| look_at_one(cann, id)).collect())
}

fn look_at_one(cann: &Cann, id: u32) -> Result<DeviceReport> {
    let acl = &cann.acl;
    let number = i32::try_from(id).unwrap_or(i32::MAX);
    let place = |error: crate::Error| error.at(format_args!("device npu:{id}"));
    // SAFETY: any number may be given; the thread has no device yet.
    acl.check("aclrtSetDevice", unsafe { (acl.aclrtSetDevice)(number) }).map_err(place)?;
    // SAFETY: the function has no preconditions; it gives NULL or a string that stays.
    let soc = unsafe { errors::text((acl.aclrtGetSocName)()) };
    let memory = memory_of(cann);
    // SAFETY: the device was set above by this thread.
    let reset = acl.check("aclrtResetDevice", unsafe { (acl.aclrtResetDevice)(number) });
    let Some(soc) = soc else {
        return Err(place(open::stub(&cann.facts.acl_path)));
    };
    let (free, total) = memory.map_err(place)?;
    reset.map_err(place)?;
    Ok(DeviceReport {
        id,
        facts: Facts::of(&soc).ok(),
        soc,
        memory_free: free as u64,
        memory_total: total as u64,
    })
}

/// Free and all bytes of the device that is set: HBM, or DDR on a chip without.
pub fn memory_of(cann: &Cann) -> Result<(usize, usize)> {
    let ask = |kind| {
        let (mut free, mut total) = (0, 0);
        // SAFETY: two valid numbers are written to.
        let code = unsafe { (cann.acl.aclrtGetMemInfo)(kind, &mut free, &mut total) };
        cann.acl.check("aclrtGetMemInfo", code).map(|()| (free, total))
    };
    let first = ask(ACL_HBM_MEM);
    match (&first, ask(ACL_DDR_MEM)) {
        (Ok((_, total)), _) if *total > 0 => first,
        // A chip without HBM may answer with a failure or with nothing; one with it has no DDR of its own.
        (_, Ok((free, total))) if total > 0 => Ok((free, total)),
        (Ok(_), second) => second,
        (Err(_), _) => first,
    }
}

/// Whether an engine with these options can be put on these devices, as far as that can be told before loading; the
/// devices as they are. The checks stand in the order in which a person would mend them.
pub fn check(ids: &[u32], dtype: Option<ComputeType>, kv_bf16: bool) -> Result<Vec<DeviceReport>> {
    let cann = Cann::open()?;
    let count = device_count(cann)?;
    if let Some(&id) = ids.iter().find(|&&id| id >= count) {
        let visible = std::env::var("ASCEND_RT_VISIBLE_DEVICES").unwrap_or_default();
        let renumbered = match visible.as_str() {
            "" => String::new(),
            list => format!(" (ASCEND_RT_VISIBLE_DEVICES is {list:?}, and numbers them anew)"),
        };
        crate::bail!(
            Argument,
            "device npu:{id}: there is no such device; this process sees {count}{}{renumbered}",
            match count {
                0 => ": npu-smi info shows what the driver sees".into(),
                1 => ", npu:0".into(),
                more => format!(", npu:0 to npu:{}", more - 1),
            }
        );
    }
    if ids.len() > 1 {
        cann.hccl()?;
    }
    let reports = look_at(cann, ids)?;
    for report in &reports {
        let facts =
            Facts::of(&report.soc).map_err(|error| error.at(format_args!("device npu:{}", report.id)))?;
        check_types(report, facts, dtype, kv_bf16)?;
    }
    if let Some(other) = reports.iter().find(|report| report.soc != reports[0].soc) {
        crate::bail!(
            Unsupported,
            "device npu:{}: a {}, but npu:{} is a {}; the ranks of an engine need chips of one kind",
            other.id,
            other.soc,
            reports[0].id,
            reports[0].soc
        );
    }
    Ok(reports)
}

/// bf16 is refused where the chip has none: a checkpoint in bf16 is loaded as f16 when no type is asked for.
fn check_types(
    report: &DeviceReport,
    facts: &Facts,
    dtype: Option<ComputeType>,
    kv_bf16: bool,
) -> Result<()> {
    for (option, asked) in [("dtype", dtype == Some(ComputeType::Bf16)), ("kv_dtype", kv_bf16)] {
        crate::ensure!(
            !asked || facts.bf16,
            Unsupported,
            "device npu:{}: {option} \"bf16\": {} ({}) has no bf16; use \"f16\", or leave it out: weights in bf16 are then \
             converted, and one that f16 cannot hold is an error",
            report.id,
            report.soc,
            facts.product
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;

    #[test]
    fn lists_of_devices() {
        assert_eq!(parse_devices("npu:0").unwrap(), [0]);
        assert_eq!(parse_devices("npu:0,1").unwrap(), [0, 1]);
        // The guide's own config.ini may have blanks.
        assert_eq!(parse_devices("npu:3, 1").unwrap(), [3, 1]);
        for bad in
            ["npu", "npu:", "npu:a", "npu:-1", "npu:+1", "npu:0,", "npu:0;1", "npu:99999999999", "npu0"]
        {
            let error = parse_devices(bad).unwrap_err();
            assert_eq!(error.status, Status::Argument, "{bad}");
            assert!(error.message.contains(&format!("{bad:?}")), "{error}");
        }
        let error = parse_devices("npu:1,1").unwrap_err();
        assert_eq!(error.status, Status::Argument);
        assert!(error.message.contains("stands twice"), "{error}");
    }
}
