//! A PostgreSQL server of a test's own: Debian's, in a temporary folder, killed when dropped.
//!
//! A folder that `initdb` made once is copied for each. The server refuses to run as root, so there it runs
//! as Debian's user for it. Of the standard library alone: the program's own tests use this file too.

#![allow(dead_code)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_mins(1);

/// What every server begins with; a test adds its own lines.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
max_connections = 60
shared_buffers = 16MB
max_wal_size = 128MB
min_wal_size = 32MB
wal_recycle = off
logging_collector = off
lc_messages = C
";

pub struct Postgres {
    folder: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// Starts one, with these settings beside.
    pub fn start(settings: &str) -> Self {
        let folder = folder();
        copy(&template(), &data(folder.path()));
        Self::start_in(folder, settings)
    }

    /// One that follows `primary`; started once it has copied all of it.
    pub fn follow(primary: &Self, settings: &str) -> Self {
        let folder = folder();
        let mut copying = as_server("pg_basebackup");
        copying
            .args([
                "--wal-method",
                "stream",
                "--checkpoint",
                "fast",
                "--write-recovery-conf",
            ])
            .arg("--dbname")
            .arg(format!("{} application_name=standby", primary.keywords()))
            .arg("--pgdata")
            .arg(data(folder.path()));
        run(&mut copying);
        Self::start_in(folder, settings)
    }

    fn start_in(folder: tempfile::TempDir, settings: &str) -> Self {
        let port = free_port();
        let text = format!(
            "{SETTINGS}port = {port}\nunix_socket_directories = '{}'\n{settings}",
            folder.path().display()
        );
        let file = data(folder.path()).join("postgresql.conf");
        fs::write(&file, text).expect("writes");
        own(&file);
        let mut server = Self {
            folder,
            port,
            process: None,
        };
        server.run();
        server
    }

    /// Starts it again.
    pub fn run(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let mut server = as_server("postgres");
        server.arg("-D").arg(data(self.folder.path()));
        server.stdout(Stdio::null()).stderr(log);
        self.process = Some(server.spawn().expect("postgres starts"));
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            assert!(Instant::now() < deadline, "no server: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let mut asking = Command::new(program("psql"));
        asking.args(["-XtAc", "SELECT 1", "-d", &self.keywords()]);
        let asked = asking.stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    }

    /// SIGKILL, and all of it gone when this returns.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        // Its children see that it is gone and end by themselves.
        let _ = process.kill();
        let _ = process.wait();
        let lock = data(self.folder.path()).join("postmaster.pid");
        let _ = fs::remove_file(lock);
        self.await_children();
    }

    /// A server does not start while a child of the last one holds its shared memory.
    fn await_children(&self) {
        let deadline = Instant::now() + PATIENCE;
        let folder = data(self.folder.path());
        while processes_in(&folder) > 0 {
            assert!(Instant::now() < deadline, "children of the server stay");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn signal(&self, name: &str) {
        if let Some(process) = &self.process {
            run(Command::new("kill").args(["-s", name, &process.id().to_string()]));
        }
    }

    /// A standby becomes the one that is written to.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote(true, 60)"), "t");
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// As the config takes it, for a role without a password.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The answer to a statement, of one column.
    pub fn sql(&self, sql: &str) -> String {
        let mut asking = Command::new(program("psql"));
        asking.args([
            "-XqtA",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            "-d",
            &self.keywords(),
        ]);
        let answer = asking.output().expect("psql runs");
        let error = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success(), "{sql}: {error}\n{}", self.log());
        String::from_utf8(answer.stdout)
            .expect("text")
            .trim()
            .into()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn keywords(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname=postgres",
            self.port
        )
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// The newest version's.
fn program(name: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .expect("postgresql is installed: tests/install does that")
        .map(|version| version.expect("an entry").path())
        .collect();
    versions.sort();
    versions.last().expect("a version").join("bin").join(name)
}

/// One of the server's programs, as a user that is not root; it dies with this process.
fn as_server(name: &str) -> Command {
    let program = program(name);
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|mine| mine.uid() == 0)
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("pg")
        .tempdir()
        .expect("a folder");
    own(folder.path());
    folder
}

fn own(path: &Path) {
    if is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(path));
    }
}

/// Made by the first test that needs it; the others wait.
fn template() -> PathBuf {
    let place = std::env::temp_dir().join(format!("suki-relay-pg-{}", u8::from(is_root())));
    fs::create_dir_all(&place).expect("a folder");
    own(&place);
    let lock = fs::File::create(place.join("lock")).expect("a file");
    lock.lock().expect("locks");
    let template = place.join("data");
    if !place.join("whole").exists() {
        let _ = fs::remove_dir_all(&template);
        let mut making = as_server("initdb");
        making.args([
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--username=postgres",
        ]);
        making.args(["--wal-segsize=4", "--no-sync", "--no-instructions"]);
        run(making.arg("--pgdata").arg(&template));
        fs::write(place.join("whole"), "").expect("writes");
    }
    template
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn run(command: &mut Command) {
    let output = command.output().expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Processes whose working folder it is.
fn processes_in(folder: &Path) -> usize {
    let processes = fs::read_dir("/proc").expect("reads").filter_map(Result::ok);
    let there = |process: fs::DirEntry| fs::read_link(process.path().join("cwd")).ok();
    processes
        .filter_map(there)
        .filter(|cwd| cwd.as_path() == folder)
        .count()
}
