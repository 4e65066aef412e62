//! Row Q04: the disk is taken away, in whole or in part, under a running relay or before one starts; and
//! writes that fail (Q03).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{all_arrive, body, delivered, none_starts, post, spool_of, to, told_missing};
use crate::harness::{
    Faults, Relay, Setup, SmallDisk, Target, Watch, as_anybody, assert_untold, eventually,
};

/// How each write of the spool's files fails from here on.
const FAILING: [(&str, &str); 3] = [
    ("Q03: an I/O error", "EIO"),
    ("Q04: a file system that turns read-only", "EROFS"),
    ("Q04: a file that turns immutable", "EPERM"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_ends_the_relay_and_no_200_is_false() {
    for (row, error) in FAILING {
        let target = Target::broken().await;
        let setup = Setup::new(&to(&target));
        let mut relay = setup.start_at("trace");
        let owed = post(&relay, 0, row).await;
        let failing = Faults::of_writes(&relay, &spool_of(&setup), error).await;
        let answer = relay.sender().post(body(1)).await;
        assert!(answer.is_none_or(|answer| answer.status == 500), "{row}");
        assert_eq!(relay.ended().await.code(), Some(74), "{row}");
        failing.end();
        assert_untold(relay.written().concat());
        target.mend();
        let relay = setup.start_at("trace");
        all_arrive(&target, &[owed], row).await;
        assert!(!delivered(&target).contains(body(1).as_bytes()), "{row}");
        relay.is_well(row).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_read_only_disk_none_starts_in_silence() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let disk = SmallDisk::at(&spool_of(&setup), "16m");
    assert!(setup.start_on(&disk).terminate().await.success());
    disk.remount("ro");
    let why = "Read-only file system";
    none_starts(&disk.enter(&setup.command()), why, "Q04: read-only");
    disk.remount("rw");
    setup
        .start_on(&disk)
        .is_well("Q04: a read-only disk is mended")
        .await;
}

/// The command of a relay to which the system denies what it denies any user.
fn denied(setup: &Setup) -> Command {
    let relay = setup.command();
    let mut command = as_anybody(relay.get_program().to_str().expect("text"));
    command.args(relay.get_args()).current_dir(setup.path());
    command
}

fn start_denied(setup: &Setup) -> Relay {
    let mut command = denied(setup);
    command.args(["--log-level", "trace"]);
    setup.start_by(command)
}

/// `chmod` of the folder: what is open stays open.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_may_not_be_entered_goes_on_until_the_relay_ends_and_none_starts_on_it() {
    let target = Target::accepting().await;
    let setup = Setup::new(&to(&target));
    let mode = |bits| {
        let mode = fs::Permissions::from_mode(bits);
        fs::set_permissions(spool_of(&setup), mode).expect("it is ours");
    };
    let relay = start_denied(&setup);
    post(&relay, 0, "Q04: EACCES").await;
    let mut watch = Watch::begin(&relay);
    mode(0o000);
    let owed = watch.goes_on(&relay, "Q04: EACCES").await;
    all_arrive(&target, &[owed], "Q04: EACCES").await;
    relay.kill();
    none_starts(&denied(&setup), "Permission denied", "Q04: EACCES");
    mode(0o700);
    let relay = start_denied(&setup);
    relay.is_well("Q04: EACCES is mended").await;
}

/// Whether the file system has the bit, and lets us set it.
fn immutable(sign: char, file: &Path) -> bool {
    let mut chattr = Command::new("chattr");
    let done = chattr.arg(format!("{sign}i")).arg(file).output();
    done.is_ok_and(|done| done.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_immutable_file_none_starts_in_silence() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start_at("trace");
    let owed = post(&relay, 0, "Q04: immutable").await;
    relay.kill();
    let file = spool_of(&setup).join("spool.db");
    if !immutable('+', &file) {
        eprintln!(
            "not tested: `chattr +i` does not hold here: its file system has no such bit, or this is not root"
        );
        return;
    }
    none_starts(&setup.command(), "spool", "Q04: immutable");
    assert!(immutable('-', &file));
    target.mend();
    let relay = setup.start_at("trace");
    all_arrive(&target, &[owed], "Q04: immutable").await;
    relay.is_well("Q04: an immutable file is mended").await;
}

/// What is taken away by another, and brought back.
const TAKEN: [(&str, &str); 3] = [
    ("Q04: the database is moved", "spool.db"),
    ("Q04: its log is moved", "spool.db-wal"),
    ("Q04: the folder is moved", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_taken_away_refuse_what_is_new_and_deliver_what_is_owed() {
    let target = Target::broken().await;
    let setup = Setup::new(&to(&target));
    let relay = setup.start_at("trace");
    post(&relay, 100, "Q04").await;
    let mut watch = Watch::begin(&relay);
    for (n, (row, file)) in TAKEN.into_iter().enumerate() {
        target.unmend();
        let owed = post(&relay, n, row).await;
        let place = spool_of(&setup).join(file);
        let place = Path::new(place.to_str().expect("text").trim_end_matches('/'));
        let aside = setup.path().join("aside");
        fs::rename(place, &aside).expect("moved");
        eventually(&format!("{row}: it is told"), async || {
            told_missing(&relay) == n + 1
        })
        .await;
        let refused = relay.sender().post(body(1000)).await.expect("an answer");
        assert_eq!(refused.status, 500, "{row}");
        target.mend();
        all_arrive(&target, &[owed], row).await;
        fs::rename(&aside, place).expect("moved back");
        eventually(&format!("{row}: it accepts again"), async || {
            let back = "the spool's files are back in their place";
            let lines = relay.log();
            lines.iter().filter(|line| line["message"] == back).count() == n + 1
        })
        .await;
        let body = watch.goes_on(&relay, row).await;
        all_arrive(&target, &[body], row).await;
    }
    let refused = body(1000).into_bytes();
    assert!(!delivered(&target).contains(&refused), "Q04");

    // Away for good: what is owed is delivered all the same, and the next one begins anew.
    target.unmend();
    let owed = post(&relay, 200, "Q04: removed").await;
    fs::remove_dir_all(spool_of(&setup)).expect("removed");
    eventually("Q04: it is told", async || told_missing(&relay) == 4).await;
    target.mend();
    all_arrive(&target, &[owed], "Q04: removed").await;
    relay.kill();
    setup.start_at("trace").is_well("Q04: removed").await;
}
