//! Row Q12: the system has no descriptors to give.

use std::collections::BTreeSet;
use std::process::Command;

use tokio::net::TcpStream;

use super::fresh;
use super::siege::Siege;

/// Sets how many descriptors a running relay may have.
fn allow(siege: &Siege, descriptors: usize) {
    let pid = siege.relay.pid().to_string();
    let limit = format!("--nofile={descriptors}:");
    let set = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    assert!(set.expect("prlimit runs").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_descriptors_those_who_are_in_are_served_and_newcomers_wait() {
    const FEW: usize = 3;
    let mut siege = Siege::begin("").await;
    let inside = siege.relay.sender();
    let mut owed = BTreeSet::new();
    let mut post = async |what: &str| {
        let body = fresh();
        let answer = inside.post(body.clone()).await.expect("an answer");
        assert_eq!(answer.status, 200, "Q12: {what}");
        owed.insert(body.into_bytes());
    };
    post("before").await;
    let most = siege.relay.descriptors() + FEW;
    allow(&siege, most);
    let mut crowd = Vec::new();
    for _ in 0..FEW + 20 {
        crowd.push(TcpStream::connect(siege.relay.sender_address).await);
    }
    siege
        .relay
        .log_line("cannot accept connections; trying again");
    for _ in 0..20 {
        post("meanwhile").await;
    }
    drop(crowd);
    allow(&siege, 1024);
    siege.goes_on("Q12").await;
    siege.lift(owed).await;
}
