//! Hot reload: the relay follows its files, whole versions only, and nothing in hand notices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Relay, SECRET, Sender, Setup, Target, Watch, eventually, sign_by};

mod refused;

const APPLIED: &str = "suki_relay_config_reloads_total{result=\"applied\"}";
const REFUSED: &str = "suki_relay_config_reloads_total{result=\"refused\"}";
const SUCCESSFUL: &str = "suki_relay_config_last_reload_successful";
const NOT_AFTER: &str = "suki_relay_tls_certificate_not_after_timestamp_seconds";
const IN_USE: &str = "the new config is in use";
const IS_REFUSED: &str = "the new config is refused; the old one stays in use";
const NEXT_SECRET: &str = "whsec-test-partner-secret-0002";

/// Two targets; everything goes to the one that is named.
fn to(name: &str, ehr: &Target, audit: &Target) -> String {
    format!(
        "
targets:
  - {{ name: ehr, http: {{ url: \"{}\" }}, retry: {{ initial: 50ms, max: 100ms }} }}
  - {{ name: audit, http: {{ url: \"{}\" }} }}
routes:
  - {{ name: everything, to: [{name}] }}
",
        ehr.url(),
        audit.url()
    )
}

fn body(n: usize) -> String {
    format!(r#"{{"status":"success","session_id":"s-{n}"}}"#)
}

async fn post(sender: &Sender, n: usize) {
    let answer = sender.post(body(n)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn counted(relay: &Relay, series: &str, count: usize) {
    eventually(&format!("{series} is {count}"), async || {
        (relay.metric(series).await - count as f64).abs() < 0.1
    })
    .await;
}

fn lines(relay: &Relay, message: &str) -> Vec<serde_json::Value> {
    let log = relay.log();
    let with_message = log.into_iter().filter(|line| line["message"] == message);
    with_message.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_route_takes_effect_however_the_file_is_written() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &ehr, &audit));
    let relay = setup.start();
    let sender = relay.sender();
    let config = setup.config();
    let aside = setup.path().join("config.yaml~");
    let in_place: &dyn Fn(&str) = &|text| fs::write(&config, text).expect("writable");
    let rename_over: &dyn Fn(&str) = &|text| {
        fs::write(&aside, text).expect("writable");
        fs::rename(&aside, &config).expect("renamed");
    };
    let delete_and_recreate: &dyn Fn(&str) = &|text| {
        fs::remove_file(&config).expect("removed");
        fs::write(&config, text).expect("writable");
    };
    let with_backup: &dyn Fn(&str) = &|text| {
        fs::rename(&config, &aside).expect("renamed");
        fs::write(&config, text).expect("writable");
        fs::remove_file(&aside).expect("removed");
    };
    let ways = [
        in_place,
        rename_over,
        delete_and_recreate,
        with_backup,
        rename_over,
        in_place,
    ];
    for (n, write) in ways.into_iter().enumerate() {
        let (name, target) = [("audit", &audit), ("ehr", &ehr)][n % 2];
        let before = target.count();
        write(&Setup::text(&to(name, &ehr, &audit)));
        counted(&relay, APPLIED, n + 1).await;
        post(&sender, n).await;
        eventually("the target of the new route has it", async || {
            target.count() == before + 1
        })
        .await;
    }
    assert_eq!(lines(&relay, IN_USE).len(), ways.len());
    assert_eq!(ehr.count() + audit.count(), ways.len());
    let (_, page) = relay.admin("/metrics").await;
    let versions = page.matches("suki_relay_config_info{").count();
    assert_eq!(versions, 1, "one series, whatever came before");
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_alone_finds_every_change() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &ehr, &audit));
    let relay = setup.start_without_inotify();
    let watch = |mode: &str| format!("suki_relay_config_watch{{mode=\"{mode}\"}}");
    counted(&relay, &watch("poll"), 1).await;
    counted(&relay, &watch("inotify"), 0).await;
    for (n, name) in ["audit", "ehr"].into_iter().enumerate() {
        setup.write_config(&to(name, &ehr, &audit));
        counted(&relay, APPLIED, n + 1).await;
    }
    let warnings = relay.log().into_iter().filter(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.contains("fs.inotify.max_user_instances")
    });
    assert_eq!(warnings.count(), 1, "told once, with what to do");
}

/// A folder as Kubernetes' `AtomicWriter` keeps it.
struct Volume {
    folder: PathBuf,
    updates: usize,
}

impl Volume {
    fn update(&mut self, files: &[(&str, &str)]) {
        let at = |name: &str| self.folder.join(name);
        let old = fs::read_link(at("..data")).ok();
        self.updates += 1;
        let data = format!("..2026_{}", self.updates);
        fs::create_dir(at(&data)).expect("a folder");
        for (name, text) in files {
            fs::write(at(&data).join(name), text).expect("writable");
        }
        symlink(&data, at("..data_tmp")).expect("a link");
        fs::rename(at("..data_tmp"), at("..data")).expect("renamed");
        for (name, _) in files.iter().filter(|(name, _)| !at(name).is_symlink()) {
            let _ = fs::remove_file(at(name));
            symlink(Path::new("..data").join(name), at(name)).expect("a link");
        }
        if let Some(old) = old {
            fs::remove_dir_all(self.folder.join(old)).expect("removed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_swap_of_a_kubernetes_volume_is_followed() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &ehr, &audit));
    let [certificate, key] = ["tls.crt", "tls.key"]
        .map(|name| fs::read_to_string(setup.path().join(name)).expect("readable"));
    let mut volume = Volume {
        folder: setup.path().to_owned(),
        updates: 0,
    };
    let mut update = |name: &str| {
        volume.update(&[
            ("config.yaml", &Setup::text(&to(name, &ehr, &audit))),
            ("secret", SECRET),
            ("tls.crt", &certificate),
            ("tls.key", &key),
        ]);
    };
    update("ehr");
    let relay = setup.start();
    let sender = relay.sender();
    counted(&relay, "suki_relay_config_watch{mode=\"inotify\"}", 1).await;
    let started = Instant::now();
    for n in 0..4 {
        let (name, target) = [("audit", &audit), ("ehr", &ehr)][n % 2];
        let before = target.count();
        update(name);
        counted(&relay, APPLIED, n + 1).await;
        post(&sender, n).await;
        eventually("it has it", async || target.count() == before + 1).await;
    }
    // Polling alone would take close to 10 s for each: watching must not have gone deaf.
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(lines(&relay, IS_REFUSED).is_empty(), "{:?}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_works_and_a_removed_one_stops_working() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to("ehr", &target, &target).replace(
        "\ntargets:",
        "
sources:
  - name: suki
    path: /webhooks/notification
    secrets:
      - { name: current, file: secret }
      - { name: next, file: next, optional: true }
targets:",
    ));
    let relay = setup.start();
    let sender = relay.sender();
    let status = async |secret: &str| {
        let at = sender.generated_at();
        let signature = sign_by(secret, &at, body(0).as_bytes());
        let answer = sender.send(&at, &signature, body(0)).await;
        answer.expect("an answer").status
    };
    assert_eq!(
        (status(SECRET).await, status(NEXT_SECRET).await),
        (200, 401)
    );
    fs::write(setup.path().join("next"), NEXT_SECRET).expect("writable");
    counted(&relay, APPLIED, 1).await;
    assert_eq!(
        (status(SECRET).await, status(NEXT_SECRET).await),
        (200, 200)
    );
    let by_next = "suki_relay_signature_matched_total{secret=\"next\",source=\"suki\"}";
    counted(&relay, by_next, 1).await;
    fs::write(setup.path().join("secret"), "whsec-somebody-elses-secret").expect("writable");
    counted(&relay, APPLIED, 2).await;
    assert_eq!(
        (status(SECRET).await, status(NEXT_SECRET).await),
        (401, 200)
    );
    for line in relay.log() {
        let line = line.to_string();
        assert!(!line.contains("whsec-"), "a secret in the log: {line}");
    }
}

/// Writes a certificate and its key beside each other, valid up to the end of a year.
fn write_pair(folder: &Path, name: &str, year: i32) -> (String, String) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).expect("names");
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate").pem();
    let key = key.serialize_pem();
    fs::write(folder.join(format!("{name}.crt")), &certificate).expect("writable");
    fs::write(folder.join(format!("{name}.key")), &key).expect("writable");
    (certificate, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_new_connections_and_cuts_no_old_one() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &ehr, &audit));
    let relay = setup.start();
    let connected = relay.sender();
    post(&connected, 0).await;
    let before = relay.metric(NOT_AFTER).await;
    let connections = relay.metric("suki_relay_connections_total").await;

    write_pair(setup.path(), "tls", 2031);
    counted(&relay, APPLIED, 1).await;
    let newly = Sender::new(relay.sender_address, &setup.path().join("tls.crt"));
    post(&newly, 1).await;
    post(&connected, 2).await;
    let opened = relay.metric("suki_relay_connections_total").await - connections;
    assert!((opened - 1.0).abs() < 0.1, "the old connection was cut");
    let after = relay.metric(NOT_AFTER).await;
    assert!((after - before).abs() > 1.0, "{before} to {after}");

    // A key of another certificate, or what is none: the pair in use stays.
    let (_, other_key) = write_pair(setup.path(), "other", 2032);
    let good = fs::read(setup.path().join("tls.crt")).expect("readable");
    fs::write(setup.path().join("trusted.crt"), &good).expect("writable");
    let broken = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n";
    for (n, (name, text)) in [("tls.key", &*other_key), ("tls.crt", broken)]
        .into_iter()
        .enumerate()
    {
        let refused = relay.metric(REFUSED).await;
        fs::write(setup.path().join(name), text).expect("writable");
        eventually("it is refused", async || {
            relay.metric(REFUSED).await > refused
        })
        .await;
        let trusted = setup.path().join("trusted.crt");
        post(&Sender::new(relay.sender_address, &trusted), 3 + n).await;
        assert!((relay.metric(NOT_AFTER).await - after).abs() < 0.1);
    }

    // One that has expired is better than none.
    write_pair(setup.path(), "tls", 2020);
    counted(&relay, SUCCESSFUL, 1).await;
    assert!(relay.metric(NOT_AFTER).await < before.min(after));
    let warned = relay.log().into_iter().any(|line| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains("expired")
    });
    assert!(warned, "{:?}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn fixing_a_wrong_url_heals_what_waits() {
    let (wrong, right) = (Target::start(|_| 503).await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &wrong, &right));
    let relay = setup.start();
    post(&relay.sender(), 0).await;
    eventually("it is tried", async || wrong.count() >= 2).await;
    assert_eq!(right.count(), 0);
    setup.write_config(&to("ehr", &right, &wrong));
    eventually("it is delivered", async || right.count() == 1).await;
    counted(&relay, "suki_relay_deliveries_pending{target=\"ehr\"}", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_target_holds_its_deliveries_until_it_comes_back() {
    let (ehr, audit) = (
        Target::start(|n| if n < 3 { 503 } else { 200 }).await,
        Target::accepting().await,
    );
    let both = to("ehr", &ehr, &audit).replace("initial: 50ms, max: 100ms", "initial: 2s, max: 2s");
    let setup = Setup::new(&both);
    let relay = setup.start();
    post(&relay.sender(), 0).await;
    eventually("it is tried", async || ehr.count() >= 1).await;
    let without: String = to("audit", &ehr, &audit)
        .lines()
        .filter(|line| !line.contains("name: ehr"))
        .map(|line| format!("{line}\n"))
        .collect();
    setup.write_config(&without);
    counted(&relay, "suki_relay_target_missing{target=\"ehr\"}", 1).await;
    let tried = ehr.count();
    post(&relay.sender(), 1).await;
    eventually("others go on", async || audit.count() == 1).await;
    assert_eq!(ehr.count(), tried, "nothing is sent to what is not there");
    setup.write_config(&both.replace("2s", "50ms"));
    eventually("it is delivered", async || {
        ehr.requests().last().is_some_and(|last| last.status == 200)
    })
    .await;
    counted(&relay, "suki_relay_target_missing{target=\"ehr\"}", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_targets_keep_their_connections_and_changed_ones_are_made_anew() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let both = to("ehr, audit", &ehr, &audit);
    let setup = Setup::new(&both);
    let relay = setup.start();
    let sender = relay.sender();
    let deliver = async |n: usize| {
        post(&sender, n).await;
        eventually("both have it", async || {
            ehr.count() == n && audit.count() == n
        })
        .await;
        counted(&relay, "suki_relay_deliveries_in_flight{target=\"ehr\"}", 0).await;
    };
    deliver(1).await;
    let changed = both.replace(
        "- { name: audit, http: {",
        "- { name: audit, timeout: 7s, http: {",
    );
    assert_ne!(changed, both);
    setup.write_config(&changed);
    counted(&relay, APPLIED, 1).await;
    deliver(2).await;
    assert_eq!((ehr.connections(), audit.connections()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sighups_leave_nothing_behind() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &ehr, &audit));
    let relay = setup.start();
    let files = || {
        let files = fs::read_dir(format!("/proc/{}/fd", relay.pid()));
        files.expect("readable").count()
    };
    // An applied version tells that signals are heard, before and after.
    let replace = |name: &str| {
        let aside = setup.path().join("config.yaml~");
        fs::write(&aside, Setup::text(&to(name, &ehr, &audit))).expect("writable");
        fs::rename(&aside, setup.config()).expect("renamed");
        relay.signal("HUP");
    };
    replace("audit");
    counted(&relay, APPLIED, 1).await;
    let told_of_config = || {
        let log = relay.log();
        let messages = log.iter().filter_map(|line| line["message"].as_str());
        messages
            .filter(|message| message.contains("config"))
            .count()
    };
    eventually("the line is written", async || told_of_config() == 1).await;
    let open = files();
    for _ in 0..1000 {
        relay.signal("HUP");
    }
    replace("ehr");
    counted(&relay, APPLIED, 2).await;
    eventually("the line is written", async || told_of_config() == 2).await;
    assert_eq!(
        told_of_config(),
        2,
        "S01: one line for each change, none for a signal"
    );
    eventually("no file stays open", async || files() <= open + 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_fail_no_request_and_mix_no_versions() {
    const RELOADS: usize = 300;
    let targets = [
        Target::accepting().await,
        Target::accepting().await,
        Target::accepting().await,
        Target::accepting().await,
    ];
    let setup = Setup::new(&version(0, &targets));
    let pairs = ["one", "two"].map(|name| write_pair(setup.path(), name, 2031));
    let install = |n: usize| {
        let (certificate, key) = &pairs[n % 2];
        fs::write(setup.path().join("tls.crt"), certificate).expect("writable");
        fs::write(setup.path().join("tls.key"), key).expect("writable");
    };
    install(0);
    let bundle = setup.path().join("bundle.crt");
    fs::write(&bundle, format!("{}{}", pairs[0].0, pairs[1].0)).expect("writable");
    let relay = setup.start();

    let (stop, posted) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let senders: Vec<_> = (0..4)
        .map(|_| {
            let (stop, posted) = (stop.clone(), posted.clone());
            let (address, bundle) = (relay.sender_address, bundle.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    // A new connection every few requests, so that handshakes meet reloads, too.
                    let sender = Sender::new(address, &bundle);
                    for _ in 0..5 {
                        post(&sender, posted.fetch_add(1, Ordering::Relaxed)).await;
                    }
                }
            })
        })
        .collect();

    let mut watch = Watch::begin(&relay);
    for n in 1..=RELOADS {
        if n == RELOADS / 10 {
            watch = Watch::begin(&relay);
            watch.kept_thousands();
        }
        let before = posted.load(Ordering::Relaxed);
        match n % 4 {
            0 => install(n / 4),
            1 => {
                let next = format!("whsec-test-partner-rotated-{n}");
                fs::write(setup.path().join("next"), next).expect("writable");
            }
            _ => setup.write_config(&version(n, &targets)),
        }
        relay.signal("HUP");
        counted(&relay, APPLIED, n).await;
        eventually("requests go on", async || {
            posted.load(Ordering::Relaxed) > before
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.await.expect("no request failed");
    }
    // A look that met a half-written pair was refused, and healed: both are within the promise.
    assert_whole_versions(&targets, posted.load(Ordering::Relaxed)).await;
    // The sender of the closing look trusts `tls.crt` as it is now.
    watch.goes_on(&relay, "J14: reloads under load").await;
}

/// Even versions go to the first two targets, odd ones to the others; their settings differ, too.
fn version(n: usize, targets: &[Target; 4]) -> String {
    let pair = if n.is_multiple_of(2) {
        "t0, t1"
    } else {
        "t2, t3"
    };
    let list: Vec<_> = targets
        .iter()
        .enumerate()
        .map(|(at, target)| {
            let url = target.url();
            let timeout = 5 + (n + at) % 3;
            format!("  - {{ name: t{at}, http: {{ url: \"{url}\" }}, timeout: {timeout}s }}\n")
        })
        .collect();
    let list = list.concat();
    format!(
        "
sources:
  - name: suki
    path: /webhooks/notification
    secrets: [{{ name: current, file: secret }}, {{ name: next, file: next, optional: true }}]
targets:
{list}
routes:
  - {{ name: everything, to: [{pair}] }}
"
    )
}

async fn assert_whole_versions(targets: &[Target; 4], posted: usize) {
    let arrived = || {
        let mut arrived: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (at, target) in targets.iter().enumerate() {
            for request in target.requests() {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                arrived.entry(body).or_default().insert(at);
            }
        }
        arrived
    };
    let copies = || arrived().values().map(BTreeSet::len).sum::<usize>();
    eventually("all arrive at two targets", async || copies() >= 2 * posted).await;
    let arrived = arrived();
    assert_eq!(arrived.len(), posted);
    for (body, at) in arrived {
        let whole = at == BTreeSet::from([0, 1]) || at == BTreeSet::from([2, 3]);
        assert!(whole, "{body} went to {at:?}");
    }
}

fn check_against(setup: &Setup, old: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_suki-relay"))
        .args(["check", "--config"])
        .arg(setup.config())
        .arg("--against")
        .arg(old)
        .output()
        .expect("runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn check_against_another_version_tells_what_a_reload_would_change() {
    let (ehr, audit) = (Target::accepting().await, Target::accepting().await);
    let setup = Setup::new(&to("ehr", &ehr, &audit));
    let old = setup.path().join("old.yaml");
    fs::copy(setup.config(), &old).expect("copied");
    let same = check_against(&setup, &old);
    assert_eq!(
        String::from_utf8_lossy(&same.stdout),
        "changes nothing\nok\n"
    );

    let new = Setup::text(&to("ehr, billing", &ehr, &audit))
        .replace("name: audit", "name: billing")
        .replace("initial: 50ms", "initial: 60ms")
        .replace("delay: 0s", "delay: 1s")
        .replace(
            "operator: { address: 127.0.0.1:0 }",
            "operator: { address: 127.0.0.1:0, token: { file: secret } }",
        );
    fs::write(setup.config(), new).expect("writable");
    let output = check_against(&setup, &old);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "needs a restart: drain.delay\n\
         changes the operator's token\n\
         adds target billing\n\
         removes target audit\n\
         changes target ehr\n\
         changes route everything\n\
         ok\n"
    );
}

/// Nothing that the relay does differs: nothing to read in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_remark_in_the_config_is_no_news() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to("ehr", &target, &target));
    let mut relay = setup.start();
    let text = Setup::text(&to("ehr", &target, &target));
    fs::write(setup.config(), format!("# a remark\n{text}")).expect("writable");
    counted(&relay, APPLIED, 1).await;
    let longer = text.replace("initial: 50ms", "initial: 60ms");
    fs::write(setup.config(), longer).expect("writable");
    counted(&relay, APPLIED, 2).await;
    relay.log_line(IN_USE);
    assert_eq!(lines(&relay, IN_USE).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_of_an_unchanged_target_stays_as_it_is() {
    let (ehr, audit) = (Target::start(|_| 503).await, Target::accepting().await);
    let config = to("ehr", &ehr, &audit).replace(
        "initial: 50ms, max: 100ms }",
        "initial: 50ms, max: 100ms }, breaker: { failures: 2, probe_after: 1h, probe_max: 1h }",
    );
    let setup = Setup::new(&config);
    let relay = setup.start();
    let open = "suki_relay_target_breaker_open{target=\"ehr\"}";
    post(&relay.sender(), 0).await;
    counted(&relay, open, 1).await;
    let tried = ehr.count();
    let other = "name: audit, max_in_flight: 2,";
    setup.write_config(&config.replace("name: audit,", other));
    counted(&relay, APPLIED, 1).await;
    counted(&relay, open, 1).await;
    post(&relay.sender(), 1).await;
    assert_eq!(ehr.count(), tried, "nobody has closed it");
}
