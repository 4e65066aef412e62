//! Server processes, and what `/proc` says of them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Kernel ticks a second in `/proc/PID/stat`; fixed at 100 on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// A whole request for the metrics.
pub const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nhost: admin\r\n\r\n";
/// How long deliveries may take after the load ends.
const SETTLE_WAIT: Duration = Duration::from_mins(2);

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    pub certificate: PathBuf,
    /// Set for a relay that tells of itself.
    pub admin: Option<SocketAddr>,
    /// Whoever holds it keeps the log from being read.
    log: Arc<Mutex<()>>,
}

impl Server {
    pub fn bare(folder: &Path) -> Self {
        Self::own(&["--bare", folder.to_str().expect("text")], folder)
    }

    pub fn target() -> Self {
        Self::own(&["--target"], Path::new(""))
    }

    /// Without a target, deliveries are owed to an address where nobody listens.
    pub fn relay(folder: &Path, name: &str, target: Option<SocketAddr>, encrypted: bool) -> Self {
        let config = Self::config(name, target, encrypted);
        Self::configured(folder, name, &config, target.is_some())
    }

    pub fn config(name: &str, target: Option<SocketAddr>, encrypted: bool) -> String {
        let keys = if encrypted { ", key_file: keys" } else { "" };
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        format!(
            "listen: {{ address: 127.0.0.1:0, tls: {{ certificate: tls.crt, private_key: tls.key }} }}\n\
             admin: {{ address: 127.0.0.1:0, operator: null }}\n\
             spool: {{ disk: {{ path: spool-{name}{keys} }} }}\n\
             sources: [{{ name: suki, path: /webhooks/notification, secrets: [{{ name: current, file: secret }}] }}]\n\
             targets: [{{ name: t, http: {{ url: 'http://{}/' }} }}]\n\
             routes: [{{ name: all, to: [t] }}]\n",
            target.unwrap_or(nobody)
        )
    }

    /// A relay on this config; `tells`: its metrics are read, [`Server::wait_until_settled`] for one.
    pub fn configured(folder: &Path, name: &str, config: &str, tells: bool) -> Self {
        Self::logging("info", folder, name, config, tells)
    }

    pub fn logging(level: &str, folder: &Path, name: &str, config: &str, tells: bool) -> Self {
        let file = folder.join(format!("{name}.yaml"));
        fs::write(&file, config).expect("writable");
        let mut child = Command::new(env!("CARGO_BIN_EXE_suki-relay"))
            .args([
                "run",
                "--log-format",
                "json",
                "--log-level",
                level,
                "--config",
            ])
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the relay starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let listening = lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
            .find(|line| line["message"] == "listening")
            .expect("it listens");
        let log = Arc::<Mutex<()>>::default();
        let held = Arc::clone(&log);
        std::thread::spawn(move || lines.for_each(|_| drop(held.lock())));
        let address = |field: &str| listening[field].as_str().and_then(|a| a.parse().ok());
        Self {
            child,
            address: address("sender").expect("an address"),
            certificate: folder.join("tls.crt"),
            admin: address("admin").filter(|_| tells),
            log,
        }
    }

    fn own(arguments: &[&str], folder: &Path) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let address = line.trim().parse().expect("an address");
        Self {
            child,
            address,
            certificate: folder.join("tls.crt"),
            admin: None,
            log: Arc::default(),
        }
    }

    /// Until this is dropped, nobody reads what it logs.
    pub fn unread(&self) -> MutexGuard<'_, ()> {
        self.log.lock().expect("not poisoned")
    }

    /// From now on, memory of its own past this is refused: it would end by that.
    pub fn limit_memory(&self, bytes: u64) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let limit = Rlimit {
            current: Some(bytes),
            maximum: Some(bytes),
        };
        prlimit(pid, Resource::Data, limit).expect("it is ours");
    }

    /// User and system time so far.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("alive");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .expect("fields")
            .split_whitespace()
            .collect();
        let ticks = |field: usize| fields[field].parse::<f64>().expect("a number");
        (ticks(11) + ticks(12)) / TICKS_PER_SECOND
    }

    pub fn resident_mib(&self) -> f64 {
        self.status_mib("VmRSS:")
    }

    /// The most that was ever resident.
    pub fn peak_mib(&self) -> f64 {
        self.status_mib("VmHWM:")
    }

    fn status_mib(&self, field: &str) -> f64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("alive");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.expect("a line of that field");
        let kib = line.trim().trim_end_matches(" kB").parse::<f64>();
        kib.expect("a number") / 1024.0
    }

    /// Until nothing is owed any more; at once for a server that owes nothing.
    pub fn wait_until_settled(&self) {
        if self.admin.is_none() {
            return;
        }
        let deadline = Instant::now() + SETTLE_WAIT;
        while self.number("suki_relay_deliveries_pending{target=\"t\"}") > 0.0 {
            assert!(Instant::now() < deadline, "deliveries do not settle");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What its metrics say of this series.
    pub fn number(&self, series: &str) -> f64 {
        let mut page = String::new();
        let admin = self.admin.expect("one that tells");
        let mut stream = TcpStream::connect(admin).expect("the admin address answers");
        stream.write_all(SCRAPE).expect("sent");
        stream.read_to_string(&mut page).expect("read");
        let value = |line: &str| line.strip_prefix(series)?.trim().parse().ok();
        page.lines().find_map(value).expect("the series")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
