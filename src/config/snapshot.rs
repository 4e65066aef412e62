//! Files that belong together, as of one moment.
//!
//! Kubernetes shows a ConfigMap or Secret as links into a folder of its own, `name → ..data/name`, and
//! replaces all of them at once by renaming the link `..data`. Whoever reads a certificate before that
//! and its key after it has a pair that never was. So each `..data` is followed once a load; should it
//! have moved by the end of the load, the load is void.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files;

const LINK: &str = "..data";

/// Where each folder's `..data` led when it was first met; `None` for folders without one.
#[derive(Default)]
pub(super) struct Snapshot(RefCell<BTreeMap<PathBuf, Option<PathBuf>>>);

impl Snapshot {
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        files::read(&self.resolve(path))
    }

    /// Whether a volume was updated since its first file was read.
    pub fn moved(&self) -> bool {
        let links = self.0.borrow();
        links
            .iter()
            .any(|(folder, data)| fs::read_link(folder.join(LINK)).ok() != *data)
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        let inside_volume = |folder: &Path| {
            let data = self.data_of(folder)?;
            let inside = path.strip_prefix(folder).ok()?;
            let first = folder.join(inside.components().next()?);
            let linked = fs::read_link(first).is_ok_and(|link| link.starts_with(LINK));
            linked.then(|| folder.join(data).join(inside))
        };
        let volume = path.ancestors().skip(1).find_map(inside_volume);
        volume.unwrap_or_else(|| path.to_owned())
    }

    fn data_of(&self, folder: &Path) -> Option<PathBuf> {
        let mut links = self.0.borrow_mut();
        let data = links
            .entry(folder.to_owned())
            .or_insert_with(|| fs::read_link(folder.join(LINK)).ok());
        data.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_read_through_the_data_folder_of_the_first_look() {
        let volume = tempfile::tempdir().unwrap();
        let at = |name: &str| volume.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            for name in ["crt", "key"] {
                fs::write(at(version).join(name), format!("{name}{version}")).unwrap();
            }
        }
        symlink("..1", at("..data")).unwrap();
        for name in ["crt", "key"] {
            symlink(Path::new("..data").join(name), at(name)).unwrap();
        }
        fs::write(at("plain"), "plain").unwrap();

        let snapshot = Snapshot::default();
        assert_eq!(snapshot.read(&at("crt")).unwrap(), b"crt..1");
        symlink("..2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(snapshot.read(&at("key")).unwrap(), b"key..1");
        assert_eq!(snapshot.read(&at("plain")).unwrap(), b"plain");
        assert!(snapshot.moved());

        let snapshot = Snapshot::default();
        assert_eq!(snapshot.read(&at("crt")).unwrap(), b"crt..2");
        assert!(!snapshot.moved());
    }
}
