//! What a process has in its memory stays there.

use std::fs;
use std::io::BufRead;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::harness::{Killed, SECRET, Setup, Target, as_anybody, eventually, fresh};

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

/// What the process may write to, one region after the other.
fn memory(pid: u32) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
    let memory = fs::File::open(format!("/proc/{pid}/mem")).expect("as root");
    let writable = maps.lines().filter(|line| line.contains(" rw"));
    let regions = writable.filter_map(|line| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let at = |hex: &str| u64::from_str_radix(hex, 16).expect("an address");
        let length = usize::try_from(at(to) - at(from)).expect("fits");
        let mut bytes = vec![0; length];
        // Some are the kernel's own.
        memory.read_exact_at(&mut bytes, at(from)).ok()?;
        Some(bytes)
    });
    regions.collect()
}

fn count(regions: &[Vec<u8>], wanted: &[u8]) -> usize {
    let mut found = 0;
    for region in regions {
        let mut rest = &region[..];
        // The library's search is fast in a debug build, too.
        while rest.contains(&wanted[0]) {
            rest.skip_until(wanted[0]).expect("memory");
            found += usize::from(rest.starts_with(&wanted[1..]));
        }
    }
    found
}

/// The relay writes these into each request to its target, so they are found: the search works.
const TOKEN: &str = "bearer-token-of-a-file-0001";
const SIGNING: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SPOOL_KEY: &str = "c3Bvb2wta2V5LW9mLWEtZmlsZS0wMDAwMDAwMDAwMDE=";

fn keeping_secrets(target: &Target) -> Setup {
    let setup = Setup::new(&format!(
        "
targets:
  - name: ehr
    http:
      url: {}
      bearer_token: {{ file: token }}
      sign: {{ secrets: [{{ file: signing }}] }}
  - {{ name: his, http: {{ url: 'https://127.0.0.1:9/', tls: {{ certificate: his.crt, private_key: his.key }} }} }}
routes: [{{ name: all, to: [ehr] }}]
",
        target.url()
    ));
    let write =
        |name: &str, text: &str| fs::write(setup.path().join(name), text).expect("writable");
    write("token", TOKEN);
    write("signing", &format!("whsec_{SIGNING}"));
    write("spool.key", &format!("a {SPOOL_KEY}\n"));
    put_pair(&setup, "his");
    setup.reword("path: spool }", "path: spool, key_file: spool.key }");
    setup
}

/// Writes a certificate and its key, and gives back what of the key must not be found: lines of its file, and its bytes.
fn put_pair(setup: &Setup, name: &str) -> Vec<Vec<u8>> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = pair.signing_key.serialize_pem();
    let file = |end: &str| setup.path().join(format!("{name}.{end}"));
    // As many tools write it: all in one file.
    fs::write(file("crt"), format!("{}{key}", pair.cert.pem())).expect("writable");
    fs::write(file("key"), &key).expect("writable");
    let base64 = key.lines().filter(|line| !line.starts_with('-'));
    let mut wanted: Vec<_> = base64.map(|line| line.as_bytes().to_vec()).collect();
    // From within the number that is secret on.
    wanted.push(pair.signing_key.serialize_der()[40..64].to_vec());
    wanted
}

#[tokio::test(flavor = "multi_thread")]
async fn of_keys_and_secrets_no_copy_of_their_files_is_left_in_memory() {
    let target = Target::accepting().await;
    let setup = keeping_secrets(&target);
    let mut wanted = [SECRET, SIGNING, SPOOL_KEY]
        .map(|it| it.as_bytes().to_vec())
        .to_vec();
    for name in ["his", "tls"] {
        wanted.extend(put_pair(&setup, name));
    }
    let relay = setup.start();
    for round in 0..3 {
        let answer = relay.sender().post(fresh()).await;
        assert_eq!(answer.expect("an answer").status, 200);
        eventually("it is delivered", async || target.count() > round).await;
        let memory = memory(relay.pid());
        assert!(
            count(&memory, TOKEN.as_bytes()) > 0,
            "the search finds nothing"
        );
        for (n, wanted) in wanted.iter().enumerate() {
            if count(&memory, wanted) > 0 {
                // One more reload may just have read it: each file that was written wakes the watcher.
                let what = format!("round {round}: {n} of them is not found");
                let is_gone = async || count(&self::memory(relay.pid()), wanted) == 0;
                eventually(&what, is_gone).await;
            }
        }
        for name in ["his", "tls"] {
            wanted.extend(put_pair(&setup, name));
        }
        let (_, answer) = relay.operator("POST", "/v1/reload", "").await;
        assert_ne!(answer["result"], "refused", "{answer}");
    }
}
