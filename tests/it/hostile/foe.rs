//! A target that answers byte by byte as a test tells it to, and does not close of itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

/// What it does from now on.
#[derive(Clone)]
pub enum Play {
    /// Reads a request, says this, and reads the next one on the same connection.
    Says(Vec<u8>),
    /// Says this, and closes.
    Closes(Vec<u8>),
    /// As the first, after this time.
    Late(Duration, Vec<u8>),
    /// Reads a request, says the first, and then the second again and again, with a pause after each.
    Repeats(Vec<u8>, Vec<u8>, Duration),
    /// Takes connections and reads nothing.
    Deaf,
}

/// One request as it came.
#[derive(Clone)]
pub struct Heard {
    /// Its line and its fields.
    pub head: String,
    pub body: Vec<u8>,
    /// How many it had not answered yet when this came, with this.
    pub at_once: usize,
}

/// Ends with the runtime.
pub struct Foe {
    pub address: SocketAddr,
    stage: Arc<Stage>,
}

struct Stage {
    play: watch::Sender<Play>,
    heard: Mutex<Vec<Heard>>,
    open: AtomicUsize,
    in_hand: AtomicUsize,
    said: AtomicUsize,
}

/// So much of what nobody reads is taken off the sender.
const UNREAD_BYTES: u32 = 64 << 10;

impl Play {
    /// An answer of this status line and these fields, each with its end, and this body.
    pub fn answer(status: &str, fields: &str, body: &str) -> Self {
        Self::Says(format!("HTTP/1.1 {status}\r\n{CANARIES}{fields}\r\n{body}").into())
    }

    /// Takes the notification, and ends the connection.
    pub fn good() -> Self {
        let text = "HTTP/1.1 200 canary-ok\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        Self::Closes(text.into())
    }
}

/// What no answer may have told anybody.
pub const CANARIES: &str = "x-canary: canary-value\r\nset-cookie: canary=cookie\r\n";

impl Foe {
    pub fn start() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(UNREAD_BYTES).expect("set");
        socket
            .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .expect("a port");
        Self::at(socket.listen(1024).expect("listens"))
    }

    pub fn at(listener: TcpListener) -> Self {
        let stage = Arc::new(Stage {
            play: watch::Sender::new(Play::good()),
            heard: Mutex::default(),
            open: AtomicUsize::new(0),
            in_hand: AtomicUsize::new(0),
            said: AtomicUsize::new(0),
        });
        let (address, shared) = (listener.local_addr().expect("an address"), stage.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stage = shared.clone();
                stage.open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let _ = stage.converse(stream).await;
                    stage.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, stage }
    }

    pub fn url(&self) -> String {
        format!("http://{}/in?canary-query", self.address)
    }

    /// Connections that are under way go on as they began.
    pub fn plays(&self, play: Play) {
        self.stage.play.send_replace(play);
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.stage.heard.lock().expect("not poisoned").clone()
    }

    /// How many requests it has read.
    pub fn count(&self) -> usize {
        self.stage.heard.lock().expect("not poisoned").len()
    }

    /// How often it was sent this.
    pub fn times(&self, body: &[u8]) -> usize {
        let heard = self.stage.heard.lock().expect("not poisoned");
        heard.iter().filter(|heard| heard.body == body).count()
    }

    /// Connections that nobody has ended.
    pub fn open(&self) -> usize {
        self.stage.open.load(Ordering::SeqCst)
    }

    /// Bytes that it could say so far, over all connections.
    pub fn said(&self) -> usize {
        self.stage.said.load(Ordering::SeqCst)
    }
}

impl Stage {
    async fn converse(&self, mut stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        loop {
            let mut plays = self.play.subscribe();
            if matches!(*plays.borrow_and_update(), Play::Deaf) {
                // Only its peer can end it, whatever is played meanwhile.
                plays.changed().await.ok()?;
                return read_to_the_end(&mut stream).await;
            }
            let mut heard = read_request(&mut stream).await?;
            heard.at_once = self.in_hand.fetch_add(1, Ordering::SeqCst) + 1;
            self.heard.lock().expect("not poisoned").push(heard);
            let play = self.play.borrow().clone();
            if let Play::Late(wait, _) = play {
                tokio::time::sleep(wait).await;
            }
            self.in_hand.fetch_sub(1, Ordering::SeqCst);
            match play {
                Play::Says(bytes) | Play::Late(_, bytes) => self.say(&mut stream, &bytes).await?,
                Play::Closes(bytes) => {
                    self.say(&mut stream, &bytes).await?;
                    return stream.shutdown().await.ok();
                }
                Play::Repeats(first, again, pause) => {
                    self.say(&mut stream, &first).await?;
                    let (mut read, mut write) = stream.split();
                    let speaking = async {
                        while self.say(&mut write, &again).await.is_some() {
                            tokio::time::sleep(pause).await;
                        }
                    };
                    tokio::select! {
                        () = speaking => {}
                        _ = read_to_the_end(&mut read) => {}
                    }
                    return Some(());
                }
                Play::Deaf => return read_to_the_end(&mut stream).await,
            }
        }
    }

    async fn say(&self, to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> Option<()> {
        to.write_all(bytes).await.ok()?;
        self.said.fetch_add(bytes.len(), Ordering::SeqCst);
        Some(())
    }
}

async fn read_to_the_end(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<()> {
    while stream.read(&mut [0; 4096]).await.ok()? > 0 {}
    Some(())
}

/// `None` if there is no other one on this connection.
async fn read_request(stream: &mut TcpStream) -> Option<Heard> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).expect("text");
    let mut lines = head.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.expect("a length").parse().expect("a number");
    let read = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[read..]).await.ok()?;
    Some(Heard {
        head,
        body,
        at_once: 0,
    })
}
