//! What `aquila doctor` asks: everything about an Ascend installation that can be told without a model.

use super::open::{Cann, Facts};
use super::probe::{self, DeviceReport};
use super::search::Places;
use super::version::{self, Found};
use crate::base::error::{Error, Result};
use std::path::PathBuf;

/// What was found.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// Whether this build has the shim over ATB.
    pub shim_built: bool,
    /// Where Ascend's software is usually installed, and was looked for.
    pub root: PathBuf,
    /// Whether that folder is there.
    pub installed: bool,
    /// The devices that the kernel shows: `/dev/davinci0` and so on.
    pub nodes: Vec<PathBuf>,
    /// The driver.
    pub driver: Option<Found>,
    /// The firmware.
    pub firmware: Option<Found>,
    /// CANN, or why it could not be opened.
    pub cann: std::result::Result<Facts, Error>,
    /// The toolkit's version where CANN could not be opened, by its files in the usual place.
    pub toolkit: Option<Found>,
    /// ATB's likewise.
    pub atb: Option<Found>,
    /// Why collective operations cannot be used, where they cannot.
    pub hccl: Option<Error>,
    /// The devices that CANN shows, or why one does not answer. Empty where CANN could not be opened.
    pub devices: Vec<Result<DeviceReport>>,
    /// The table of operations that ATB reads, and whether it is there; `None` where `ATB_HOME_PATH` is not set.
    pub atb_table: Option<(PathBuf, bool)>,
}

impl Diagnosis {
    /// Opens CANN where it is, and looks at everything.
    pub fn make() -> Diagnosis {
        let places = Places::from_environment();
        let cann = Cann::open();
        let mut devices = Vec::new();
        if let Ok(cann) = &cann {
            match probe::device_count(cann) {
                Ok(count) => devices.extend((0..count).map(|id| look_at(cann, id))),
                Err(error) => devices.push(Err(error)),
            }
        }
        let library = |path: &str| places.root.join(path);
        Diagnosis {
            shim_built: env!("AQUILA_ATB_SHIM") == "true",
            installed: places.root.is_dir(),
            nodes: device_files(),
            driver: version::of_package(&places.root, "driver"),
            firmware: version::of_package(&places.root, "firmware"),
            hccl: cann.as_ref().ok().and_then(|cann| cann.hccl().err()),
            toolkit: version::of_toolkit(&library("ascend-toolkit/latest/lib64/libascendcl.so")),
            atb: version::of_atb(&library("nnal/atb/latest/atb/cxx_abi_1/lib/libatb.so")),
            cann: cann.map(|cann| cann.facts.clone()),
            devices,
            atb_table: places.atb_home.as_ref().map(|home| {
                let table = home.join("configs/ops_configs/atb_ops_info.ini");
                let there = table.is_file();
                (table, there)
            }),
            root: places.root,
        }
    }

    /// Whether nothing of Ascend is on this machine: no device, no software, no variable that names it.
    pub fn is_without_ascend(&self) -> bool {
        let named = ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ATB_HOME_PATH", "AQUILA_ASCEND_HOME"];
        let named = named.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
        self.cann.is_err() && self.nodes.is_empty() && !self.installed && !named
    }
}

fn look_at(cann: &'static Cann, id: u32) -> Result<DeviceReport> {
    probe::look_at(cann, &[id])?.pop().ok_or_else(|| crate::error!(Internal, "device npu:{id}: no report"))
}

/// The devices that the kernel shows: `/dev/davinci` with a number.
pub fn device_files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut nodes: Vec<_> = entries
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let number = name.strip_prefix("davinci");
            number
                .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        })
        .collect();
    nodes.sort();
    nodes
}
