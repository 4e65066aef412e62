//! What cannot be seen through the door.

use std::sync::mpsc;
use std::time::Duration;

use prometheus::Registry;

use super::Postgres;
use crate::spool::Metrics;
use crate::spool::tests::{at, server};

#[test]
fn a_panic_of_whoever_works_for_it_ends_the_spool() {
    let server = server::Postgres::start("");
    let metrics = Metrics::new(&Registry::new()).expect("new names");
    let (tell, told) = mpsc::sync_channel(1);
    let on_fatal = move |fatal| drop(tell.send(fatal));
    let postgres = Postgres::open(&at(&server), metrics, on_fatal).expect("opens");
    assert!(postgres.is_open());
    postgres.shared.employ(async { panic!("on purpose") });
    let fatal = told
        .recv_timeout(Duration::from_mins(1))
        .expect("it is told");
    assert_eq!(fatal.cause, "panicked");
    assert!(!postgres.is_open());
}
