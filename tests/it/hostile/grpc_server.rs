//! A gRPC server that does to a call what a test tells it to.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};

pub type Fields = Vec<(&'static str, String)>;

/// What it does with a call.
#[derive(Clone)]
pub enum Play {
    /// An answer that is nothing but a head.
    Head(u16, Fields),
    /// A head, these bytes, and these trailers; none if there are none.
    Says(Vec<u8>, Option<Fields>),
    /// A head of these fields, then trailers of those.
    Twice(Fields, Fields),
    Reset(Reason),
    /// A head, then the same.
    ResetLate(Reason),
    /// A head, then `GOAWAY` that does not spare this call.
    GoAway,
    /// A head, then the connection is gone.
    Gone,
    Silence,
}

struct Stage {
    /// The first for so many calls, then the second.
    plays: Mutex<(usize, Play)>,
    calls: Mutex<Vec<Vec<u8>>>,
}

/// A server; ends with the runtime.
pub struct Server {
    pub port: u16,
    stage: Arc<Stage>,
}

pub fn fields(lines: &[(&'static str, &str)]) -> Fields {
    let lines = lines.iter();
    lines
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect()
}

pub fn status(code: &str) -> Fields {
    fields(&[
        ("grpc-status", code),
        ("grpc-message", "canary-message"),
        ("x-canary", "canary"),
    ])
}

fn good() -> Play {
    Play::Says(vec![0; 5], Some(status("0")))
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let stage = Arc::new(Stage {
            plays: Mutex::new((0, good())),
            calls: Mutex::default(),
        });
        let shared = stage.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("set");
                let stage = shared.clone();
                tokio::spawn(async move { stage.converse(stream).await });
            }
        });
        Self { port, stage }
    }

    /// To so many calls; it takes those that come then.
    pub fn plays(&self, play: Play, calls: usize) {
        *self.stage.plays.lock().expect("not poisoned") = (calls, play);
    }

    pub fn is_good(&self) {
        self.plays(good(), 0);
    }

    /// How often it was called with this.
    pub fn times(&self, body: &[u8]) -> usize {
        let calls = self.stage.calls.lock().expect("not poisoned");
        let has = |call: &&Vec<u8>| call.windows(body.len()).any(|part| part == body);
        calls.iter().filter(has).count()
    }
}

impl Stage {
    fn next(&self) -> Play {
        let mut plays = self.plays.lock().expect("not poisoned");
        if plays.0 == 0 {
            return good();
        }
        plays.0 -= 1;
        plays.1.clone()
    }

    async fn converse(self: Arc<Self>, stream: TcpStream) -> Option<()> {
        let mut connection = h2::server::handshake(stream).await.ok()?;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            match self.next() {
                Play::Gone => {
                    let _body = respond.send_response(answer(200, &[]), false).ok()?;
                    return None;
                }
                Play::GoAway => {
                    let _body = respond.send_response(answer(200, &[]), false).ok()?;
                    connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                }
                play => drop(tokio::spawn(self.clone().reply(request, respond, play))),
            }
        }
        None
    }

    async fn reply(
        self: Arc<Self>,
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
        play: Play,
    ) -> Option<()> {
        let mut incoming = request.into_body();
        let mut message = BytesMut::new();
        while let Some(Ok(bytes)) = incoming.data().await {
            let _ = incoming.flow_control().release_capacity(bytes.len());
            message.extend(bytes);
        }
        self.calls
            .lock()
            .expect("not poisoned")
            .push(message.into());
        let head = |fields| answer(200, fields);
        match play {
            Play::Head(status, fields) => {
                respond.send_response(answer(status, &fields), true).ok()?;
            }
            Play::Says(bytes, trailers) => {
                let mut body = respond.send_response(head(&[]), false).ok()?;
                body.send_data(bytes.into(), trailers.is_none()).ok()?;
                let trailers = answer(200, &trailers?).headers().clone();
                body.send_trailers(trailers).ok()?;
            }
            Play::Twice(first, last) => {
                let mut body = respond.send_response(head(&first), false).ok()?;
                body.send_trailers(answer(200, &last).headers().clone())
                    .ok()?;
            }
            Play::Reset(reason) => respond.send_reset(reason),
            Play::ResetLate(reason) => {
                let mut body = respond.send_response(head(&[]), false).ok()?;
                body.send_reset(reason);
            }
            Play::Silence | Play::Gone | Play::GoAway => std::future::pending().await,
        }
        Some(())
    }
}

fn answer(status: u16, fields: &[(&'static str, String)]) -> Response<()> {
    let mut answer = Response::builder()
        .status(status)
        .header("x-canary", "canary");
    for (name, value) in fields {
        answer = answer.header(*name, value);
    }
    answer.body(()).expect("an answer")
}
