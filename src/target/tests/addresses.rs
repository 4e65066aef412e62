//! Where a target may be: what is never connected to, by HTTP and by gRPC, and its own list.

use super::*;
use crate::target::address::Allowed;
use crate::target::address::tests::{FORBIDDEN, FORBIDDEN_HOSTS};

/// By both protocols.
fn targets(options: impl Fn() -> Options) -> [Target; 2] {
    let http = Target::http(name("ehr"), policy(), options()).unwrap();
    let grpc = Target::grpc(name("audit"), policy(), &options(), None).unwrap();
    [http, grpc]
}

fn host(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

#[tokio::test]
async fn no_spelling_of_a_forbidden_address_is_connected_to() {
    let hosts = FORBIDDEN.iter().chain(FORBIDDEN_HOSTS);
    let mut tried = 0;
    for host in hosts.map(|address| host(address)) {
        for target in targets(|| Options::of(&format!("http://{host}:80"))) {
            assert_eq!(
                attempt(&target).await,
                retry(Reason::Forbidden),
                "{host} by {target:?}"
            );
            tried += 1;
        }
    }
    assert!(tried > 80, "only {tried}");
}

/// `localhost` comes by the resolver, `127.0.0.1` does not.
#[tokio::test]
async fn a_target_off_its_list_is_not_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let options = || {
            let mut options = Options::of(&format!("http://{host}:{port}"));
            options.allowed = Allowed::new(vec!["127.0.0.2/31".parse().unwrap()]);
            options
        };
        for target in targets(options) {
            let outcome = attempt(&target).await;
            assert_eq!(outcome, retry(Reason::Forbidden), "{host} by {target:?}");
        }
    }
    let accepted = tokio::select! {
        biased;
        accepted = listener.accept() => Some(accepted),
        () = std::future::ready(()) => None,
    };
    assert!(accepted.is_none(), "nobody came");
}

#[tokio::test]
async fn a_target_on_its_list_is_reached() {
    let (url, _requests, _) = serve(vec![Reply::Answer(OK)]).await;
    for url in [url.clone(), url.replace("127.0.0.1", "localhost")] {
        let mut options = Options::of(&url);
        options.allowed = Allowed::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let target = Target::http(name("ehr"), policy(), options).unwrap();
        assert_eq!(attempt(&target).await, Outcome::Delivered, "{url}");
    }
}
