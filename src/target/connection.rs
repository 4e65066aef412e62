//! A connection that remembers whether it was answered on.
//!
//! An idle connection may have been closed by its peer without our knowing. A request that dies on a
//! connection that has served before, and before any of its answer came, says nothing of the target: it
//! is worth one immediate second try. One that dies on a new connection is a failure.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::Extensions;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::connect::{self, Connected};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// A connection to a target.
pub struct Connection {
    stream: Stream,
    served: Served,
}

/// Whether a connection has served a request; shared by all who hold the connection.
#[derive(Clone, Default)]
pub struct Served(Arc<AtomicBool>);

impl Connection {
    pub fn new(stream: Stream) -> Self {
        Self {
            stream,
            served: Served::default(),
        }
    }
}

impl Served {
    /// Notes that an answer came on the connection that left this in an answer's extensions.
    pub fn note(extensions: &Extensions) {
        if let Some(Self(served)) = extensions.get() {
            served.store(true, Ordering::Relaxed);
        }
    }

    /// Whether an answer had come on this connection before.
    pub fn before(connection: &Connected) -> bool {
        let mut extensions = Extensions::new();
        connection.get_extras(&mut extensions);
        let served: Option<&Self> = extensions.get();
        served.is_some_and(|Self(served)| served.load(Ordering::Relaxed))
    }
}

impl connect::Connection for Connection {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.served.clone())
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }
}

#[cfg(test)]
impl Connection {
    /// Of one without TLS.
    pub fn tcp(&self) -> &TcpStream {
        match &self.stream {
            MaybeHttpsStream::Http(stream) => stream.inner(),
            MaybeHttpsStream::Https(_) => panic!("it speaks TLS"),
        }
    }
}
