//! What the tests share: a relay process, a sender, targets, and one way to wait.

mod authority;
mod canary;
mod disk;
mod passage;
mod postgres;
mod relay;
mod sender;
mod target;
mod watch;

use std::ffi::OsStr;
use std::fmt::Debug;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub use authority::Authority;
pub use canary::{CANARY, assert_untold, fresh};
pub use disk::{Faults, SmallDisk};
pub use passage::{Passage, Way};
pub use postgres::Postgres;
pub use relay::{Relay, Setup};
pub use sender::{Sender, ask, get, sign, sign_by};
pub use target::{Request, Target};
pub use watch::{MEMORY_KIB, Watch};

/// The partner secret of every test.
pub const SECRET: &str = "whsec-test-partner-secret-0001";

/// How long anything may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds: the one way to wait in these tests.
pub async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    comes_to(what, condition, |holds| *holds).await;
}

/// The same for what is looked at: gives it back once it is so, and shows what it was if it never is.
pub async fn comes_to<T: Debug, F: Future<Output = T>>(
    what: &str,
    mut look: impl FnMut() -> F,
    is_so: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look().await;
        if is_so(&seen) {
            return seen;
        }
        let is_over = Instant::now() >= deadline;
        assert!(!is_over, "not within {PATIENCE:?}: {what}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An address of this machine that nothing listens on just now.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// As any user is: without the rights by which root looks into all processes and passes what is denied to others.
pub fn as_anybody(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-all"]).arg(program);
    command
}

/// The same, for what is to refuse and end: killed after a while, with another code, should it not.
pub fn bounded(command: &Command) -> Command {
    let mut bounded = Command::new("timeout");
    bounded
        .args(["-k", "1"])
        .arg(PATIENCE.as_secs().to_string());
    bounded.arg(command.get_program()).args(command.get_args());
    bounded
}

/// A process that is killed when dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A number from the environment: how long a campaign lasts, and where it begins.
pub fn knob(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test's own knob")]
    let value = std::env::var(name).ok();
    value.map(|value| value.parse().expect("a number"))
}
