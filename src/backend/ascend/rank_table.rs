//! HCCL's rank table: a file that names the devices of a group and their ranks, for who has one already. The variable
//! `RANK_TABLE_FILE` names it, and it is read where an engine is to have several devices.
//!
//! The ranks of an engine are threads of one process, which one scheduler keeps in step. A table may therefore name the
//! engine's own devices alone, in the order of its ranks. Devices of another server are refused by name: they would
//! need processes there that are told of every step, and nothing here does that.
//!
//! HCCL reads the file itself, again. What is wrong with it is found here first, because there it would be a number, or two
//! minutes of waiting for a rank that never comes.

use crate::base::error::{Error, Result};
use crate::base::limits;
use serde::Deserialize;
use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const VARIABLE: &str = "RANK_TABLE_FILE";
const VERSION: &str = "1.0";

/// A table that was found to be right for an engine's devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankTable {
    path: CString,
}

impl RankTable {
    /// The table that the environment names, where there are several devices; `None` where it names none. `Io` where it
    /// cannot be read, `Format` where it is no such table, `Argument` where it is of other devices, `Unsupported` where some
    /// are another server's.
    pub fn of_environment(devices: &[u32]) -> Result<Option<RankTable>> {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        let Some(path) = path.filter(|_| devices.len() > 1) else { return Ok(None) };
        let visible = std::env::var("ASCEND_RT_VISIBLE_DEVICES").unwrap_or_default();
        let table = Self::read(Path::new(&path), &physical(devices, &visible))?;
        log::info!(target: "aquila::npu", "{VARIABLE}: the ranks meet by {}", table.name());
        Ok(Some(table))
    }

    /// Reads a table and compares it with the devices, by the numbers that the server gives them.
    fn read(path: &Path, devices: &[u32]) -> Result<RankTable> {
        let named = |error: Error| error.at(format_args!("{VARIABLE} {}", path.display()));
        let text = contents(path).map_err(|cause| named(crate::error!(Io, "{cause}")))?;
        check(&text, devices).map_err(named)?;
        let path = CString::new(path.as_os_str().as_bytes());
        Ok(RankTable { path: path.map_err(|_| crate::error!(Argument, "{VARIABLE}: a NUL in the path"))? })
    }

    /// The file, as HCCL takes it.
    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// The file, as a person reads it.
    pub fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

/// What stands in a file, up to a byte more than may. Not of a pipe, which could keep its reader for ever.
fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(limits::RANK_TABLE_BYTES_MAX + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// The server's own numbers of devices that a process may see under others.
fn physical(devices: &[u32], visible: &str) -> Vec<u32> {
    let visible: Vec<u32> = visible.split(',').map_while(|id| id.trim().parse().ok()).collect();
    devices.iter().map(|&id| visible.get(id as usize).copied().unwrap_or(id)).collect()
}

/// A rank table of form 1.0. What else stands in it, such as the devices' addresses, is HCCL's.
#[derive(Deserialize)]
struct Table {
    version: String,
    status: String,
    server_count: Option<String>,
    server_list: Vec<Server>,
}

#[derive(Deserialize)]
struct Server {
    server_id: String,
    device: Vec<TableDevice>,
}

#[derive(Deserialize)]
struct TableDevice {
    device_id: String,
    rank_id: String,
}

/// Whether a table is one of these devices in this order, and of no others.
fn check(text: &[u8], devices: &[u32]) -> Result<()> {
    crate::ensure!(
        text.len() as u64 <= limits::RANK_TABLE_BYTES_MAX,
        Format,
        "expected at most {} bytes",
        limits::RANK_TABLE_BYTES_MAX
    );
    let table: Table = serde_json::from_slice(text).map_err(|cause| crate::error!(Format, "{cause}"))?;
    crate::ensure!(
        table.version == VERSION,
        Unsupported,
        "version: expected {VERSION:?}, found {:?}",
        clip(&table.version)
    );
    crate::ensure!(
        table.status == "completed",
        Format,
        "status: expected \"completed\", found {:?}",
        clip(&table.status)
    );
    let servers = table.server_list.len();
    if let Some(count) = &table.server_count {
        crate::ensure!(
            count.parse() == Ok(servers),
            Format,
            "server_count: {:?}, and server_list has {servers}",
            clip(count)
        );
    }
    if let [first, second, ..] = &table.server_list[..] {
        crate::bail!(
            Unsupported,
            "it names {servers} servers ({:?}, {:?}{}); the ranks of an engine are threads of one process on one server. Other \
             servers would need a process each that runs every step along with this one, which the library has not. Name \
             this server's devices alone, or unset {VARIABLE}",
            clip(&first.server_id),
            clip(&second.server_id),
            if servers > 2 { ", ..." } else { "" }
        );
    }
    let named = table.server_list.iter().flat_map(|server| &server.device);
    let ranks = ranks(named, devices.len())?;
    crate::ensure!(
        ranks == devices,
        Argument,
        "its ranks are the devices {ranks:?}, and the engine's are {devices:?} (by the server's numbers); name the same \
         devices in the same order, or unset {VARIABLE}"
    );
    Ok(())
}

/// The device of each rank.
fn ranks<'a>(named: impl Iterator<Item = &'a TableDevice>, expected: usize) -> Result<Vec<u32>> {
    let number = |name: &str, text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse::<u32>().ok().filter(|_| plain);
        number.ok_or_else(|| crate::error!(Format, "{name}: expected a number, found {:?}", clip(text)))
    };
    let mut by_rank = Vec::new();
    for device in named {
        by_rank.push((number("rank_id", &device.rank_id)?, number("device_id", &device.device_id)?));
    }
    let found = by_rank.len();
    crate::ensure!(
        found == expected,
        Argument,
        "it names {found} devices, and the engine has {expected}; name the same devices, or unset {VARIABLE}"
    );
    by_rank.sort_unstable();
    for (expected, &(rank, device)) in (0..).zip(&by_rank) {
        crate::ensure!(
            rank == expected,
            Format,
            "device_id {device} has rank_id {rank}: expected every rank from 0 to {} once",
            found - 1
        );
        let same = by_rank.iter().filter(|(_, other)| *other == device).count();
        crate::ensure!(same == 1, Format, "device_id {device} has {same} ranks, expected one");
    }
    Ok(by_rank.into_iter().map(|(_, device)| device).collect())
}

/// The beginning of a text from outside, for a message.
fn clip(text: &str) -> &str {
    const SHOWN: usize = 60;
    let end = text.char_indices().nth(SHOWN).map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Status;
    use proptest::prelude::*;

    fn table(servers: &[(&str, &[(&str, &str)])]) -> String {
        let device = |(device, rank): &(&str, &str)| {
            format!(r#"{{"device_id": "{device}", "device_ip": "192.0.2.{device}", "rank_id": "{rank}"}}"#)
        };
        let server = |(id, devices): &(&str, &[_])| {
            let devices: Vec<String> = devices.iter().map(device).collect();
            format!(
                r#"{{"server_id": "{id}", "device": [{}], "host_nic_ip": "reserve"}}"#,
                devices.join(", ")
            )
        };
        let list: Vec<String> = servers.iter().map(server).collect();
        format!(
            r#"{{"version": "1.0", "server_count": "{}", "server_list": [{}], "status": "completed"}}"#,
            list.len(),
            list.join(", ")
        )
    }

    #[test]
    fn a_table_of_the_engines_devices_is_taken() {
        let text = table(&[("a", &[("4", "0"), ("6", "1")])]);
        check(text.as_bytes(), &[4, 6]).unwrap();
        // The order of the ranks counts, not that of the file.
        let text = table(&[("a", &[("4", "1"), ("6", "0")])]);
        check(text.as_bytes(), &[6, 4]).unwrap();
        check(text.replace(r#""server_count": "1", "#, "").as_bytes(), &[6, 4]).unwrap();
        assert_eq!(physical(&[0, 1], "4,6"), [4, 6]);
        assert_eq!(physical(&[1, 0], ""), [1, 0]);
    }

    #[test]
    fn another_table_is_refused_and_says_why() {
        let good = table(&[("a", &[("0", "0"), ("1", "1")])]);
        let of = |devices: &[(&str, &str)]| table(&[("a", devices)]);
        let cases: Vec<(String, Status, &[&str])> = vec![
            (good.replace("1.0", "1.2"), Status::Unsupported, &["version", "1.2"]),
            (good.replace("completed", "initializing"), Status::Format, &["status", "initializing"]),
            (
                good.replace(r#""server_count": "1""#, r#""server_count": "2""#),
                Status::Format,
                &["server_count"],
            ),
            (good.replace(r#""rank_id": "1""#, r#""rank_id": 1"#), Status::Format, &["line 1", "string"]),
            (good.replace(r#""rank_id""#, r#""rank""#), Status::Format, &["rank_id"]),
            (good[..good.len() - 4].to_owned(), Status::Format, &["line 1"]),
            (of(&[("0", "0")]), Status::Argument, &["names 1 devices", "has 2"]),
            (of(&[("0", "0"), ("1", "1"), ("2", "2")]), Status::Argument, &["names 3 devices"]),
            (of(&[("0", "0"), ("1", "0")]), Status::Format, &["device_id 1", "rank_id 0", "0 to 1"]),
            (of(&[("0", "0"), ("1", "2")]), Status::Format, &["rank_id 2"]),
            (of(&[("0", "0"), ("0", "1")]), Status::Format, &["device_id 0 has 2 ranks"]),
            (of(&[("0", "0"), ("+1", "1")]), Status::Format, &["device_id", "+1"]),
            (of(&[("1", "0"), ("0", "1")]), Status::Argument, &["[1, 0]", "[0, 1]", "unset RANK_TABLE_FILE"]),
            (of(&[("0", "0"), ("7", "1")]), Status::Argument, &["[0, 7]"]),
            (table(&[]), Status::Argument, &["names 0 devices"]),
            (
                table(&[("north", &[("0", "0")]), ("south", &[("0", "1")])]),
                Status::Unsupported,
                &["2 servers", "north", "south", "one process"],
            ),
        ];
        for (text, status, words) in cases {
            let error = check(text.as_bytes(), &[0, 1]).unwrap_err();
            assert_eq!(error.status, status, "{text}: {error}");
            for word in words {
                assert!(error.message.contains(word), "{word:?}: {error}");
            }
        }
        let long = vec![b' '; limits::RANK_TABLE_BYTES_MAX as usize + 1];
        assert_eq!(check(&long, &[0, 1]).unwrap_err().status, Status::Format);
        let missing = RankTable::read(Path::new("/nowhere/table.json"), &[0, 1]).unwrap_err();
        assert!(missing.message.contains("/nowhere/table.json"), "{missing}");
    }

    proptest! {
        /// Any bytes, and tables with one byte changed: an error, or a table that is right.
        #[test]
        fn any_bytes_are_a_table_or_an_error(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
            prop_assert!(check(&bytes, &[0, 1]).is_err());
            let mut text = table(&[("a", &[("0", "0"), ("1", "1")])]).into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            let _ = check(&text, &[0, 1]);
        }
    }
}
