//! A PostgreSQL server of a test's own: Debian's, in a temporary folder, killed when dropped.
//!
//! A folder that `initdb` made once is copied for each; for one on a small disk, into a tmpfs in a mount namespace
//! of its own. The server refuses to run as root, so there it runs
//! as Debian's user for it. Of the standard library alone: the program's own tests use this file too.

#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
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
    disk: Option<Disk>,
}

/// A tmpfs at the server's folder, for whoever enters the namespace of the process that holds it.
struct Disk(Child);

impl Postgres {
    /// Starts one, with these settings beside.
    pub fn start(settings: &str) -> Self {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    /// Starts one below this folder.
    pub fn start_in(parent: &Path, settings: &str) -> Self {
        let folder = folder_in(parent);
        copy(&template(), &folder.path().join("data"));
        Self::new(folder, None, settings)
    }

    /// Starts one on a small disk.
    pub fn start_on_small_disk(settings: &str) -> Self {
        let (folder, template) = (folder(), template());
        let disk = Disk::at(&folder.path().join("data"));
        let mut copying = disk.enter();
        copying
            .args(["cp", "-a"])
            .arg(template.join("."))
            .arg(folder.path().join("data"));
        run(&mut copying);
        Self::new(folder, Some(disk), settings)
    }

    /// One that follows `primary`, on a small disk; started once it has copied all of it.
    pub fn follow(primary: &Self, settings: &str) -> Self {
        let folder = folder();
        let disk = Disk::at(&folder.path().join("data"));
        let mut copying = disk.enter();
        copying
            .arg(program("pg_basebackup"))
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
            .arg(folder.path().join("data"));
        run(&mut copying);
        Self::new(folder, Some(disk), settings)
    }

    fn new(folder: tempfile::TempDir, disk: Option<Disk>, settings: &str) -> Self {
        let port = free_port();
        let text = format!(
            "{SETTINGS}port = {port}\nunix_socket_directories = '{}'\n{settings}",
            folder.path().display()
        );
        let mut server = Self {
            folder,
            port,
            process: None,
            disk,
        };
        let file = server.data().join("postgresql.conf");
        fs::write(&file, text).expect("writes");
        own(&file);
        server.run();
        server
    }

    /// Starts it again.
    pub fn run(&mut self) {
        self.begin();
        let deadline = Instant::now() + PATIENCE;
        while !self.is_ready() {
            assert!(Instant::now() < deadline, "no server: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts it again, and does not wait for it.
    pub fn begin(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log");
        let mut server = match &self.disk {
            None => as_server("postgres"),
            Some(disk) => {
                let mut server = disk.enter();
                // Nobody may be root there.
                server.args(["unshare", "--user", "--map-user=1000", "--map-group=1000"]);
                server.args(["setpriv", "--pdeathsig", "KILL", "--"]);
                server.arg(program("postgres"));
                server
            }
        };
        server.arg("-D").arg(self.folder.path().join("data"));
        server.stdout(Stdio::null()).stderr(log);
        self.process = Some(spawn(server));
    }

    pub fn is_ready(&self) -> bool {
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
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
        self.await_children();
    }

    /// Takes all room that is left on its small disk.
    pub fn fill(&self) {
        let script = "head -c 1G /dev/zero > \"$0\" 2> /dev/null || true";
        let mut filling = self.disk.as_ref().expect("a small disk").enter();
        let neighbour = self.folder.path().join("data/neighbour");
        run(filling.args(["sh", "-c", script]).arg(neighbour));
    }

    pub fn make_room(&self) {
        fs::remove_file(self.data().join("neighbour")).expect("removed");
    }

    /// A server does not start while a child of the last one holds its shared memory.
    fn await_children(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.processes() > 0 {
            assert!(Instant::now() < deadline, "children of the server stay");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Those of it that are there: by their folder, or by the namespace of their disk.
    fn processes(&self) -> usize {
        let processes = fs::read_dir("/proc").expect("reads").filter_map(Result::ok);
        let (link, holder) = match &self.disk {
            None => ("cwd", 0),
            Some(disk) => ("ns/mnt", disk.0.id()),
        };
        let place = match holder {
            0 => Some(self.data()),
            holder => fs::read_link(format!("/proc/{holder}/ns/mnt")).ok(),
        };
        let of_server = |process: &fs::DirEntry| {
            process.file_name().to_string_lossy() != holder.to_string()
                && fs::read_link(process.path().join(link)).ok() == place
        };
        processes.filter(of_server).count()
    }

    /// Its folder, as it is seen from here.
    fn data(&self) -> PathBuf {
        let data = self.folder.path().join("data");
        match &self.disk {
            None => data,
            Some(disk) => PathBuf::from(format!("/proc/{}/root{}", disk.0.id(), data.display())),
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
        self.sql_by("postgres", sql)
    }

    /// The same, asked by another role.
    pub fn sql_by(&self, role: &str, sql: &str) -> String {
        let mut asking = Command::new(program("psql"));
        asking.args([
            "-XqtA",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            "-d",
            &format!("{} user={role}", self.keywords()),
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
        if std::thread::panicking() {
            // What it panicked of is not to be hidden by another.
            self.process.take().map(|mut process| process.kill());
        } else {
            self.kill();
        }
    }
}

impl Disk {
    fn at(folder: &Path) -> Self {
        const MOUNT: &str = r#"mkdir -p "$0" && mount -t tmpfs -o size=512m,mode=700 tmpfs "$0" && echo mounted &&
            exec setpriv --pdeathsig KILL -- sleep infinity"#;
        let mut holding = as_user();
        holding.args(["unshare", "--user", "--map-root-user", "--mount"]);
        holding.args(["sh", "-c", MOUNT]).arg(folder);
        holding.stdout(Stdio::piped());
        let mut holder = spawn(holding);
        let mut line = String::new();
        let mut told = BufReader::new(holder.stdout.take().expect("piped"));
        told.read_line(&mut line).expect("readable");
        assert_eq!(line, "mounted\n", "a tmpfs cannot be mounted");
        Self(holder)
    }

    /// A command that goes on where it is mounted.
    fn enter(&self) -> Command {
        let mut command = as_user();
        command
            .args([
                "nsenter",
                "--user",
                "--mount",
                "--preserve-credentials",
                "--target",
            ])
            .arg(self.0.id().to_string());
        command
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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

/// Starts what stays, from a thread that stays as well: a process with a `--pdeathsig` dies with the *thread* that
/// started it (`prctl(2)`, `PR_SET_PDEATHSIG`), and those of a pool end when they idle.
fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static STARTER: LazyLock<mpsc::SyncSender<Order>> = LazyLock::new(|| {
        let (orders, taken) = mpsc::sync_channel::<Order>(1);
        std::thread::spawn(move || {
            for (mut command, started) in taken {
                let _ = started.send(command.spawn());
            }
        });
        orders
    });
    let (started, child) = mpsc::sync_channel(1);
    STARTER.send((command, started)).expect("the thread stays");
    child.recv().expect("an answer").expect("it starts")
}

/// One of the server's programs, as a user that is not root; it dies with this process.
fn as_server(name: &str) -> Command {
    let mut command = as_user();
    command.arg(program(name));
    command
}

/// What follows, as a user that is not root.
fn as_user() -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
    }
    command.args(["--pdeathsig", "KILL", "--"]);
    command.current_dir("/");
    command
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|mine| mine.uid() == 0)
}

fn folder() -> tempfile::TempDir {
    folder_in(&std::env::temp_dir())
}

fn folder_in(parent: &Path) -> tempfile::TempDir {
    let folder = tempfile::Builder::new()
        .prefix("pg")
        .tempdir_in(parent)
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
