//! The same of a relay whose spool is in PostgreSQL, with a disk beside it: while the server is there, while it is
//! away, and once it is back.

use std::fs;

use http::Version;

use super::operators::{said, see_as_an_operator_does, see_what_is_left};
use super::{command, it_ends_untold, post_everything, setup, untold};
use crate::harness::{Postgres, Sender, Target, eventually};
use crate::traces::Collector;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_sent_is_in_any_output_of_a_relay_with_a_shared_spool() {
    let mut server = Postgres::start("");
    let target = Target::start(|n| [503, 302, 429, 200][n % 4]).await;
    let (setup, collector) = (setup(&target), Collector::start());
    let url = server
        .url()
        .replace("postgres@", "postgres:canary-password@");
    fs::write(setup.path().join("database"), url).expect("writable");
    setup.reword(
        "{ disk: { path: spool, key_file: keys } }",
        "{ postgres: { url: { file: database }, tls: null, pool: 4, lease: 2s }, \
           disk: { path: spool, key_file: keys, fallback: true } }",
    );
    setup.reword("listen:", "listen:\n  limits: { ack_timeout: 1s }");
    let mut relay = setup.spawn(command(&setup, &collector, "json"));
    let certificate = setup.path().join("tls.crt");
    let speaking = |version| Sender::speaking(version, relay.sender_address, &certificate);
    post_everything(&speaking(Version::HTTP_11)).await;
    eventually("targets were tried", async || target.count() >= 4).await;
    server.kill();
    post_everything(&speaking(Version::HTTP_2)).await;
    relay.log_line("the spool's server does not take what comes: it is kept on the disk beside it");
    server.run();
    relay.log_line("what was kept on the disk is in the shared spool");
    see_as_an_operator_does(&setup, &relay).await;
    it_ends_untold(relay, &setup, &collector).await;
    let config = setup.config();
    let config = ["--config", config.to_str().expect("text")];
    for words in [&["spool", "status", "--audit"][..], &["check", "--connect"]] {
        untold(&said(words, &config));
    }
    untold(&server.log());
    see_what_is_left(&setup);
}
