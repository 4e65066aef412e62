//! Rows G01, G02 and G18: names of targets, and who answers for them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use super::foe::Foe;
use super::fresh;
use crate::harness::{Relay, Setup, Target, Watch, eventually};

/// Where the relay's system asks; port 53 is not to be chosen.
const RESOLVER: &str = "127.0.0.153";

/// A name server that says what its client wants least. Ends with the test's process.
fn answer_as_an_enemy() {
    let socket = UdpSocket::bind((RESOLVER, 53)).expect("port 53, as root");
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
}

/// By the first label of the name that is asked for (RFC 1035, 4.1).
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let label = &question[13..13 + usize::from(question[12])];
    let addresses: &[Ipv4Addr] = match label {
        b"silent" => return None,
        b"senseless" => return Some([&question[..2], &[0xff; 40]].concat()),
        b"metadata" => &[Ipv4Addr::new(169, 254, 169, 254)],
        b"mixed" => &[Ipv4Addr::new(169, 254, 169, 254), Ipv4Addr::LOCALHOST],
        _ => &[],
    };
    let end = 12 + question[12..].iter().position(|byte| *byte == 0)? + 5;
    let is_for_v4 = question[end - 3] == 1;
    let addresses = if is_for_v4 { addresses } else { &[] };
    // SERVFAIL for a name that is none of these.
    let code = if label == b"failing" { 0x82 } else { 0x80 };
    let count = u8::try_from(addresses.len()).ok()?;
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, code, 0, 1, 0, count, 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// Starts a relay whose system knows these hosts, and asks the enemy for the others.
fn start_among_enemies(setup: &Setup, hosts: &str) -> Relay {
    const BIND: &str = r#"for file in hosts resolv.conf nsswitch.conf; do mount --bind "$file" "/etc/$file" || exit; done; exec "$0" "$@""#;
    let write = |name: &str, text: &str| {
        fs::write(setup.path().join(name), text).expect("writable");
    };
    write("hosts", hosts);
    write("resolv.conf", &format!("nameserver {RESOLVER}\n"));
    write("nsswitch.conf", "hosts: files dns\n");
    let mut relay = setup.command();
    relay.args(["--log-level", "trace"]);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", BIND]);
    command.arg(relay.get_program()).args(relay.get_args());
    setup.start_by(command)
}

fn target(name: &str, host: &str, port: u16) -> String {
    format!(
        "  - name: {name}
    http: {{ url: \"http://{host}:{port}/in\" }}
    connect_timeout: 1s
    timeout: 2s
    retry: {{ initial: 50ms, max: 100ms }}
    breaker: {{ probe_after: 50ms, probe_max: 100ms }}\n"
    )
}

async fn attempts(relay: &Relay, target: &str, outcome: &str) -> f64 {
    let series = format!("suki_relay_attempts_total{{outcome=\"{outcome}\",target=\"{target}\"}}");
    relay.metric(&series).await
}

async fn post(relay: &Relay, count: usize) -> BTreeSet<Vec<u8>> {
    let sender = relay.sender();
    let mut owed = BTreeSet::new();
    for _ in 0..count {
        let body = fresh();
        let answer = sender.post(body.clone()).await.expect("an answer");
        assert_eq!(answer.status, 200);
        owed.insert(body.into_bytes());
    }
    owed
}

fn taken(target: &Target) -> BTreeSet<Vec<u8>> {
    target.taken()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_resolver_leads_nowhere_and_holds_up_no_other_target() {
    answer_as_an_enemy();
    let good = Target::accepting().await;
    let mixed = Target::accepting().await;
    let many = Target::accepting().await;
    let bad = [
        ("nowhere", "dns"),
        ("failing", "dns"),
        ("senseless", "connect"),
        ("silent", "connect"),
        ("metadata", "forbidden_address"),
        ("hosted", "forbidden_address"),
    ];
    let mut rest = "targets:\n".to_owned();
    rest += &target("good", "127.0.0.1", good.address.port());
    rest += &target("mixed", "mixed.enemy.test", mixed.address.port());
    rest += &target("many", "many.enemy.test", many.address.port());
    for (name, _) in bad {
        rest += &target(name, &format!("{name}.enemy.test"), 80);
    }
    let names = bad.map(|(name, _)| name).join(", ");
    let routes = format!("routes: [{{ name: all, to: [good, mixed, many, {names}] }}]\n");
    rest += &routes;
    let mut hosts = "127.0.0.1 localhost\n169.254.169.254 hosted.enemy.test\n".to_owned();
    hosts += "127.0.0.1 many.enemy.test\n";
    let many_more = |n| format!("127.1.{}.{} many.enemy.test\n", n / 250, n % 250 + 1);
    hosts.extend((0..10_000).map(many_more));
    let setup = Setup::new(&rest);
    let relay = start_among_enemies(&setup, &hosts);
    let owed = post(&relay, 5).await;
    eventually("G01 G02: the good ones have everything", async || {
        [&good, &mixed].iter().all(|target| taken(target) == owed)
    })
    .await;
    for (name, outcome) in bad {
        eventually(&format!("G01 G02: {name} is {outcome}"), async || {
            attempts(&relay, name, outcome).await > 0.5
        })
        .await;
        let delivered = attempts(&relay, name, "delivered").await;
        assert!(delivered < 0.5, "G02: {name}");
    }
    eventually("G01: many was tried", async || {
        let (_, page) = relay.admin("/metrics").await;
        let tried = |line: &str| {
            line.starts_with("suki_relay_attempts_total")
                && line.contains("\"many\"")
                && !line.ends_with(" 0")
        };
        page.lines().any(tried)
    })
    .await;
    let mut watch = Watch::begin(&relay);
    // A list of 10,000 addresses, four times at a time.
    watch.brought(2 << 20);
    for (name, outcome) in bad {
        let before = attempts(&relay, name, outcome).await;
        eventually(&format!("G01 G02: {name} is tried again"), async || {
            attempts(&relay, name, outcome).await > before
        })
        .await;
        let body = watch.goes_on(&relay, &format!("G01 G02: {name}")).await;
        eventually(&format!("G01 G02: beside {name}"), async || {
            [&good, &mixed]
                .iter()
                .all(|target| taken(target).contains(&body))
        })
        .await;
    }
    let held = relay.resident_kib();
    assert!(held < 64 * 1024, "G01: {held} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_flaps_or_is_half_dead_gets_everything_and_others_once() {
    let flapping = Target::start(|n| if n % 2 == 0 { 503 } else { 200 }).await;
    let slow = Target::slow(Duration::from_secs(10)).await;
    // Each notification asks for another connection.
    let partly = Foe::start();
    let steady = Target::accepting().await;
    let mut rest = "targets:\n".to_owned();
    rest += &target("flapping", "127.0.0.1", flapping.address.port());
    rest += &target("partly", "partly.test", partly.address.port());
    rest += &target("steady", "127.0.0.1", steady.address.port());
    rest += &target("slow", "127.0.0.1", slow.address.port());
    rest += "routes: [{ name: all, to: [flapping, partly, steady, slow] }]\n";
    // Nobody listens at the second.
    let hosts = "127.0.0.1 localhost\n127.0.0.1 partly.test\n127.0.0.2 partly.test\n";
    let setup = Setup::new(&rest);
    let relay = start_among_enemies(&setup, hosts);
    let mut owed = post(&relay, 40).await;
    let have = async |owed: &BTreeSet<Vec<u8>>| {
        eventually("G18: all have everything", async || {
            let here = [&flapping, &steady]
                .iter()
                .all(|target| taken(target) == *owed);
            here && owed.iter().all(|body| partly.times(body) > 0)
        })
        .await;
    };
    have(&owed).await;
    eventually("G18: the slow one is too late", async || {
        attempts(&relay, "slow", "timeout").await > 0.5
    })
    .await;
    let mut watch = Watch::begin(&relay);
    for _ in 0..3 {
        owed.insert(watch.goes_on(&relay, "G18").await);
        have(&owed).await;
    }
    assert_eq!(steady.count(), owed.len(), "G18: it never failed");
    assert_eq!(partly.count(), owed.len(), "G18: each once");
    let failed = attempts(&relay, "partly", "connect").await;
    assert!(failed < 0.5, "G18: the live address is found: {failed}");
}
