//! Ascend: driver, firmware, CANN, ATB, variables and devices, against the table of the Ascend guide.
//!
//! The guide's own CANN (8.0.T2.B010) is older than what this library can use: ATB's layouts are published from 8.0.0 on.

use super::super::console;
use super::Line;
use aquila::backend::ascend::diagnosis::Diagnosis;
use aquila::backend::ascend::probe::DeviceReport;
use aquila::backend::ascend::soc::Family;
use aquila::backend::ascend::version::{Found, Version};

/// The driver and firmware of the guide, and its CANN.
const GUIDE_HDK: &str = "24.0.T1";
const GUIDE_CANN: &str = "8.0.T2.B010";
/// What to install, in the order of the guide.
const INSTALL_HDK: &str =
    "install the card's Ascend-hdk-…-npu-driver and -firmware, 24.1 or later, with --full";
const INSTALL_CANN: &str = "install Ascend-cann-toolkit, -kernels and -nnal, 8.0.0 or later, with --install";

pub fn look(found: &Diagnosis) -> Vec<Line> {
    if found.is_without_ascend() {
        return vec![Line::ok("Ascend", "no device, driver or CANN on this machine: the CPU is used")];
    }
    let mut lines = vec![
        nodes(found),
        package("driver", found.driver.as_ref(), found),
        package("firmware", found.firmware.as_ref(), found),
    ];
    if !found.shim_built {
        lines.push(Line::problem(
            "ATB shim",
            "this build has none: there was no C++ compiler",
            "apt-get install g++, and build again",
        ));
    }
    lines.extend(cann(found));
    lines.extend(variables(|name| std::env::var(name).ok(), found));
    lines.extend(found.devices.iter().map(|device| match device {
        Ok(report) => describe(report),
        Err(error) => Line::problem("NPU", &error.message, "npu-smi info shows what the driver sees"),
    }));
    lines
}

fn nodes(found: &Diagnosis) -> Line {
    match found.nodes.len() {
        0 if found.devices.iter().any(Result::is_ok) => Line::warning(
            "device files",
            "none in /dev, though CANN shows devices: a simulator?",
            "nothing, if it is",
        ),
        0 => Line::problem(
            "device files",
            "no /dev/davinci0: the driver is not loaded, or the container was not given the device",
            "npu-smi info on the host; docker run --device /dev/davinci0 --device /dev/davinci_manager \
             --device /dev/devmm_svm --device /dev/hisi_hdc",
        ),
        count => Line::ok("device files", format!("{count} in /dev")),
    }
}

/// The driver or the firmware.
fn package(name: &str, version: Option<&Found>, diagnosis: &Diagnosis) -> Line {
    let Some(found) = version else {
        let file = diagnosis.root.join(name).join("version.info");
        let text = format!("{} is not there", file.display());
        // A container often has the libraries of the driver and not these files.
        return if diagnosis.devices.iter().any(Result::is_ok) {
            Line::warning(name, text, "in a container, mount the host's file there to see its version")
        } else {
            Line::problem(name, text, INSTALL_HDK)
        };
    };
    let text = format!("{} (the guide's HDK: {GUIDE_HDK})", found.text);
    // The firmware counts otherwise (7.1.0…), so only the driver's number is compared.
    match Version::parse(&found.text) {
        Some(version) if name == "driver" && version.major < 24 => Line::warning(name, text, INSTALL_HDK),
        _ => Line::ok(name, text),
    }
}

/// CANN and ATB, or why they cannot be used and which versions their files tell.
fn cann(found: &Diagnosis) -> Vec<Line> {
    match &found.cann {
        Ok(facts) => {
            let mut lines = vec![
                Line::ok(
                    "CANN",
                    format!(
                        "{} ({})",
                        facts.cann_version.as_deref().unwrap_or("of unknown version"),
                        facts.acl_path.display()
                    ),
                ),
                Line::ok(
                    "ATB",
                    format!(
                        "{} by {} ({})",
                        facts.atb_version,
                        facts.atb_version_from,
                        facts.atb_path.display()
                    ),
                ),
                Line::ok("C++ ABI", format!("{} (cxx_abi_{})", facts.abi, facts.abi)),
            ];
            if let Some(error) = &found.hccl {
                lines.push(Line::warning("HCCL", &error.message, "needed for several devices only"));
            }
            lines
        }
        Err(error) => {
            let mut lines = Vec::new();
            for (name, version) in [("toolkit", &found.toolkit), ("nnal", &found.atb)] {
                let Some(version) = version else { continue };
                let old = Version::parse(&version.text).is_none_or(|version| !version.is_at_least_8_0_0());
                let text = format!("{} by {}", version.text, version.file.display());
                lines.push(if old {
                    Line::problem(
                        name,
                        format!("{text}: too old, as is the guide's own CANN {GUIDE_CANN}"),
                        INSTALL_CANN,
                    )
                } else {
                    Line::ok(name, text)
                });
            }
            let script = found.root.join("ascend-toolkit/set_env.sh");
            let mend = if found.toolkit.is_some() || script.is_file() {
                format!(
                    "source {} && source {}",
                    script.display(),
                    found.root.join("nnal/atb/set_env.sh").display()
                )
            } else {
                INSTALL_CANN.to_owned()
            };
            lines.push(Line::problem("CANN", &error.message, mend));
            lines
        }
    }
}

/// The variables that decide whether CANN works and how fast. `value` is the environment.
fn variables(value: impl Fn(&str) -> Option<String>, found: &Diagnosis) -> Vec<Line> {
    let mut lines = Vec::new();
    let value = |name: &str| value(name).filter(|text| !text.is_empty());
    if value("ASCEND_OPP_PATH").is_none() && found.cann.is_ok() {
        lines.push(Line::warning(
            "ASCEND_OPP_PATH",
            "not set: CANN finds its kernels through it",
            format!("source {}", found.root.join("ascend-toolkit/set_env.sh").display()),
        ));
    }
    if let Some((table, false)) = &found.atb_table {
        lines.push(Line::problem(
            "ATB_HOME_PATH",
            format!("{} is not there: ATB checks every operation against it", table.display()),
            format!("source {}", found.root.join("nnal/atb/set_env.sh").display()),
        ));
    }
    if let Some(path) =
        value("LD_LIBRARY_PATH").filter(|path| path.contains("devlib") || path.contains("/stub"))
    {
        lines.push(Line::warning(
            "LD_LIBRARY_PATH",
            format!(
                "{path}: devlib and stub hold libraries for linking only, which answer every call with 100039"
            ),
            "take those folders out",
        ));
    }
    if let Some(list) = value("ASCEND_RT_VISIBLE_DEVICES") {
        let ids: Vec<Option<u32>> = list.split(',').map(|id| id.trim().parse().ok()).collect();
        let ascending = ids.windows(2).all(|pair| pair[0] < pair[1]);
        lines.push(if ids.contains(&None) || !ascending {
            Line::problem(
                "visible devices",
                format!("ASCEND_RT_VISIBLE_DEVICES is {list:?}: the numbers must ascend"),
                "export ASCEND_RT_VISIBLE_DEVICES=0,1",
            )
        } else {
            Line::ok(
                "visible devices",
                format!("ASCEND_RT_VISIBLE_DEVICES is {list}: npu:0 is the first of them"),
            )
        });
    }
    let second_generation = found
        .devices
        .iter()
        .flatten()
        .any(|report| report.facts.is_some_and(|facts| facts.family == Family::Ascend910B));
    if value("ATB_USE_TILING_COPY_STREAM").as_deref() == Some("1") && second_generation {
        lines.push(Line::warning(
            "tiling stream",
            "ATB_USE_TILING_COPY_STREAM is 1, which the guide takes out on Atlas 800I A2",
            "unset ATB_USE_TILING_COPY_STREAM",
        ));
    }
    for name in [
        "ATB_STREAM_SYNC_EVERY_KERNEL_ENABLE",
        "ATB_STREAM_SYNC_EVERY_RUNNER_ENABLE",
        "ATB_STREAM_SYNC_EVERY_OPERATION_ENABLE",
        "ATB_COMPARE_TILING_EVERY_KERNEL",
    ] {
        if value(name).as_deref() == Some("1") {
            lines.push(Line::warning(
                name,
                "1: the host waits for every step, for debugging",
                format!("unset {name}"),
            ));
        }
    }
    if let Some(level) = value("ASCEND_GLOBAL_LOG_LEVEL").filter(|level| level == "0" || level == "1") {
        lines.push(Line::warning(
            "CANN's log",
            format!("ASCEND_GLOBAL_LOG_LEVEL is {level}: so much is written that it costs speed"),
            "export ASCEND_GLOBAL_LOG_LEVEL=3",
        ));
    }
    if let Some(text) = value("HCCL_BUFFSIZE") {
        lines.push(match text.parse::<u64>() {
            Ok(mib) => Line::ok(
                "HCCL buffers",
                format!("HCCL_BUFFSIZE is {mib}: {} MiB a rank", mib.saturating_mul(2)),
            ),
            Err(_) => Line::problem(
                "HCCL buffers",
                format!("HCCL_BUFFSIZE is {text:?}, expected MiB"),
                "unset HCCL_BUFFSIZE",
            ),
        });
    }
    lines
}

fn describe(report: &DeviceReport) -> Line {
    let topic = format!("npu:{}", report.id);
    let memory =
        format!("{} free of {}", console::bytes(report.memory_free), console::bytes(report.memory_total));
    let Some(facts) = report.facts else {
        return Line::problem(
            topic,
            format!("{}, {memory}: a chip that this library has no backend for", report.soc),
            "use Atlas 800I A2 (Ascend910B) or Atlas 300I DUO (Ascend310P), or the CPU",
        );
    };
    let text = format!("{} ({}), {memory}", report.soc, facts.product);
    if report.memory_free < report.memory_total / 2 {
        return Line::warning(topic, text, "npu-smi info shows which processes hold the rest");
    }
    Line::ok(topic, text)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use aquila::backend::ascend::soc::Facts;

    fn diagnosis() -> Diagnosis {
        Diagnosis {
            shim_built: true,
            root: "/usr/local/Ascend".into(),
            installed: true,
            nodes: vec!["/dev/davinci0".into()],
            driver: Some(Found { text: "24.1.rc1".into(), file: "/x".into() }),
            firmware: None,
            cann: Err(aquila::error!(NotFound, "CANN: libascendcl.so was not found")),
            toolkit: Some(Found { text: "8.0.T2.B010".into(), file: "/y".into() }),
            atb: None,
            hccl: None,
            devices: Vec::new(),
            atb_table: None,
        }
    }

    fn line<'a>(lines: &'a [Line], topic: &str) -> &'a Line {
        lines.iter().find(|line| line.topic == topic).unwrap_or_else(|| panic!("no {topic} in {lines:?}"))
    }

    #[test]
    fn the_guides_own_cann_is_too_old_and_it_says_what_to_install() {
        let lines = look(&diagnosis());
        let toolkit = line(&lines, "toolkit");
        assert_eq!(toolkit.verdict, Verdict::Problem);
        assert!(
            toolkit.text.contains("guide") && toolkit.mend.as_ref().unwrap().contains("8.0.0"),
            "{toolkit:?}"
        );
        assert!(line(&lines, "CANN").mend.as_ref().unwrap().starts_with("source /usr/local/Ascend/"));
        assert_eq!(line(&lines, "driver").verdict, Verdict::Ok);
        assert_eq!(line(&lines, "firmware").verdict, Verdict::Problem);
        let old = Some(Found { text: "23.0.3".into(), file: "/x".into() });
        assert_eq!(
            line(&look(&Diagnosis { driver: old, ..diagnosis() }), "driver").verdict,
            Verdict::Warning
        );
    }

    #[test]
    fn variables_that_harm_are_named_with_the_command_that_mends_them() {
        let with = |name: &'static str, text: &'static str, found: &Diagnosis| {
            variables(move |asked| (asked == name).then(|| text.to_owned()), found)
        };
        let quiet = diagnosis();
        assert_eq!(with("HOME", "/", &quiet), []);
        for (name, text, verdict) in [
            ("ASCEND_RT_VISIBLE_DEVICES", "1,0", Verdict::Problem),
            ("ASCEND_RT_VISIBLE_DEVICES", "0,1", Verdict::Ok),
            ("ASCEND_RT_VISIBLE_DEVICES", "all", Verdict::Problem),
            ("ASCEND_GLOBAL_LOG_LEVEL", "0", Verdict::Warning),
            ("ATB_STREAM_SYNC_EVERY_KERNEL_ENABLE", "1", Verdict::Warning),
            ("HCCL_BUFFSIZE", "lots", Verdict::Problem),
            ("HCCL_BUFFSIZE", "64", Verdict::Ok),
            ("LD_LIBRARY_PATH", "/usr/local/Ascend/ascend-toolkit/latest/devlib", Verdict::Warning),
        ] {
            let lines = with(name, text, &quiet);
            assert_eq!(lines.len(), 1, "{name}={text}: {lines:?}");
            assert_eq!(lines[0].verdict, verdict, "{name}={text}");
            assert_eq!(lines[0].mend.is_some(), verdict != Verdict::Ok);
        }
        // The guide: to be taken out on Atlas 800I A2, kept on Atlas 300I DUO.
        for (soc, count) in [("Ascend910B4", 1), ("Ascend310P3", 0)] {
            let report = DeviceReport {
                id: 0,
                soc: soc.into(),
                facts: Facts::of(soc).ok(),
                memory_free: 1,
                memory_total: 1,
            };
            let found = Diagnosis { devices: vec![Ok(report)], ..diagnosis() };
            assert_eq!(with("ATB_USE_TILING_COPY_STREAM", "1", &found).len(), count, "{soc}");
        }
    }

    #[test]
    fn a_device_that_others_fill_and_a_chip_that_is_unknown() {
        let report = |soc: &str, free| DeviceReport {
            id: 3,
            soc: soc.into(),
            facts: Facts::of(soc).ok(),
            memory_free: free,
            memory_total: 64 << 30,
        };
        assert_eq!(describe(&report("Ascend910B3", 60 << 30)).verdict, Verdict::Ok);
        assert_eq!(describe(&report("Ascend910B3", 1 << 30)).verdict, Verdict::Warning);
        let unknown = describe(&report("Ascend910A", 60 << 30));
        assert_eq!((unknown.verdict, unknown.topic.as_str()), (Verdict::Problem, "npu:3"));
    }
}
