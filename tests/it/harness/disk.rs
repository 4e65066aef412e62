//! Disks that fail: a small one that really fills, and calls that fail as the kernel would fail them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Killed, Relay, eventually};

/// A tmpfs in a mount namespace of its own, which goes with the process that holds it.
pub struct SmallDisk {
    holder: Killed,
    folder: PathBuf,
}

impl SmallDisk {
    /// Mounts one at this folder, for whoever [`SmallDisk::enter`]s.
    pub fn at(folder: &Path, size: &str) -> Self {
        Self::mounted(folder, size, "true")
    }

    /// An overlay, as containers have it.
    pub fn overlay_at(folder: &Path) -> Self {
        const OVER: &str = r#"cd "$0" && mkdir lower upper work &&
            mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr overlay "$0""#;
        Self::mounted(folder, "16m", OVER)
    }

    fn mounted(folder: &Path, size: &str, more: &str) -> Self {
        const MOUNT: &str = r#"mkdir -p "$0" && mount -t tmpfs -o size="$1" tmpfs "$0""#;
        let script = format!("{MOUNT} && {more} && echo mounted && exec sleep infinity");
        let mut holder = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(folder)
            .arg(size)
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut line = String::new();
        let mut told = BufReader::new(holder.stdout.take().expect("piped"));
        told.read_line(&mut line).expect("readable");
        assert_eq!(line, "mounted\n", "a tmpfs cannot be mounted");
        Self {
            holder: Killed(holder),
            folder: folder.to_owned(),
        }
    }

    /// The same program, where the disk is mounted.
    pub fn enter(&self, command: &Command) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .args(["--user", "--mount", "--preserve-credentials", "--target"])
            .arg(self.holder.0.id().to_string())
            .arg(command.get_program())
            .args(command.get_args());
        inside
    }

    /// Takes what is left, as a neighbour on the same disk would.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.neighbour()).expect("a file");
        while file.write_all(&[7; 4096]).is_ok() {}
    }

    pub fn make_room(&self) {
        fs::remove_file(self.neighbour()).expect("removed");
    }

    /// Takes every inode that is left, as so many small files would.
    pub fn take_inodes(&self) {
        let folder = self.neighbour();
        fs::create_dir(&folder).expect("a folder");
        for n in 0.. {
            if fs::File::create(folder.join(format!("{n}"))).is_err() {
                return;
            }
        }
    }

    pub fn give_inodes(&self) {
        fs::remove_dir_all(self.neighbour()).expect("removed");
    }

    /// Mounts it anew, `ro` or `rw`.
    pub fn remount(&self, how: &str) {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.folder);
        let done = self.enter(&mount).status();
        assert!(done.expect("mount runs").success(), "{how}");
    }

    fn neighbour(&self) -> PathBuf {
        self.inside().join("neighbour")
    }

    fn inside(&self) -> PathBuf {
        let holder = self.holder.0.id();
        PathBuf::from(format!("/proc/{holder}/root{}", self.folder.display()))
    }
}

/// Calls of a running relay to the spool's files that fail, or linger, while this lives.
pub struct Faults {
    strace: Killed,
}

impl Faults {
    /// Every write, and every reservation of room, fails like this.
    pub async fn of_writes(relay: &Relay, spool: &Path, error: &str) -> Self {
        let files = ["spool.db", "spool.db-wal", "ballast"].map(|file| spool.join(file));
        let calls = "write,pwrite64,fallocate";
        Self::attach(relay, calls, &format!("error={error}"), &files).await
    }

    /// Syncs of one file: `fault` as `strace` names it.
    pub async fn of_syncs(relay: &Relay, file: &Path, fault: &str) -> Self {
        Self::attach(relay, "fsync,fdatasync", fault, &[file.to_owned()]).await
    }

    /// The first read of one file by each thread.
    pub async fn of_first_reads(relay: &Relay, file: &Path, error: &str) -> Self {
        let fault = format!("error={error}:when=1");
        Self::attach(relay, "pread64", &fault, &[file.to_owned()]).await
    }

    /// Calls of a process that is halted, and of all its threads to come: of this kind, and of one file.
    pub fn at_start(pid: u32, call: &str, error: &str, file: &Path) -> Self {
        let strace = Self::begin(pid, call, &format!("error={error}"), &[file.to_owned()]);
        let status = format!("/proc/{pid}/status");
        for _ in 0..3000 {
            let told = fs::read_to_string(&status).unwrap_or_default();
            if !told.contains("TracerPid:\t0") {
                return Self { strace };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("never traced: {pid}");
    }

    async fn attach(relay: &Relay, calls: &str, fault: &str, files: &[PathBuf]) -> Self {
        let strace = Self::begin(relay.pid(), calls, fault, files);
        let tasks = format!("/proc/{}/task", relay.pid());
        eventually("every thread is traced", async || {
            fs::read_dir(&tasks).expect("readable").all(|task| {
                let status = task.expect("a task").path().join("status");
                let status = fs::read_to_string(status).unwrap_or_default();
                !status.contains("TracerPid:\t0")
            })
        })
        .await;
        Self { strace }
    }

    fn begin(pid: u32, calls: &str, fault: &str, files: &[PathBuf]) -> Killed {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
        strace.arg(format!("trace={calls}")).arg("-e");
        strace.arg(format!("inject={calls}:{fault}"));
        for file in files {
            strace.arg("-P").arg(file);
        }
        strace.args(["-p", &pid.to_string()]);
        Killed(strace.stderr(Stdio::null()).spawn().expect("strace runs"))
    }

    /// Writes work again when this returns.
    pub fn end(self) {
        drop(self.strace);
    }
}
