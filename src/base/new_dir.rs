//! A directory that nobody sees before it is whole.
//!
//! It is filled under a temporary name beside its target, and then renamed: the target is not there, or all of it is.
//! What a writer that died leaves behind is removed by the next one in the same place; whoever still writes holds a lock.

use super::error::{Error, Result};
use super::new_file::{TEMPORARY, unique};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Entries of the place that are looked at for what dead writers left.
const LISTING_MAX: usize = 10_000;

/// A directory in the making. Dropped before [`NewDir::publish`] it is removed with all that is in it.
#[derive(Debug)]
pub struct NewDir {
    /// Locked while it lives, which keeps others from removing the directory.
    _lock: File,
    temporary: PathBuf,
    target: PathBuf,
    published: bool,
}

impl NewDir {
    /// Makes a temporary directory beside `target`, and the directories above it. `Argument` where `target` exists: what
    /// somebody else wrote is never replaced.
    pub fn create(target: &Path) -> Result<NewDir> {
        crate::ensure!(
            fs::symlink_metadata(target).is_err(),
            Argument,
            "{}: it exists already: expected a name that is not taken (remove it, or write elsewhere)",
            target.display()
        );
        let above = target.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        fs::create_dir_all(above).map_err(|cause| Error::io("make the directory", above, &cause))?;
        remove_abandoned(above);
        let temporary = above.join(unique());
        fs::create_dir(&temporary).map_err(|cause| Error::io("make a directory in it", above, &cause))?;
        let opened = File::open(&temporary).map_err(|cause| Error::io("open it", &temporary, &cause));
        let lock = opened.inspect_err(|_| drop(fs::remove_dir(&temporary)))?;
        // File systems without locks cannot clear up either.
        let _ = lock.try_lock();
        Ok(NewDir { _lock: lock, temporary, target: target.into(), published: false })
    }

    /// Where its files are to be written meanwhile.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Gives it its name. What is in it should be on the disk by now.
    pub fn publish(mut self) -> Result<()> {
        let synchronise = |dir: &Path| {
            if let Err(cause) = File::open(dir).and_then(|dir| dir.sync_all()) {
                log::debug!("{}: the directory was not synchronised: {cause}", dir.display());
            }
        };
        synchronise(&self.temporary);
        fs::rename(&self.temporary, &self.target)
            .map_err(|cause| Error::io("rename a directory to it", &self.target, &cause))?;
        self.published = true;
        self.target.parent().into_iter().for_each(synchronise);
        Ok(())
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_dir_all(&self.temporary);
        }
    }
}

/// Removes unfinished directories whose writers are gone.
fn remove_abandoned(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.take(LISTING_MAX).flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(TEMPORARY.0) && name.ends_with(TEMPORARY.1);
        // A link is no directory of ours.
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if File::open(&path).is_ok_and(|dir| dir.try_lock().is_ok()) {
            match fs::remove_dir_all(&path) {
                Ok(()) => log::info!("{}: removed, its writer is gone", path.display()),
                Err(cause) => log::debug!("{}: cannot be removed: {cause}", path.display()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let place = std::env::temp_dir().join(format!("aquila-new-dir-{}", std::process::id()));
        let target = place.join("a/b");
        let dropped = NewDir::create(&target).unwrap();
        fs::write(dropped.path().join("x"), "x").unwrap();
        assert!(!target.exists());
        drop(dropped);
        assert!(names(&place.join("a")).is_empty());

        // One whose writer died, one whose writer lives.
        fs::create_dir(place.join("a").join(".aquila-1-2-3.tmp")).unwrap();
        let lives = NewDir::create(&place.join("a/other")).unwrap();
        let made = NewDir::create(&target).unwrap();
        fs::write(made.path().join("x"), "x").unwrap();
        made.publish().unwrap();
        assert_eq!(names(&target), ["x"]);
        assert!(lives.path().exists());
        drop(lives);
        assert_eq!(names(&place.join("a")), ["b"]);

        let error = NewDir::create(&target).unwrap_err();
        assert!(error.status == crate::Status::Argument && error.message.contains("exists"), "{error}");
        fs::remove_dir_all(place).unwrap();
    }
}
