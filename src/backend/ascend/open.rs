//! Opening CANN: the three libraries and the shim are found, opened and checked, once for the process.
//!
//! Order: `libascendcl.so` and its `aclInit`; `libhccl.so`, whose lack only several devices mind; `libatb.so`, whose C++
//! ABI and version are looked at before anything of it is called; the shim of that ABI. All of it happens on a thread of
//! its own with all signals blocked, because CANN starts threads that inherit the mask, and a context that the host may
//! have set on the calling thread must stay as it is.
//!
//! `aclFinalize` is never called: the host, or another library in it, may use ACL as well, and in a destructor at exit
//! it hangs.

use super::acl::{ACL_ERROR_REPEAT_INITIALIZE, Acl};
use super::errors::{self, ACL_CODES};
use super::hccl::Hccl;
use super::search::{self, Opened, Places, Scope};
use super::shim::{self, Shim, aqatb_library};
use super::version::{self, Version};
use crate::base::error::{Error, Result, Status};
use parking_lot::Mutex;
use std::ffi::c_char;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// A stub library's answer to every call: such libraries are for linking only.
const STUB: i32 = 100_039;
/// The functions by which the libraries' files are found.
const ACL_SYMBOL: &str = "aclInit";
const HCCL_SYMBOL: &str = "HcclGetRootInfo";
const ATB_SYMBOL: &str = "_ZN3atb13CreateContextEPPNS_7ContextE";
/// The function that only one of the two variants of ATB has: its name tells the ABI.
pub const ATB_PROBES: [&str; 2] = ["_ZN3atb5Utils13GetAtbVersionEv", "_ZN3atb5Utils13GetAtbVersionB5cxx11Ev"];
/// A function that ATB has since 8.1: for a library without a file that tells its version.
const ATB_SINCE_8_1: &str = "_ZN3atb4Comm14CreateHcclCommEiiiPc";

/// CANN, opened and checked. It stays for as long as the process lives.
#[derive(Debug)]
pub struct Cann {
    /// Devices, streams, memory.
    pub acl: Acl,
    /// The shim over ATB.
    pub shim: Shim,
    /// What the shim needs to know of libatb.so.
    pub atb: AtbLibrary,
    /// Facts for a person.
    pub facts: Facts,
    hccl: std::result::Result<Hccl, Error>,
}

/// The shim's view of libatb.so.
#[derive(Clone, Copy, Debug)]
pub struct AtbLibrary(pub *const aqatb_library);

// SAFETY: a table of function pointers that is written once before it is shared.
unsafe impl Send for AtbLibrary {}
// SAFETY: as above.
unsafe impl Sync for AtbLibrary {}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The file of libascendcl.so.
    pub acl_path: PathBuf,
    /// The file of libatb.so.
    pub atb_path: PathBuf,
    /// CANN's version, where it tells.
    pub cann_version: Option<String>,
    /// ATB's version, as it is written.
    pub atb_version: String,
    /// Where that is written.
    pub atb_version_from: String,
    /// ATB's C++ ABI: 0 or 1.
    pub abi: u32,
    /// Whether the host had called `aclInit` before.
    pub host_uses_acl: bool,
}

/// What one process opened; a failure is not kept, for the next load may find what this one lacked.
static OPENED: Mutex<Option<&'static Cann>> = Mutex::new(None);

impl Cann {
    /// CANN where the environment says it is. `NotFound` with all that was looked at where it is not there;
    /// `Unsupported` for what is too old or of the wrong ABI; `Device` where the driver refuses.
    pub fn open() -> Result<&'static Cann> {
        let mut opened = OPENED.lock();
        if let Some(cann) = *opened {
            return Ok(cann);
        }
        let places = Places::from_environment();
        let cann = on_own_thread("aquila-npu-open", move || open_all(&places))?;
        let facts = &cann.facts;
        log::info!(
            target: "aquila::npu",
            "CANN {} ({}), ATB {} ({}, C++ ABI {}){}",
            facts.cann_version.as_deref().unwrap_or("of unknown version"),
            facts.acl_path.display(),
            facts.atb_version,
            facts.atb_path.display(),
            facts.abi,
            if facts.host_uses_acl { "; the host uses ACL too" } else { "" }
        );
        let cann: &'static Cann = Box::leak(Box::new(cann));
        *opened = Some(cann);
        Ok(cann)
    }

    /// Collective operations; the error says why there are none.
    pub fn hccl(&self) -> Result<&Hccl> {
        self.hccl.as_ref().map_err(Clone::clone)
    }
}

/// Longest wait for an answer of CANN: 60 s, or as many as `AQUILA_ASCEND_TIMEOUT` says. A driver whose card hangs may
/// never answer, and a call cannot be ended from outside.
pub fn answer_limit() -> Duration {
    let set = std::env::var("AQUILA_ASCEND_TIMEOUT").ok().and_then(|text| text.trim().parse::<u32>().ok());
    Duration::from_secs(set.filter(|&seconds| seconds > 0).unwrap_or(60).into())
}

/// The error for a thread whose call of CANN does not return.
pub fn no_answer(who: &str, waited: Duration) -> Error {
    crate::error!(
        Device,
        "{who}: CANN has not answered for {} s (AQUILA_ASCEND_TIMEOUT sets the limit); npu-smi info shows whether the card \
         is well. The thread that waits for it is left behind",
        waited.as_secs()
    )
}

/// Runs a piece of work that calls CANN on a thread of its own and waits for it, at most [`answer_limit`].
pub fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    let thread = crate::base::thread::spawn(name, move || {
        let _ = send.send(work());
    })?;
    let limit = answer_limit();
    match receive.recv_timeout(limit) {
        Ok(result) => {
            let _ = thread.join();
            result
        }
        Err(RecvTimeoutError::Timeout) => Err(no_answer(name, limit)),
        Err(RecvTimeoutError::Disconnected) => {
            Err(crate::error!(Internal, "thread {name} ended without an answer"))
        }
    }
}

fn open_all(places: &Places) -> Result<Cann> {
    let (acl, acl_library) = open_acl(places)?;
    let host_uses_acl = initialise(&acl, &acl_library.path)?;
    let hccl = open_hccl(places);
    let atb_library = open_atb(places)?;
    let abi = check_abi(&atb_library)?;
    let told = version::of_atb(&atb_library.path);
    if let Some(found) = &told {
        check_version(&found.text, &found.file.display().to_string(), &atb_library.path)?;
    }
    check_variables(places, &atb_library.path)?;
    atb_library.make_global();
    let shim = open_shim(places, abi)?;
    let mut atb: *mut aqatb_library = std::ptr::null_mut();
    // SAFETY: the handle is libatb.so's, and the shim was compiled for its ABI.
    shim::checked(|error| unsafe { (shim.aqatb_open)(atb_library.handle, &mut atb, error) })
        .map_err(|error| error.at(atb_library.path.display()))?;
    let (atb_version, atb_version_from) = match told {
        Some(found) => (found.text, found.file.display().to_string()),
        None => version_by_itself(&shim, atb, &atb_library)?,
    };
    let facts = Facts {
        cann_version: cann_version(&acl)
            .or_else(|| version::of_toolkit(&acl_library.path).map(|found| found.text)),
        acl_path: acl_library.path,
        atb_path: atb_library.path,
        atb_version,
        atb_version_from,
        abi,
        host_uses_acl,
    };
    Ok(Cann { acl, shim, atb: AtbLibrary(atb), facts, hccl })
}

/// A library of the toolkit.
fn open_toolkit(places: &Places, file: &str, symbol: &str) -> std::result::Result<Opened, Vec<String>> {
    search::open_alone(&places.of_toolkit(file), file, symbol, places.own_home.as_deref(), Scope::Local)
}

/// `libascendcl.so` with its functions.
fn open_acl(places: &Places) -> Result<(Acl, Opened)> {
    let opened = open_toolkit(places, "libascendcl.so", ACL_SYMBOL).map_err(|tried| {
        not_found("CANN", "libascendcl.so", &tried, places, &["ascend-toolkit/set_env.sh"])
    })?;
    // SAFETY: the library that the table describes, by its name and a symbol of its own.
    let acl = unsafe { Acl::load(opened.library) }.map_err(|missing| lacks(&opened.path, &missing))?;
    Ok((acl, opened))
}

/// `libhccl.so` with its functions.
fn open_hccl(places: &Places) -> std::result::Result<Hccl, Error> {
    let opened = open_toolkit(places, "libhccl.so", HCCL_SYMBOL).map_err(|tried| {
        not_found(
            "HCCL (several devices need it)",
            "libhccl.so",
            &tried,
            places,
            &["ascend-toolkit/set_env.sh"],
        )
    })?;
    // SAFETY: as in `open_acl`.
    unsafe { Hccl::load(opened.library) }.map_err(|missing| lacks(&opened.path, &missing))
}

/// `libatb.so`, nothing of which was called yet. Its symbols are for all, as its plug-ins want it; but beside a PyTorch
/// only when it is known to be the right variant (`make_global`).
fn open_atb(places: &Places) -> Result<Opened> {
    let torch = search::torch_abi();
    let scope = if torch.is_some() { Scope::Local } else { Scope::Global };
    let candidates = places.of_atb(torch);
    let opened =
        search::open_alone(&candidates, "libatb.so", ATB_SYMBOL, places.own_atb_home.as_deref(), scope);
    opened.map_err(|tried| {
        let scripts = ["ascend-toolkit/set_env.sh", "nnal/atb/set_env.sh"];
        let mut error = not_found("ATB (CANN's package nnal)", "libatb.so", &tried, places, &scripts);
        if let Some(abi) = torch {
            error.message += &format!(
                "; PyTorch is in this process with C++ ABI {abi}, so only that variant was looked for: give set_env.sh \
                 the option --cxx_abi={abi}"
            );
        }
        error
    })
}

/// Calls `aclInit`; whether somebody had called it before.
fn initialise(acl: &Acl, path: &Path) -> Result<bool> {
    // SAFETY: NULL stands for the default configuration.
    match unsafe { (acl.aclInit)(std::ptr::null()) } {
        0 => Ok(false),
        ACL_ERROR_REPEAT_INITIALIZE => Ok(true),
        STUB => Err(stub(path)),
        code => Err(acl.error(ACL_CODES, "aclInit", code).at(path.display())),
    }
}

/// The error for a library that is made to be linked against.
pub fn stub(path: &Path) -> Error {
    Error {
        status: Status::Device,
        native_code: STUB,
        message: format!(
            "{}: a stub library, which the toolkit has for linking only: take its folder (devlib, or \
             runtime/lib64/stub) out of LD_LIBRARY_PATH, or source the toolkit's set_env.sh anew",
            path.display()
        ),
    }
}

/// The C++ ABI of an opened libatb.so, which must be PyTorch's where that is in the process.
fn check_abi(atb: &Opened) -> Result<u32> {
    let abi = match ATB_PROBES.map(|probe| atb.has(probe)) {
        [true, false] => 0,
        [false, true] => 1,
        _ => crate::bail!(
            Unsupported,
            "{}: its C++ ABI is not to be told: it must have one of {} and {}",
            atb.path.display(),
            ATB_PROBES[0],
            ATB_PROBES[1]
        ),
    };
    match search::torch_abi() {
        Some(torch) if torch != abi => Err(crate::error!(
            Unsupported,
            "{}: its C++ ABI is {abi}, that of the PyTorch in this process {torch}, and the two do not go together: \
             source ATB's set_env.sh with --cxx_abi={torch} before the program starts",
            atb.path.display()
        )),
        _ => Ok(abi),
    }
}

/// Refuses an ATB whose structs have other layouts.
fn check_version(text: &str, from: &str, library: &Path) -> Result<()> {
    let known = Version::parse(text);
    if known.as_ref().is_some_and(Version::is_at_least_8_0_0) {
        return Ok(());
    }
    Err(crate::error!(
        Unsupported,
        "{}: ATB {text} ({from}), expected 8.0.0 or later, because the layouts of older ones are not published: upgrade \
         CANN's toolkit, kernels and nnal to 8.0.0 or later, and source both set_env.sh",
        library.display()
    ))
}

/// The version of an ATB that no file tells: what it says itself, else what its symbols say.
fn version_by_itself(shim: &Shim, atb: *const aqatb_library, opened: &Opened) -> Result<(String, String)> {
    let mut text: [c_char; 128] = [0; 128];
    // SAFETY: the array takes as many bytes as are said; the shim ends them with NUL.
    shim::checked(|error| unsafe { (shim.aqatb_version)(atb, text.as_mut_ptr(), text.len(), error) })?;
    // SAFETY: ended with NUL by the shim, or all NUL.
    let said = unsafe { errors::text(text.as_ptr()) }.unwrap_or_default();
    if let Some(at) = said.find(|c: char| c.is_ascii_digit())
        && Version::parse(&said[at..]).is_some()
    {
        check_version(&said[at..], "by its own word", &opened.path)?;
        return Ok((said, "its own word".into()));
    }
    crate::ensure!(
        opened.has(ATB_SINCE_8_1),
        Unsupported,
        "{}: its version is not to be told: there is no version.info in the folders above it, and it lacks what ATB has \
         since 8.1; older than 8.0.0 has other layouts and is refused",
        opened.path.display()
    );
    Ok(("8.1 or later".into(), "its symbols".into()))
}

/// ATB finds its table of operations through a variable that only its set_env.sh sets.
fn check_variables(places: &Places, library: &Path) -> Result<()> {
    crate::ensure!(
        places.atb_home.is_some(),
        NotFound,
        "{}: ATB_HOME_PATH is not set, and ATB finds its table of operations through it: source ATB's set_env.sh \
         ({}) before the program starts",
        library.display(),
        places.root.join("nnal/atb/set_env.sh").display()
    );
    Ok(())
}

/// The shim of an ABI.
fn open_shim(places: &Places, abi: u32) -> Result<Shim> {
    let file = shim::file_name(abi);
    let here = search::file_of(open_shim as *const std::ffi::c_void);
    let dirs = shim::places(places.own_shim.as_deref(), here.as_deref());
    let files: Vec<_> = dirs.iter().map(|dir| search::Place::File(dir.join(&file))).collect();
    let opened = search::open(&files, "aqatb_open", Scope::Local).map_err(|tried| {
        let built = if env!("AQUILA_ATB_SHIM") == "true" { "" } else { " (this build had no C++ compiler)" };
        crate::error!(
            NotFound,
            "{file}, libaquila's own part for ATB, was not found{built}; looked for: {}; AQUILA_ASCEND_SHIM may name its \
             folder",
            tried.join(", ")
        )
    })?;
    // SAFETY: the library that the table describes, by its name and a symbol of its own.
    let shim = unsafe { Shim::load(opened.library) }.map_err(|missing| lacks(&opened.path, &missing))?;
    // SAFETY: no preconditions.
    let (interface, its_abi) = unsafe { ((shim.aqatb_interface)(), (shim.aqatb_abi)()) };
    crate::ensure!(
        interface == shim::INTERFACE && its_abi == abi,
        Unsupported,
        "{}: interface {interface} with C++ ABI {its_abi}, expected interface {} with C++ ABI {abi}: it belongs to another \
         version of libaquila",
        opened.path.display(),
        shim::INTERFACE
    );
    Ok(shim)
}

/// CANN's version by its own word; older releases have none.
fn cann_version(acl: &Acl) -> Option<String> {
    let function = acl.aclsysGetCANNVersion?;
    // SAFETY: arrays of characters, for which 0 is a value.
    let mut version: super::acl::PackageVersion = unsafe { std::mem::zeroed() };
    // SAFETY: a valid struct is written to.
    if unsafe { function(super::acl::ACL_PKG_NAME_CANN, &mut version) } != 0 {
        return None;
    }
    version.version[127] = 0;
    // SAFETY: an array that ends with NUL, set above.
    let text = unsafe { errors::text(version.version.as_ptr()) }.unwrap_or_default();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn lacks(path: &Path, missing: &[&str]) -> Error {
    crate::error!(
        Unsupported,
        "{}: it lacks {}: another library of that name, or another version of CANN than 8.0.0 to 9.1.0",
        path.display(),
        missing.join(", ")
    )
}

/// What to say when a library is nowhere.
fn not_found(what: &str, file: &str, tried: &[String], places: &Places, scripts: &[&str]) -> Error {
    let variable = |name: &str, value: &Option<PathBuf>| match value {
        Some(path) => format!("{name} is {}", path.display()),
        None => format!("{name} is not set"),
    };
    let scripts: Vec<_> =
        scripts.iter().map(|script| format!("source {}", places.root.join(script).display())).collect();
    crate::error!(
        NotFound,
        "{what}: {file} was not found. Looked for: {}. {}, {}. Where it is installed: {}, then start the program again",
        tried.join("; "),
        variable("ASCEND_HOME_PATH", &places.home),
        variable("ATB_HOME_PATH", &places.atb_home),
        scripts.join(" && ")
    )
}
