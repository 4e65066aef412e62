//! What a process has in its memory stays there.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::harness::{Killed, Setup, as_anybody, eventually};

const REST: &str = "
targets: [{ name: ehr, http: { url: 'http://127.0.0.1:9/' } }]
routes: [{ name: all, to: [ehr] }]
";
const SIGABRT: i32 = 6;

/// Whether another process of the same user may look into it.
fn is_open(pid: u32) -> bool {
    let mut cat = as_anybody("cat");
    cat.arg(format!("/proc/{pid}/environ"));
    let read = cat.stdout(Stdio::null()).stderr(Stdio::null()).status();
    read.expect("cat runs").success()
}

#[tokio::test]
async fn a_relay_leaves_no_core_and_lets_nobody_look_into_it() {
    let setup = Setup::new(REST);
    let relay = setup.command();
    let mut command = as_anybody("sh");
    command.args(["-c", r#"ulimit -c unlimited; exec "$0" "$@""#]);
    command.arg(relay.get_program()).args(relay.get_args());
    let mut relay = setup.start_by(command);
    let limits = fs::read_to_string(format!("/proc/{}/limits", relay.pid()));
    let limits = limits.expect("it lives");
    let core = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"));
    let core: Vec<_> = core.expect("a line").split_whitespace().collect();
    assert_eq!(core, ["0", "0", "bytes"]);

    let other = as_anybody("sleep").arg("60").spawn();
    let other = Killed(other.expect("it starts"));
    eventually("one may look into others", async || is_open(other.0.id())).await;
    assert!(!is_open(relay.pid()));

    relay.signal("ABRT");
    let ended = relay.ended().await;
    assert_eq!(
        (ended.signal(), ended.core_dumped()),
        (Some(SIGABRT), false)
    );
}
