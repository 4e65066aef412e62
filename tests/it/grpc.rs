//! gRPC targets: the whole way, from a sender's POST to a server that we did not write.

mod answers;
mod own;
mod reach;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use crate::harness::{Killed, Relay, Setup, eventually};

const BODY: &str = r#"{"status": "success", "session_id": "s", "encounter_id": "e"}"#;

/// A server process; its port is the last number of its first line.
struct Server {
    process: Killed,
    lines: Receiver<String>,
    port: u16,
}

impl Server {
    fn start(mut command: Command) -> Self {
        let command = command.current_dir(env!("CARGO_MANIFEST_DIR"));
        let mut process: Child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let output = BufReader::new(process.stdout.take().expect("piped")).lines();
        let (sender, lines) = sync_channel(64);
        std::thread::spawn(move || {
            for line in output.map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut server = Self {
            process: Killed(process),
            lines,
            port: 0,
        };
        let first = server.line();
        let mut numbers = first.rsplit(|c: char| !c.is_ascii_digit());
        server.port = numbers.find_map(|n| n.parse().ok()).expect("a port");
        server
    }

    /// One in Python.
    fn python(arguments: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(root.join("tests/python"));
        command.arg("-u").args(arguments);
        Self::start(command)
    }

    /// One of `grpc/answers.py`: what it does is in each body.
    fn answers(arguments: &[&str]) -> Self {
        Self::python(&[&["tests/it/grpc/answers.py"], arguments].concat())
    }

    /// The environment of the Python tests may have to be made first.
    fn line(&self) -> String {
        let line = self.lines.recv_timeout(Duration::from_mins(5));
        line.expect("a line")
    }

    fn target(&self) -> String {
        target(&format!("url: 'http://127.0.0.1:{}'", self.port), "")
    }

    fn signal(&self, name: &str) {
        let pid = self.process.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }
}

/// All goes to one target, with these keys in its `grpc` and beside it.
fn target(grpc: &str, rest: &str) -> String {
    format!(
        "
targets: [{{ name: audit, grpc: {{ {grpc} }}, retry: {{ initial: 10ms, max: 100ms }}{rest} }}]
routes: [{{ name: all, to: [audit] }}]
"
    )
}

/// Posts one that asks for this answer.
async fn post(relay: &Relay, session: &str, answer: &str) {
    let body = format!(r#"{{"status":"success","session_id":"{session}","answer":{answer}}}"#);
    let answer = relay.sender().post(body).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// How often attempts had this outcome.
async fn attempts(relay: &Relay, outcome: &str) -> f64 {
    let series = format!("suki_relay_attempts_total{{outcome=\"{outcome}\",target=\"audit\"}}");
    relay.metric(&series).await
}

async fn delivered(relay: &Relay, count: usize) {
    let series = "suki_relay_deliveries_total{result=\"delivered\",target=\"audit\"}";
    eventually(&format!("{count} delivered"), async || {
        (relay.metric(series).await - count as f64).abs() < 0.1
    })
    .await;
}

/// grpcio's server: a reading of gRPC and of our proto file that is not ours.
#[tokio::test]
async fn the_example_server_in_python_receives_what_was_posted() {
    let server = Server::python(&["proto/examples/server.py", "127.0.0.1:0"]);
    let setup = Setup::new(&server.target());
    let relay = setup.start();
    let answer = relay.sender().post(BODY).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let line = server.line();
    let told = format!(" from suki: {} bytes", BODY.len());
    assert!(line.starts_with("kept ") && line.ends_with(&told), "{line}");
}

#[tokio::test]
async fn a_sink_fails_by_grpc_as_often_as_it_is_told_and_then_takes_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suki-relay"));
    command.args([
        "sink",
        "--grpc",
        "127.0.0.1:0",
        "--fail-first",
        "1",
        "--bodies",
    ]);
    let server = Server::start(command);
    let setup = Setup::new(&server.target());
    let relay = setup.start();
    let answer = relay.sender().post(BODY).await.expect("an answer");
    assert_eq!(answer.status, 200);
    let told = || (server.line(), server.line());
    let (first, _) = told();
    assert!(first.ends_with("answered=UNAVAILABLE"), "{first}");
    let (second, body) = told();
    assert!(second.contains(" attempt=2 "), "{second}");
    assert!(second.ends_with("answered=OK"), "{second}");
    assert_eq!(body, BODY.escape_debug().to_string());
}
