//! A way to a server that can be led elsewhere, closed, or made to swallow what goes through.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    To(u16),
    /// As a partition: nothing arrives, and nobody is told.
    Nowhere,
}

/// Ends with the runtime.
pub struct Passage {
    pub address: SocketAddr,
    way: watch::Sender<Way>,
}

impl Passage {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let way = watch::Sender::new(Way::To(port));
        let leads = way.subscribe();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(lead(stream, leads.clone()));
            }
        });
        Self { address, way }
    }

    /// Connections end; those to nowhere only when it leads somewhere again.
    pub fn lead(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn lead(mut stream: TcpStream, mut way: watch::Receiver<Way>) {
    let mut led = *way.borrow_and_update();
    // Both ends stay as they are while it leads nowhere.
    let mut server = None;
    if let Way::To(port) = led {
        let Ok(connected) = TcpStream::connect(("127.0.0.1", port)).await else {
            return;
        };
        let through = copy_bidirectional(&mut stream, server.insert(connected));
        tokio::select! {
            _ = through => return,
            _ = way.changed() => led = *way.borrow_and_update(),
        }
    }
    while led == Way::Nowhere && way.changed().await.is_ok() {
        led = *way.borrow_and_update();
    }
}
