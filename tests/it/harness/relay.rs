//! A relay process of its own, with a folder of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{CANARY, PATIENCE, SECRET, Sender, SmallDisk};

/// A folder with a config, a certificate and a secret; the spool is kept in it across relays.
pub struct Setup {
    folder: tempfile::TempDir,
}

/// A running relay; killed when dropped.
pub struct Relay {
    child: Child,
    pub sender_address: SocketAddr,
    pub admin_address: SocketAddr,
    /// Port 0 if there is none.
    pub operator_address: SocketAddr,
    log: Lines,
    errors: Lines,
    certificate: PathBuf,
}

type Lines = Arc<Mutex<Vec<String>>>;

impl Setup {
    /// `rest` is the config below `drain:`; sources are added unless it has some.
    pub fn new(rest: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pair = rcgen::generate_simple_self_signed(NAMES.map(String::from));
        let pair = pair.expect("a certificate");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("writable");
        };
        write("tls.crt", &pair.cert.pem());
        write("tls.key", &pair.signing_key.serialize_pem());
        write("secret", SECRET);
        let setup = Self { folder };
        setup.write_config(rest);
        setup
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What a target is shown, in the files `key` and `token`, if the config names them.
    pub fn put_credentials(&self) {
        for name in ["key", "token"] {
            let file = self.path().join(name);
            std::fs::write(file, format!("{CANARY}-{name}")).expect("writable");
        }
    }

    pub fn write_config(&self, rest: &str) {
        std::fs::write(self.config(), Self::text(rest)).expect("writable");
    }

    /// The whole config.
    pub fn text(rest: &str) -> String {
        let sources = if rest.contains("sources:") {
            ""
        } else {
            SOURCES
        };
        format!("{HEAD}{sources}{rest}")
    }

    /// Keeps the spool at this URL, in place of its folder; `rest` are further keys.
    pub fn keep_in(&self, url: &str, rest: &str) {
        std::fs::write(self.path().join("database"), url).expect("writable");
        let postgres = format!("spool: {{ postgres: {{ url: {{ file: database }}, {rest} }} }}");
        self.reword("spool: { disk: { path: spool } }", &postgres);
    }

    /// Another word in the config, where there is `from`.
    pub fn reword(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config()).expect("readable");
        assert!(text.contains(from), "{from}: {text}");
        std::fs::write(self.config(), text.replace(from, to)).expect("writable");
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("config.yaml")
    }

    /// `suki-relay run` on this config, not yet started.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
        command.args(["run", "--log-format", "json", "--config"]);
        command.arg(self.config()).current_dir(self.path());
        command
    }

    /// Starts one that logs this.
    pub fn start_at(&self, log_level: &str) -> Relay {
        let mut command = self.command();
        command.args(["--log-level", log_level]);
        Relay::spawn(command, self.path().join("tls.crt"))
    }

    /// Starts one whose spool is on this disk, if that is mounted there, and that logs all there is.
    pub fn start_on(&self, disk: &SmallDisk) -> Relay {
        let mut command = disk.enter(&self.command());
        command.args(["--log-level", "trace"]);
        Relay::spawn(command, self.path().join("tls.crt"))
    }

    /// Starts one to which the system gives no inotify instance.
    pub fn start_without_inotify(&self) -> Relay {
        const WITHOUT: &str = r#"echo 0 > /proc/sys/user/max_inotify_instances && exec "$0" "$@""#;
        let relay = self.command();
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", WITHOUT]);
        command.arg(relay.get_program()).args(relay.get_args());
        command.current_dir(self.path());
        Relay::spawn(command, self.path().join("tls.crt"))
    }

    /// Starts one that is halted before its first instruction, until `meanwhile` has been given its process id. `None` if
    /// it then ends before it listens.
    pub fn start_halted(&self, meanwhile: impl FnOnce(u32)) -> Option<Relay> {
        let relay = self.command();
        let mut command = Command::new("sh");
        command.args(["-c", r#"kill -STOP $$; exec "$0" "$@""#]);
        command.arg(relay.get_program()).args(relay.get_args());
        command.current_dir(self.path());
        let mut relay = Relay::begin(command, self.path().join("tls.crt"));
        let status = format!("/proc/{}/status", relay.pid());
        while !std::fs::read_to_string(&status)
            .expect("a process")
            .contains("State:\tT")
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        meanwhile(relay.pid());
        relay.signal("CONT");
        relay.listens().then_some(relay)
    }

    /// Starts what [`Self::command`] made, once it is as wanted.
    pub fn spawn(&self, command: Command) -> Relay {
        Relay::spawn(command, self.path().join("tls.crt"))
    }

    /// Starts one that looks names up in this file, which may change.
    pub fn start_with_hosts(&self, hosts: &Path) -> Relay {
        self.start_with_mount(hosts, Path::new("/etc/hosts"))
    }

    /// Starts one that sees the first, a file or a folder, in the place of the second.
    pub fn start_with_mount(&self, what: &Path, place: &Path) -> Relay {
        const WITH: &str = r#"mount --bind "$0" "$1" && shift && exec "$@""#;
        let relay = self.command();
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", WITH]);
        command.args([what, place]).arg(relay.get_program());
        command.args(relay.get_args());
        self.start_by(command)
    }

    /// Starts one by this command, which leads to [`Setup::command`].
    pub fn start_by(&self, mut command: Command) -> Relay {
        command.current_dir(self.path());
        Relay::spawn(command, self.path().join("tls.crt"))
    }

    /// As Kubernetes does it: again while it ends because its spool is out of reach.
    pub fn start_again(&self) -> Relay {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut relay = Relay::begin(self.command(), self.path().join("tls.crt"));
            if relay.listens() {
                return relay;
            }
            let told = relay.errors.lock().expect("not poisoned").clone();
            assert!(Instant::now() < deadline, "{told:?}");
        }
    }

    /// Starts a relay and waits until it listens.
    pub fn start(&self) -> Relay {
        Relay::spawn(self.command(), self.path().join("tls.crt"))
    }
}

/// The third is for who names a server that nobody may hear of.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "canary-sni.localhost"];

const HEAD: &str = "
listen:
  address: 127.0.0.1:0
  tls: { certificate: tls.crt, private_key: tls.key }
admin: { address: 127.0.0.1:0, operator: { address: 127.0.0.1:0 } }
spool: { disk: { path: spool } }
drain: { delay: 0s, deadline: 5s }
";

const SOURCES: &str = "
sources:
  - { name: suki, path: /webhooks/notification, secrets: [{ name: current, file: secret }] }
";

impl Relay {
    fn spawn(command: Command, certificate: PathBuf) -> Self {
        let mut relay = Self::begin(command, certificate);
        relay.log_line("listening");
        assert!(relay.listens());
        relay
    }

    fn begin(mut command: Command, certificate: PathBuf) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the relay starts");
        let log = kept(child.stdout.take().expect("piped"));
        let errors = kept(child.stderr.take().expect("piped"));
        let unset = SocketAddr::from(([0, 0, 0, 0], 0));
        Self {
            child,
            sender_address: unset,
            admin_address: unset,
            operator_address: unset,
            log,
            errors,
            certificate,
        }
    }

    /// Waits until it does; false if it has ended before.
    fn listens(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let listening = loop {
            let mut lines = self.log().into_iter();
            if let Some(line) = lines.find(|line| line["message"] == "listening") {
                break line;
            }
            if self.has_ended() {
                return false;
            }
            assert!(Instant::now() < deadline, "{:?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        };
        let address = |field: &str| listening[field].as_str().expect("an address").parse();
        self.sender_address = address("sender").expect("an address");
        self.admin_address = address("admin").expect("an address");
        if listening["operator"].is_string() {
            self.operator_address = address("operator").expect("an address");
        }
        true
    }

    /// By a signal, or as one ends that cannot use its spool.
    pub fn has_ended(&mut self) -> bool {
        let ended = self.end();
        let code = ended.and_then(|status| status.code());
        assert!(
            matches!(code, None | Some(74)),
            "{code:?}: {:?}",
            self.log()
        );
        ended.is_some()
    }

    /// How it ended, if it has.
    pub fn end(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits for a log line with this message.
    pub fn log_line(&mut self, message: &str) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self
                .log()
                .into_iter()
                .find(|line| line["message"] == message);
            if let Some(line) = found {
                return line;
            }
            let ended = self.end();
            assert!(
                ended.is_none(),
                "the relay ended: {ended:?}\n{:?}",
                self.written()
            );
            assert!(
                Instant::now() < deadline,
                "no log line {message:?}: {:?}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn log(&self) -> Vec<serde_json::Value> {
        let lines = self.log.lock().expect("not poisoned");
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// All that it wrote so far, whatever it is: to standard output and to standard error.
    pub fn written(&self) -> [Vec<String>; 2] {
        [&self.log, &self.errors].map(|lines| lines.lock().expect("not poisoned").clone())
    }

    pub fn sender(&self) -> Sender {
        Sender::new(self.sender_address, &self.certificate)
    }

    /// A page of the admin address: status and text.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        super::sender::get(self.admin_address, path).await
    }

    /// Asks the operator address, with a body if it is not empty: status and answer.
    pub async fn operator(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.operator_address));
        super::sender::ask(request, body).await
    }

    /// One sample of `/metrics`, by its name and labels as written there; zero if it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, page) = self.admin("/metrics").await;
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args(["-s", name, &self.pid().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// SIGTERM, and how it ended.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.end() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "the relay does not end: {:?}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The lines of an output, as they come.
fn kept(output: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let kept = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            kept.lock().expect("not poisoned").push(line);
        }
    });
    lines
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
