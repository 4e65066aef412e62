//! How soon an edit takes effect: from the swap of `..data` to the first request that the new version judged.
//!
//! `cargo bench --bench reload [-- --rounds N]` lays out the config and its secret as a Kubernetes volume,
//! starts the relay, and swaps in a version that trusts another secret, until a notification signed with it
//! is no longer 401. Half of the rounds have inotify, the others have polling alone.

#![allow(clippy::expect_used)] // a failed measurement has nobody to recover for

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_suki-relay");
const CONFIG: &str = "\
listen: { address: 127.0.0.1:0, tls: { self_signed: [localhost] } }
admin: { address: 127.0.0.1:0, operator: null }
spool: { disk: { path: ../spool } }
sources: [{ name: suki, path: /webhooks/notification, secrets: [{ name: current, file: secret }] }]
targets: [{ name: nobody, http: { url: 'http://127.0.0.1:1/' } }]
routes: [{ name: all, to: [nobody] }]
";
/// Longer than any round may take.
const PATIENCE: Duration = Duration::from_mins(1);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut rounds = 10;
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            let text = arguments.next().expect("a number");
            rounds = text.parse().expect("a number");
        }
    }
    println!(
        "from the swap of ..data to the first request judged by the new version, {rounds} rounds"
    );
    for (how, at_most) in [("inotify", 2.0), ("poll", 12.0)] {
        let mut took = measure(how, rounds);
        took.sort();
        let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
        let (median, worst) = (median.as_secs_f64(), worst.as_secs_f64());
        println!("{how:8} median {median:5.2} s, worst {worst:5.2} s (at most {at_most} s)");
        assert!(worst < at_most, "{how}: later than promised");
    }
}

fn measure(how: &str, rounds: usize) -> Vec<Duration> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut volume = Volume::new(folder.path().join("config"));
    volume.swap(0);
    let relay = Relay::start(&volume.folder, how);
    let signed_by = folder.path().join("signed-by");
    let took = (1..=rounds).map(|round| {
        fs::write(&signed_by, secret(round)).expect("writable");
        assert!(!relay.takes(&signed_by), "the new secret is not in use yet");
        volume.swap(round);
        let swapped = Instant::now();
        while !relay.takes(&signed_by) {
            assert!(swapped.elapsed() < PATIENCE, "never in effect");
        }
        swapped.elapsed()
    });
    took.collect()
}

fn secret(round: usize) -> String {
    format!("whsec-bench-partner-secret-{round:04}")
}

/// A folder as the kubelet keeps it.
struct Volume {
    folder: PathBuf,
}

impl Volume {
    fn new(folder: PathBuf) -> Self {
        fs::create_dir(&folder).expect("a folder");
        for name in ["config.yaml", "secret"] {
            symlink(Path::new("..data").join(name), folder.join(name)).expect("a link");
        }
        Self { folder }
    }

    fn swap(&mut self, round: usize) {
        let data = format!("..version_{round}");
        let content = self.folder.join(&data);
        fs::create_dir(&content).expect("a folder");
        fs::write(content.join("config.yaml"), CONFIG).expect("writable");
        fs::write(content.join("secret"), secret(round)).expect("writable");
        let link = self.folder.join("..data_tmp");
        symlink(&data, &link).expect("a link");
        fs::rename(link, self.folder.join("..data")).expect("renamed");
    }
}

struct Relay {
    child: Child,
    url: String,
}

impl Relay {
    /// `poll`: in a namespace that has no inotify instance to give.
    fn start(folder: &Path, how: &str) -> Self {
        let instances = if how == "poll" { "0" } else { "1024" };
        let script = r#"echo "$0" > /proc/sys/user/max_inotify_instances && exec "$@""#;
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "sh", "-c", script, instances])
            .args([BINARY, "run", "--log-format", "json", "--config"])
            .arg(folder.join("config.yaml"))
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
        std::thread::spawn(move || lines.for_each(drop));
        let address = listening["sender"].as_str().expect("an address");
        let port = address.rsplit(':').next().expect("a port");
        let url = format!("https://localhost:{port}/webhooks/notification");
        Self { child, url }
    }

    fn takes(&self, secret: &Path) -> bool {
        let mut send = Command::new(BINARY);
        send.args([
            "send",
            "--insecure",
            "--example",
            "failure",
            "--url",
            &self.url,
        ]);
        send.arg("--secret-file").arg(secret);
        let output = send.output().expect("it sends");
        output.status.success()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
