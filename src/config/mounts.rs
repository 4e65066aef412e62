//! Files that can never change: those that are mounted one by one (a `subPath` of Kubernetes, a bind
//! mount of one file). The mount stays with the file that was there at the start, whatever takes its place.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Those of the files that are mounted by themselves; none where the system does not tell.
pub fn mounted_alone(files: &[PathBuf]) -> Vec<&Path> {
    let mounts = mount_points(&fs::read_to_string(MOUNTS).unwrap_or_default());
    let alone = |file: &&PathBuf| {
        let real = fs::canonicalize(file);
        real.is_ok_and(|real| mounts.contains(&real))
    };
    files.iter().filter(alone).map(PathBuf::as_path).collect()
}

/// The fifth field of each line, see proc(5).
fn mount_points(mountinfo: &str) -> HashSet<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(unescape).collect()
}

/// Spaces and their like are three octal digits after a backslash.
fn unescape(point: &str) -> PathBuf {
    let mut pieces = point.split('\\');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let octal = piece.get(..3);
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&piece.as_bytes()[3..]);
            }
            None => bytes.extend_from_slice(piece.as_bytes()),
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
90 22 8:1 /pods/x/volume-subpaths/c/1 /etc/relay/config.yaml rw - ext4 /dev/sda1 rw
91 22 0:50 / /mnt/two\\040words rw - tmpfs tmpfs rw
";

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let points = mount_points(MOUNTINFO);
        for point in ["/", "/etc/relay/config.yaml", "/mnt/two words"] {
            assert!(points.contains(Path::new(point)), "{point}: {points:?}");
        }
        assert_eq!(points.len(), 3);
    }

    #[test]
    fn an_ordinary_file_is_not_mounted_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(mounted_alone(&[file.path().to_owned()]).is_empty());
    }
}
