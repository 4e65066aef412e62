//! A running relay whose config is written over again and again, and others that are to start with the same.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::harness::{Relay, Setup, Target, Watch, as_anybody, assert_untold, eventually};

const SUCCESSFUL: &str = "suki_relay_config_last_reload_successful";

pub struct Trial {
    pub setup: Setup,
    pub relay: Relay,
    pub watch: Watch,
    variables: &'static [(&'static str, &'static str)],
    /// All that was posted.
    pub owed: BTreeSet<Vec<u8>>,
}

impl Trial {
    /// With these in its environment, and without the rights of root.
    pub async fn begin(setup: Setup, variables: &'static [(&'static str, &'static str)]) -> Self {
        let command = command(&setup, variables);
        let relay = setup.start_by(command);
        let mut trial = Self {
            watch: Watch::begin(&relay),
            setup,
            relay,
            variables,
            owed: BTreeSet::new(),
        };
        // What is done the first time: a version refused, and one taken.
        let good = trial.text();
        trial.write("listen: 1");
        assert!(trial.refusal().await.is_some());
        trial.write(format!("{good}\n# again\n"));
        assert_eq!(trial.refusal().await, None);
        trial.goes_on("its start").await;
        trial.watch = Watch::begin(&trial.relay);
        trial
    }

    /// What the config file holds.
    pub fn text(&self) -> String {
        fs::read_to_string(self.setup.config()).expect("readable")
    }

    pub fn write(&self, text: impl AsRef<[u8]>) {
        fs::write(self.setup.config(), text).expect("writable");
    }

    /// What is wrong with the files as they are now, by the running relay, once it has looked at them.
    pub async fn refusal(&self) -> Option<String> {
        let (status, answer) = self.relay.operator("POST", "/v1/reload", "").await;
        assert_eq!(status, 200, "{answer}");
        let problems = answer["problems"].as_str().map(str::to_owned);
        assert_eq!(problems.is_some(), answer["result"] == "refused");
        problems
    }

    /// The running relay tells what is wrong with the files, all of `words` among it, and uses what it used. Gives back
    /// what it said.
    pub async fn keeps_the_old(&mut self, row: &str, words: &[&str]) -> String {
        let (_, before) = self.relay.operator("GET", "/v1/config", "").await;
        let problems = self.refusal().await;
        let problems = problems.unwrap_or_else(|| panic!("{row}: it is taken"));
        for words in words {
            assert!(problems.contains(words), "{row}: {words}: {problems}");
        }
        let (_, shown) = self.relay.operator("GET", "/v1/config", "").await;
        assert_eq!(shown["refused"], problems, "{row}");
        for key in ["sha256", "in_use_since", "config"] {
            assert_eq!(shown[key], before[key], "{row}: {key} of the old one");
        }
        let successful = self.relay.metric(SUCCESSFUL).await;
        assert!(successful < 0.5, "{row}: {successful}");
        eventually(&format!("{row}: it is logged"), async || {
            let log = self.relay.log();
            log.iter().any(|line| line["problems"] == problems)
        })
        .await;
        self.goes_on(row).await;
        problems
    }

    /// The same, with the place in the file; and a relay that starts ends, and tells the same.
    pub async fn refuses(&mut self, row: &str, words: &[&str]) -> String {
        let problems = self.keeps_the_old(row, words).await;
        assert!(self.is_placed(&problems), "{row}: {problems}");
        let started = command(&self.setup, self.variables).output();
        let started = started.expect("it runs");
        let told = String::from_utf8_lossy(&started.stderr);
        assert_eq!(started.status.code(), Some(78), "{row}: {told}");
        for words in words {
            assert!(told.contains(words), "{row}: {words}: {told}");
        }
        assert_untold(told.lines());
        assert_untold(String::from_utf8_lossy(&started.stdout).lines());
        problems
    }

    /// The running relay uses the files as they are now.
    pub async fn takes(&mut self, row: &str) {
        assert_eq!(self.refusal().await, None, "{row}");
        let successful = self.relay.metric(SUCCESSFUL).await;
        assert!(successful > 0.5, "{row}: {successful}");
        self.goes_on(row).await;
    }

    pub async fn goes_on(&mut self, after: &str) {
        let posted = self.watch.goes_on(&self.relay, after).await;
        self.owed.insert(posted);
    }

    /// It has warned of this.
    pub async fn has_warned(&self, row: &str, words: &str) {
        eventually(&format!("{row}: warned of `{words}`"), async || {
            let log = self.relay.log();
            log.iter().any(|line| {
                let message = line["message"].as_str().unwrap_or_default();
                line["level"] == "WARN" && message.contains(words)
            })
        })
        .await;
    }

    /// The target, to which each version in use led, has all that was posted, and each once.
    pub async fn end(self, target: &Target) -> Relay {
        eventually("all that was posted arrives", async || {
            target.count() >= self.owed.len()
        })
        .await;
        let taken: BTreeSet<_> = target.taken();
        assert_eq!(
            (taken.len(), target.count()),
            (self.owed.len(), taken.len())
        );
        assert!(taken == self.owed, "others than those that were posted");
        self.relay
    }

    /// Each begins with the file, and has a line and a column.
    fn is_placed(&self, problems: &str) -> bool {
        let Some(place) = problems.strip_prefix(self.setup.config().to_str().expect("text")) else {
            return false;
        };
        let mut numbers = place.split(':').skip(1).take(2);
        numbers.all(|number| number.parse::<usize>().is_ok_and(|number| number > 0))
    }
}

/// All goes to this target; there is another that no route leads to.
pub fn to(target: &Target) -> String {
    format!(
        "
targets:
  - {{ name: ehr, http: {{ url: \"{}?canary-query\" }} }}
  - {{ name: unused, http: {{ url: \"http://127.0.0.1:9/\" }} }}
routes:
  - {{ name: all, to: [ehr] }}
",
        target.url()
    )
}

fn command(setup: &Setup, variables: &[(&str, &str)]) -> Command {
    let relay = setup.command();
    let mut command = as_anybody(relay.get_program());
    command
        .args(relay.get_args())
        .args(["--log-level", "trace"]);
    command
        .envs(variables.iter().copied())
        .current_dir(setup.path());
    command
}
