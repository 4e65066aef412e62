//! A server that moves is found again; one that asks for a certificate is shown the one that is there now.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::{TcpListener, TcpStream};

use super::{Server, attempts, delivered, post, target};
use crate::harness::{Authority, Relay, Setup, eventually};

/// The old server does not refuse: its machine is gone, and nothing answers for it.
#[tokio::test]
async fn a_server_that_moved_to_another_address_of_its_name_is_found_again() {
    let old = Server::answers(&["127.0.0.2:0"]);
    let url = format!("url: 'http://sink.internal:{}'", old.port);
    let setup = Setup::new(&target(&url, ", timeout: 300ms, max_in_flight: 1"));
    let hosts = setup.path().join("hosts");
    fs::write(&hosts, "127.0.0.2 sink.internal\n").expect("writable");
    let relay = setup.start_with_hosts(&hosts);
    post(&relay, "first", "{}").await;
    assert_eq!(old.line(), "first attempt=1");
    delivered(&relay, 1).await;

    old.signal("STOP");
    let new = Server::answers(&[&format!("127.0.0.3:{}", old.port)]);
    fs::write(&hosts, "127.0.0.3 sink.internal\n").expect("writable");
    post(&relay, "second", "{}").await;
    let line = new.line();
    assert!(line.starts_with("second attempt="), "{line}");
    delivered(&relay, 2).await;
    assert!(attempts(&relay, "timeout").await >= 1.0);
}

/// As behind a Kubernetes Service, whose address stays while what is behind it moves to another port.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_moved_to_another_port_behind_its_address_is_found_again() {
    let old = Server::answers(&["127.0.0.1:0"]);
    let port = Arc::new(AtomicU16::new(old.port));
    let front = forward(port.clone()).await;
    let url = format!("url: 'http://{front}'");
    let setup = Setup::new(&target(&url, ""));
    let relay = setup.start();
    post(&relay, "first", "{}").await;
    assert_eq!(old.line(), "first attempt=1");

    let new = Server::answers(&["127.0.0.1:0"]);
    port.store(new.port, Ordering::Relaxed);
    drop(old);
    post(&relay, "second", "{}").await;
    let line = new.line();
    assert!(line.starts_with("second attempt="), "{line}");
    delivered(&relay, 2).await;
}

/// Each of many targets chooses an address of its own: that all choose one has no chance.
#[tokio::test]
async fn of_two_servers_behind_one_name_both_receive() {
    let first = Server::answers(&["127.0.0.2:0"]);
    let second = Server::answers(&[&format!("127.0.0.3:{}", first.port)]);
    let url = format!("http://sink.internal:{}", first.port);
    let names: Vec<String> = (0..40).map(|n| format!("audit-{n}")).collect();
    let targets = names
        .iter()
        .map(|name| format!("  - {{ name: {name}, grpc: {{ url: '{url}' }} }}\n"));
    let targets: String = targets.collect();
    let to = names.join(", ");
    let setup = Setup::new(&format!(
        "\ntargets:\n{targets}routes: [{{ name: all, to: [{to}] }}]\n"
    ));
    let hosts = setup.path().join("hosts");
    fs::write(&hosts, "127.0.0.2 sink.internal\n127.0.0.3 sink.internal\n").expect("writable");
    let relay = setup.start_with_hosts(&hosts);
    post(&relay, "s", "{}").await;
    assert_eq!(first.line(), "s attempt=1");
    assert_eq!(second.line(), "s attempt=1");
}

#[tokio::test]
async fn a_server_is_trusted_by_the_roots_of_the_system_if_none_are_given() {
    let authority = Authority::new();
    let setup = Setup::new("");
    let at = |name: &str| setup.path().join(name).display().to_string();
    fs::write(at("ca.crt"), authority.pem()).expect("writable");
    authority.issue(setup.path(), "server", 2099);
    let server = Server::answers(&["localhost:0", &at("server.crt"), &at("server.key")]);
    let url = format!("url: 'https://localhost:{}'", server.port);
    setup.write_config(&target(&url, ""));
    let mut command = setup.command();
    command.env("SSL_CERT_FILE", at("ca.crt"));
    let relay = setup.spawn(command);
    post(&relay, "s", "{}").await;
    delivered(&relay, 1).await;
    drop(relay);

    let relay = setup.start();
    post(&relay, "unknown", "{}").await;
    eventually("it is not trusted", async || {
        attempts(&relay, "tls").await > 0.5
    })
    .await;
}

/// New connections go to the port that is there then.
async fn forward(port: Arc<AtomicU16>) -> SocketAddr {
    let front = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = front.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = front.accept().await {
            let behind = (Ipv4Addr::LOCALHOST, port.load(Ordering::Relaxed));
            tokio::spawn(async move {
                let mut server = TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut server).await
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_gets_the_one_that_is_there_now() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let setup = Setup::new("");
    let at = |name: &str| setup.path().join(name).display().to_string();
    fs::write(at("ca.crt"), authority.pem()).expect("writable");
    authority.issue(setup.path(), "server", 2099);
    let files = ["server.crt", "server.key", "ca.crt"].map(at);
    let arguments = ["localhost:0", &files[0], &files[1], &files[2]];
    let server = Server::answers(&arguments);
    let tls = "tls: { ca: ca.crt, certificate: client.crt, private_key: client.key }";
    let url = format!("url: 'https://localhost:{}', {tls}", server.port);
    setup.write_config(&target(&url, ", breaker: { failures: 1000 }"));

    stranger.issue(setup.path(), "client", 2099);
    let relay = setup.start();
    post(&relay, "s", "{}").await;
    another_refusal(&relay).await;
    authority.issue(setup.path(), "client", 2020);
    applied(&relay, 1).await;
    another_refusal(&relay).await;
    assert!(attempts(&relay, "delivered").await < 0.1);

    authority.issue(setup.path(), "client", 2099);
    let line = server.line();
    assert!(line.starts_with("s attempt="), "{line}");
    delivered(&relay, 1).await;
}

/// The refusal comes once the connection is up (TLS 1.3), and may be read as no more than its end.
async fn refusals(relay: &Relay) -> f64 {
    attempts(relay, "tls").await + attempts(relay, "broken").await
}

async fn another_refusal(relay: &Relay) {
    let before = refusals(relay).await;
    eventually("it is refused", async || refusals(relay).await > before).await;
}

async fn applied(relay: &Relay, count: usize) {
    let series = "suki_relay_config_reloads_total{result=\"applied\"}";
    eventually("the new files are in use", async || {
        relay.metric(series).await >= count as f64
    })
    .await;
}
