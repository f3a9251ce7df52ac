//! Finding and opening shared libraries: where each is looked for, in which order, and a list of what was tried, because
//! the message of a failure is all that its reader has.
//!
//! What is opened is never closed: these libraries have threads of their own and destructors that run at exit.

use libloading::os::unix::Library;
use std::ffi::{CStr, OsString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where Ascend's software is installed unless told otherwise.
pub const ROOT: &str = "/usr/local/Ascend";

/// What the process's environment says about CANN.
#[derive(Clone, Debug)]
pub struct Places {
    /// `AQUILA_ASCEND_HOME`: the toolkit, in place of all other places.
    pub own_home: Option<PathBuf>,
    /// `AQUILA_ASCEND_ATB_HOME`: ATB, in place of all other places.
    pub own_atb_home: Option<PathBuf>,
    /// `AQUILA_ASCEND_SHIM`: the folder of the shim, in place of all other places.
    pub own_shim: Option<PathBuf>,
    /// `ASCEND_HOME_PATH`.
    pub home: Option<PathBuf>,
    /// `ASCEND_TOOLKIT_HOME`.
    pub toolkit_home: Option<PathBuf>,
    /// `ATB_HOME_PATH`.
    pub atb_home: Option<PathBuf>,
    /// [`ROOT`], or another one in tests.
    pub root: PathBuf,
}

impl Places {
    /// The environment as it is now.
    pub fn from_environment() -> Places {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Places {
            own_home: path("AQUILA_ASCEND_HOME"),
            own_atb_home: path("AQUILA_ASCEND_ATB_HOME"),
            own_shim: path("AQUILA_ASCEND_SHIM"),
            home: path("ASCEND_HOME_PATH"),
            toolkit_home: path("ASCEND_TOOLKIT_HOME"),
            atb_home: path("ATB_HOME_PATH"),
            root: path("AQUILA_ASCEND_ROOT").unwrap_or_else(|| ROOT.into()),
        }
    }

    /// Where a library of the toolkit may be, best first.
    pub fn of_toolkit(&self, file: &str) -> Vec<Place> {
        if let Some(own) = &self.own_home {
            let dirs = [own.join("lib64"), own.join("lib"), own.clone()];
            return dirs.iter().map(|dir| Place::File(dir.join(file))).collect();
        }
        let mut places = vec![Place::Loaded(file.into()), Place::Loader(file.into())];
        let homes = [self.home.as_deref(), self.toolkit_home.as_deref()];
        let homes = homes.into_iter().flatten().map(Path::to_path_buf);
        let usual = ["ascend-toolkit/latest", "cann", "nnrt/latest"].map(|name| self.root.join(name));
        for home in homes.chain(usual) {
            places.push(Place::File(home.join("lib64").join(file)));
        }
        without_repetition(places)
    }

    /// Where ATB's library may be, best first. With `abi` (a torch_npu in this process has it) only that variant.
    pub fn of_atb(&self, abi: Option<u32>) -> Vec<Place> {
        let file = "libatb.so";
        let variants = |home: &Path| -> Vec<Place> {
            [1, 0].map(|abi| Place::File(home.join(format!("cxx_abi_{abi}/lib")).join(file))).into()
        };
        let mut places;
        if let Some(own) = &self.own_atb_home {
            places = vec![Place::File(own.join("lib").join(file)), Place::File(own.join(file))];
            places.extend(variants(own));
        } else {
            places = vec![Place::Loaded(file.into()), Place::Loader(file.into())];
            if let Some(home) = &self.atb_home {
                places.push(Place::File(home.join("lib").join(file)));
            }
            for name in ["nnal/atb/latest/atb", "atb/latest/atb", "atb/latest", "atb"] {
                places.extend(variants(&self.root.join(name)));
            }
        }
        if let Some(abi) = abi {
            let other = format!("cxx_abi_{}", 1 - abi);
            places.retain(|place| {
                !place.path().is_some_and(|path| path.iter().any(|part| part == other.as_str()))
            });
        }
        without_repetition(places)
    }
}

fn without_repetition(places: Vec<Place>) -> Vec<Place> {
    let mut kept: Vec<Place> = Vec::new();
    for place in places {
        if !kept.contains(&place) {
            kept.push(place);
        }
    }
    kept
}

/// One place to look at.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// In this process, by a name: the host, or a library of its, has opened it.
    Loaded(OsString),
    /// By its name, wherever the system's loader finds it (`LD_LIBRARY_PATH`, `ldconfig`).
    Loader(OsString),
    /// A file.
    File(PathBuf),
}

impl Place {
    fn path(&self) -> Option<&Path> {
        if let Place::File(path) = self { Some(path) } else { None }
    }
}

/// A library that is open for as long as the process lives.
#[derive(Debug)]
pub struct Opened {
    /// To look symbols up.
    pub library: &'static Library,
    /// What dlopen gave, for code that looks symbols up itself.
    pub handle: *mut c_void,
    /// Its file; the name it was opened by where the system does not say.
    pub path: PathBuf,
}

impl Opened {
    /// Whether it has a symbol.
    pub fn has(&self, symbol: &str) -> bool {
        address_of(self.library, symbol).is_some()
    }

    /// Makes its symbols known to libraries that are opened later.
    pub fn make_global(&self) {
        let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_GLOBAL;
        // SAFETY: the library is in the process: nothing is loaded and no foreign code runs.
        if let Ok(again) = unsafe { Library::open(Some(self.path.as_path()), flags) } {
            std::mem::forget(again);
        }
    }
}

/// Whether a library's symbols are known to libraries that are opened later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scope {
    /// To none.
    Local = libc::RTLD_LOCAL as isize,
    /// To all.
    Global = libc::RTLD_GLOBAL as isize,
}

/// Opens the first of `places` that is there. `symbol` is one that the library has, by which its file is found. The
/// error lists each place with what was wrong there.
pub fn open(places: &[Place], symbol: &str, scope: Scope) -> Result<Opened, Vec<String>> {
    let mut tried = Vec::new();
    for place in places {
        match open_one(place, scope) {
            Ok(library) => {
                let handle = library.into_raw();
                // SAFETY: `handle` is the library's own, and is never closed: the library lives for ever.
                let library: &'static Library = Box::leak(Box::new(unsafe { Library::from_raw(handle) }));
                let path =
                    address_of(library, symbol).and_then(file_of).or(place.path().map(Path::to_path_buf));
                let named = match place {
                    Place::Loaded(name) | Place::Loader(name) => PathBuf::from(name),
                    Place::File(path) => path.clone(),
                };
                return Ok(Opened { library, handle, path: path.unwrap_or(named) });
            }
            Err(Some(why)) => tried.push(why),
            Err(None) => {}
        }
    }
    Err(tried)
}

/// Opens `file` from `places`. Where `own` says that only a folder of the user's will do and the process holds the library
/// from elsewhere, that is an error: two copies of it in one process share names and states, and neither works.
pub fn open_alone(
    places: &[Place],
    file: &str,
    symbol: &str,
    own: Option<&Path>,
    scope: Scope,
) -> Result<Opened, Vec<String>> {
    let loaded = own.and_then(|_| open(&[Place::Loaded(file.into())], symbol, Scope::Local).ok());
    let (Some(own), Some(loaded)) = (own, loaded) else { return open(places, symbol, scope) };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if real(&loaded.path).starts_with(real(own)) {
        return Ok(loaded);
    }
    Err(vec![format!(
        "{} (but the process holds {} already, and two copies in one process do not work)",
        own.display(),
        loaded.path.display()
    )])
}

/// Opens one place; `Err(None)` where there is nothing worth telling.
fn open_one(place: &Place, scope: Scope) -> Result<Library, Option<String>> {
    let (name, flags) = match place {
        Place::Loaded(name) => (name.as_os_str(), libc::RTLD_NOW | libc::RTLD_NOLOAD),
        Place::Loader(name) => (name.as_os_str(), libc::RTLD_NOW),
        Place::File(path) if !path.exists() => {
            return Err(Some(format!("{} (no such file)", path.display())));
        }
        Place::File(path) => (path.as_os_str(), libc::RTLD_NOW),
    };
    // SAFETY: the initialisers of a library of CANN, or of our shim, run, as the caller asked by using an NPU.
    unsafe { Library::open(Some(name), flags | scope as i32) }.map_err(|cause| match place {
        Place::Loaded(_) => None,
        Place::Loader(name) => {
            Some(format!("{} by the loader ({})", name.to_string_lossy(), words_about(name, &cause)))
        }
        Place::File(path) => Some(format!("{} ({})", path.display(), words_about(path.as_os_str(), &cause))),
    })
}

/// What the loader says, in one line.
fn words(cause: &libloading::Error) -> String {
    let text =
        std::error::Error::source(cause).map_or_else(|| cause.to_string(), |source| source.to_string());
    let text = if text.trim().is_empty() { cause.to_string() } else { text };
    text.lines().next().unwrap_or_default().to_owned()
}

/// The same where the file's name stands before it anyway.
fn words_about(name: &std::ffi::OsStr, cause: &libloading::Error) -> String {
    let words = words(cause);
    let prefix = format!("{}: ", name.to_string_lossy());
    words.strip_prefix(&prefix).map_or_else(|| words.clone(), str::to_owned)
}

/// Where a symbol of a library lies; `None` where it has none of that name.
pub(super) fn address_of(library: &Library, symbol: &str) -> Option<*const c_void> {
    // SAFETY: only the address is taken, nothing is called through it.
    let found = unsafe { library.get::<*const c_void>(symbol) }.ok()?;
    Some(found.into_raw().cast_const())
}

/// The file that an address of code belongs to.
pub(super) fn file_of(address: *const c_void) -> Option<PathBuf> {
    // SAFETY: Dl_info is plain pointers.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr takes any address and fills `info` where it answers other than 0.
    if unsafe { libc::dladdr(address, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: not NULL, and the loader's own string, which stays while the library does.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let path = PathBuf::from(OsString::from(std::ffi::OsStr::from_bytes(name.to_bytes())));
    // The loader tells the program's name as it was started, which may be relative.
    if path.is_absolute() { Some(path) } else { std::env::current_exe().ok() }
}

/// Whether a library is in the process, by its name.
pub fn is_loaded(name: &str) -> bool {
    open_one(&Place::Loaded(name.into()), Scope::Local).is_ok_and(|library| {
        std::mem::forget(library);
        true
    })
}

/// The C++ ABI of the PyTorch that is in this process: 0 or 1, `None` where there is none.
pub fn torch_abi() -> Option<u32> {
    let torch = open_one(&Place::Loaded("libc10.so".into()), Scope::Local).ok()?;
    let torch: &'static Library = Box::leak(Box::new(torch));
    TORCH_PROBES.iter().position(|probe| address_of(torch, probe).is_some()).map(|abi| abi as u32)
}

/// The same function of PyTorch in either ABI: what it throws its errors by, so every release and client has it.
pub const TORCH_PROBES: [&str; 2] = [
    "_ZN3c106detail14torchCheckFailEPKcS2_jRKSs",
    "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            own_home: None,
            own_atb_home: None,
            own_shim: None,
            home: Some("/opt/a".into()),
            toolkit_home: Some("/opt/a".into()),
            atb_home: Some("/opt/atb/cxx_abi_0".into()),
            root: ROOT.into(),
        }
    }

    #[test]
    fn the_process_comes_first_then_the_loader_then_variables_then_usual_places() {
        let of = |places: &Places| places.of_toolkit("libascendcl.so");
        let found = of(&places());
        assert_eq!(found[0], Place::Loaded("libascendcl.so".into()));
        assert_eq!(found[1], Place::Loader("libascendcl.so".into()));
        assert_eq!(found[2], Place::File("/opt/a/lib64/libascendcl.so".into()));
        assert_eq!(
            found[3],
            Place::File("/usr/local/Ascend/ascend-toolkit/latest/lib64/libascendcl.so".into())
        );
        // Two variables that say the same are one place.
        assert_eq!(found.len(), 6);
        let own = of(&Places { own_home: Some("/mine".into()), ..places() });
        assert_eq!(own[0], Place::File("/mine/lib64/libascendcl.so".into()));
        assert!(own.iter().all(|place| place.path().is_some_and(|path| path.starts_with("/mine"))));
    }

    #[test]
    fn only_the_variant_of_atb_that_fits_torch_is_looked_at() {
        let all = places().of_atb(None);
        assert_eq!(all[2], Place::File("/opt/atb/cxx_abi_0/lib/libatb.so".into()));
        assert_eq!(
            all[3],
            Place::File("/usr/local/Ascend/nnal/atb/latest/atb/cxx_abi_1/lib/libatb.so".into())
        );
        let one = places().of_atb(Some(1));
        assert!(one.iter().all(|place| !format!("{place:?}").contains("cxx_abi_0")), "{one:?}");
        assert!(one.len() > 4);
    }

    #[test]
    fn a_failure_lists_what_was_tried() {
        let places = [
            Place::Loaded("libaquila-none.so".into()),
            Place::Loader("libaquila-none.so".into()),
            Place::File("/nowhere/libaquila-none.so".into()),
            Place::File("/proc/self/status".into()),
        ];
        let tried = open(&places, "x", Scope::Local).unwrap_err();
        assert_eq!(tried.len(), 3, "{tried:?}");
        assert!(
            tried[0].starts_with("libaquila-none.so by the loader (") && tried[0].contains("cannot open")
        );
        assert_eq!(tried[1], "/nowhere/libaquila-none.so (no such file)");
        assert!(tried[2].starts_with("/proc/self/status ("), "{tried:?}");
    }

    #[test]
    fn the_c_library_is_in_the_process() {
        let opened = open(&[Place::Loaded("libc.so.6".into())], "malloc", Scope::Local).unwrap();
        assert!(opened.has("malloc") && !opened.has("aquila_no_such_function"));
        assert!(opened.path.to_string_lossy().contains("libc"), "{:?}", opened.path);
        assert!(!opened.handle.is_null());
        assert!(is_loaded("libc.so.6") && !is_loaded("libaquila-none.so"));
    }
}
