//! Each call by which the relay changes its files, killed or failed in turn.
//!
//! A short run of the real binary is traced once, to count the calls; then it is done again for each of them, with
//! a `SIGKILL`, an I/O error or a full disk at just that call. Calls are counted in one thread at a time:
//! the one that opens the spool, the one that writes it, the one that copies its log.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::timeout;

use crate::harness::{CANARY, Killed, Relay, Setup, Target, assert_untold, eventually, knob};

const CALLS: &str = "pwrite64,ftruncate,fallocate,fsync,fdatasync,rename,unlink,mkdir";
const FAULTS: [&str; 3] = ["signal=KILL", "error=EIO", "error=ENOSPC"];

/// Longer than a relay takes to answer, one way or the other: after this there is none.
const NO_ANSWER: Duration = Duration::from_secs(10);

/// Where the calls are made.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Opening,
    /// In the thread of this name, once the relay is idle.
    Running(&'static str),
}

const MOMENTS: [Moment; 3] = [
    Moment::Opening,
    Moment::Running("spool-writer"),
    Moment::Running("spool-checkpoin"), // the kernel keeps 15 letters
];

/// Every call with `CALLS_STEP` 1; each hundredth unless it is set.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_or_an_error_at_any_call_loses_nothing_that_was_acknowledged() {
    let step = knob("CALLS_STEP").unwrap_or(100);
    let first = 1 + knob("CALLS_SEED").unwrap_or_else(|| fastrand::u64(..)) % step;
    println!("calls: each {step} from {first} on");
    let (mut runs, mut ended, mut acknowledged) = (0, 0, 0);
    for moment in MOMENTS {
        let calls = Run::of(moment, None).await.calls();
        assert!(calls > 3, "{moment:?}: {calls}");
        for fault in FAULTS {
            let step = usize::try_from(step).expect("small");
            for call in (usize::try_from(first).expect("small")..=calls).step_by(step) {
                let run = Run::of(moment, Some((fault, call))).await;
                runs += 1;
                ended += u64::from(run.ended);
                acknowledged += run.acknowledged.len();
                run.holds().await;
            }
        }
    }
    assert!(ended > 0, "no fault ended a relay");
    println!("calls: {runs} runs, {ended} ended, {acknowledged} acknowledged, 0 lost");
}

/// One relay that met one fault, and is gone.
struct Run {
    what: String,
    setup: Setup,
    target: Target,
    acknowledged: Vec<String>,
    /// By the fault, before its time.
    ended: bool,
}

impl Run {
    async fn of(moment: Moment, fault: Option<(&str, usize)>) -> Self {
        let target = Target::accepting().await;
        let url = target.url();
        let rest = format!(
            "
targets: [{{ name: ehr, http: {{ url: \"{url}\" }}, retry: {{ initial: 50ms, max: 100ms }} }}]
routes: [{{ name: all, to: [ehr] }}]
"
        );
        let setup = Setup::new(&rest);
        setup.reword("path: spool }", "path: spool, capacity: 16MiB }");
        let mut run = Self {
            what: format!("{moment:?}, {fault:?}"),
            setup,
            target,
            acknowledged: Vec::new(),
            ended: true,
        };
        run.meet(moment, fault).await;
        run
    }

    async fn meet(&mut self, moment: Moment, fault: Option<(&str, usize)>) {
        let trace = self.setup.path().join("trace");
        let mut strace = None;
        let relay = match moment {
            Moment::Opening => self.setup.start_halted(|pid| {
                strace = Some(attach(&trace, &["-f", "-p", &pid.to_string()], fault));
            }),
            Moment::Running(thread) => {
                let relay = self.setup.start();
                let id = thread_of(&relay, thread);
                strace = Some(attach(&trace, &["-p", &id.to_string()], fault));
                Some(relay)
            }
        };
        if let Some(mut relay) = relay {
            self.post(&relay).await;
            self.ended = relay.has_ended();
            assert_untold(relay.written().concat());
            relay.kill();
        }
        // It ends with the relay, and has written all that it saw by then.
        let mut strace = strace.expect("attached");
        strace.0.wait().expect("waited");
    }

    /// What two senders bring, with one that comes again; until all is posted, or nobody answers.
    async fn post(&mut self, relay: &Relay) {
        let sender = relay.sender();
        for n in 0..8 {
            let post = |who| timeout(NO_ANSWER, sender.post(body(n, who)));
            let answers = tokio::join!(post("a"), post("b"));
            for (answer, who) in [(answers.0, "a"), (answers.1, "b")] {
                match answer.ok().flatten().map(|answer| answer.status) {
                    Some(200) => self.acknowledged.push(body(n, who)),
                    Some(status) => assert_eq!(status, 500, "{}", self.what),
                    None => {}
                }
            }
        }
    }

    /// Calls that were seen.
    fn calls(&self) -> usize {
        assert!(!self.ended, "{}", self.what);
        let seen = fs::read_to_string(self.setup.path().join("trace")).expect("text");
        let calls = seen.lines().filter(|line| line.contains('('));
        calls.count()
    }

    /// The next relay has all that was acknowledged, and takes what is new.
    async fn holds(self) {
        let relay = self.setup.start();
        eventually(&self.what, async || {
            let requests = self.target.requests().into_iter();
            let arrived: HashSet<Vec<u8>> = requests.map(|request| request.body.into()).collect();
            let mut acknowledged = self.acknowledged.iter();
            acknowledged.all(|body| arrived.contains(body.as_bytes()))
        })
        .await;
        relay.is_well(&self.what).await;
        let imbalance = relay.metric("suki_relay_ledger_imbalance").await;
        assert!(imbalance.abs() < 0.5, "{}", self.what);
    }
}

/// So long that a few of them have the log copied.
fn body(n: usize, who: &str) -> String {
    let filling = "x".repeat(40_000);
    format!(r#"{{"status":"success","session_id":"{who}-{n}","note":"{CANARY} {filling}"}}"#)
}

/// Waits until it traces.
fn attach(trace: &Path, of: &[&str], fault: Option<(&str, usize)>) -> Killed {
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-e", "signal=none", "-e"]);
    strace.arg(format!("trace={CALLS}")).arg("-o").arg(trace);
    if let Some((fault, call)) = fault {
        strace.arg("-e");
        strace.arg(format!("inject={CALLS}:{fault}:when={call}"));
    }
    let strace = strace.args(of).stderr(Stdio::null()).spawn();
    let strace = Killed(strace.expect("strace runs"));
    let status = format!("/proc/{}/status", of[of.len() - 1]);
    for _ in 0..3000 {
        let told = fs::read_to_string(&status).unwrap_or_default();
        if !told.contains("TracerPid:\t0") {
            return strace;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never traced: {of:?}")
}

fn thread_of(relay: &Relay, name: &str) -> u32 {
    let tasks = fs::read_dir(format!("/proc/{}/task", relay.pid())).expect("readable");
    let mut ids = tasks.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok());
    let found = ids.find(|id: &u32| {
        let file = format!("/proc/{}/task/{id}/comm", relay.pid());
        fs::read_to_string(file).is_ok_and(|comm| comm.trim() == name)
    });
    found.unwrap_or_else(|| panic!("no thread {name}"))
}
