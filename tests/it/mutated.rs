//! What an editor may do to a config between two saves: each version is taken whole, or not at all.

use std::fs;

use suki_relay::config::{Config, Outline};

use super::harness::{Relay, Setup, eventually};

const MUTATIONS: usize = 300;

/// All that can be hot-reloaded, with every kind of value in it.
const RELOADABLE: &str = r#"
sources:
  - name: suki
    path: /webhooks/notification
    secrets: [{ name: current, file: secret }, { name: next, file: next, optional: true }]
    headers: { signature: x-api-key, timestamp: generated-at }
    max_age: 48h      # older ones are quarantined
    max_ahead: 1h
    on_invalid: reject  # and kept in quarantine
targets:
  - name: ehr
    http:
      url: http://127.0.0.1:9/notifications
      headers: { x-team: clinical }
    timeout: 10s      # one attempt, all of it
    max_in_flight: 16 # as many as it likes
    retry: { initial: 1s, max: 5m, give_up_after: 72h }
    breaker: { failures: 5, probe_after: 1s, probe_max: 60s }
    give_up_on: [400, 405, 410]
  - name: audit
    http: { url: "http://127.0.0.1:9/audit" }
routes:
  - name: everything
    to: [audit]
  - name: finished
    when: body.status == "success" && has(body._links.structured_data)
    to: [ehr]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn mutated_configs_are_taken_whole_or_change_nothing() {
    let setup = Setup::new(RELOADABLE);
    let text = fs::read_to_string(setup.config()).expect("readable");
    let relay = setup.start();
    let mut chance = fastrand::Rng::with_seed(0x5eed);
    let mut used = read(&setup).expect("valid");
    let (mut taken, mut refused, mut kept_text) = (0, 0, text.clone());
    while taken + refused < MUTATIONS {
        let next = mutated(&text, &mut chance);
        if next == kept_text {
            continue;
        }
        kept_text.clone_from(&next);
        fs::write(setup.config(), next).expect("writable");
        let config = read(&setup);
        relay.signal("HUP");
        match config {
            Ok(config) if restarts_nothing(&used.outline, &config.outline) => {
                taken += 1;
                used = config;
            }
            Ok(_) => refused += 1,
            Err(problems) => {
                refused += 1;
                let first = problems.problems.first().expect("a problem");
                assert!(first.place.line >= 1 && first.place.column >= 1);
            }
        }
        eventually("the version is seen", async || {
            total(&relay).await == (taken, refused)
        })
        .await;
        let in_use = format!(
            "suki_relay_config_info{{sha256=\"{}\"}}",
            hex::encode(used.sha256)
        );
        assert!((relay.metric(&in_use).await - 1.0).abs() < 0.1, "{in_use}");
    }
    let both = taken.min(refused);
    assert!(both >= 20, "{taken} taken, {refused} refused: of no use");
}

fn read(setup: &Setup) -> Result<Config, suki_relay::config::Problems> {
    Config::read(&setup.config(), &|_| None)
}

fn restarts_nothing(used: &Outline, next: &Outline) -> bool {
    used.changes_to(next).restart.is_empty()
}

async fn total(relay: &Relay) -> (usize, usize) {
    let (_, page) = relay.admin("/metrics").await;
    let count = |result: &str| {
        let series = format!("suki_relay_config_reloads_total{{result=\"{result}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&series));
        value.and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
    };
    (count("applied"), count("refused"))
}

/// One or two lines lost, doubled, moved over another, or with another sign in them.
fn mutated(text: &str, chance: &mut fastrand::Rng) -> String {
    const SIGNS: &[char] = &[
        ':', '-', ' ', '\t', '{', '[', '"', '\'', '#', '&', '*', '!', '$', '0', 'x', 'ä', '\0',
    ];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..chance.usize(1..3) {
        let at = chance.usize(..lines.len());
        match chance.u8(..6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => {
                let other = lines[chance.usize(..lines.len())].clone();
                lines[at] = other;
            }
            choice => {
                let mut letters: Vec<char> = lines[at].chars().collect();
                let column = chance.usize(..=letters.len());
                let sign = SIGNS[chance.usize(..SIGNS.len())];
                match choice {
                    3 if column < letters.len() => drop(letters.remove(column)),
                    4 if column < letters.len() => letters[column] = sign,
                    _ => letters.insert(column, sign),
                }
                lines[at] = letters.into_iter().collect();
            }
        }
    }
    lines.join("\n")
}
