//! The bytes of one connection, with the timers that hyper does not have.
//!
//! * HTTP/1: from the first byte of a request to its complete head, `header_timeout`. (hyper's own timer
//!   runs from the end of the last answer: it is the keep-alive timer.)
//! * A client that takes none of what we write for `stall_timeout` is cut off.
//! * After our last byte, what the client still sends is read and thrown away for a moment. Closing a
//!   socket with unread bytes in it sends a reset, and a reset takes an answer away that the client has
//!   not read yet (RFC 9112, 9.6).

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::progress::Progress;

/// How long, and for how many bytes, a client is listened to after our last word: enough for one that
/// writes all of a body twice the default limit before it reads.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;
const SCRATCH_BYTES: usize = 8 * 1024;

pub struct Stream {
    tls: TlsStream<TcpStream>,
    progress: Arc<Progress>,
    head: Option<Head>,
    stall: Timer,
    goodbye: Goodbye,
}

/// The time that one request's head has.
struct Head {
    timer: Timer,
    /// Heads that were complete when it began to come. A request can begin and end between two reads.
    complete_before: u64,
}

enum Goodbye {
    NotYet,
    Lingering { timer: Timer, left_bytes: usize },
    Said,
}

/// A time limit that is switched on and off. The runtime hears of it only when it is waited for: most are
/// off again by then.
struct Timer {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    ends: Option<Instant>,
}

impl Stream {
    /// `header_timeout` is for HTTP/1 alone: other protocols mix heads with much else.
    pub fn new(
        tls: TlsStream<TcpStream>,
        progress: Arc<Progress>,
        header_timeout: Option<Duration>,
        stall_timeout: Duration,
    ) -> Self {
        Self {
            tls,
            progress,
            head: header_timeout.map(|limit| Head {
                timer: Timer::new(limit),
                complete_before: 0,
            }),
            stall: Timer::new(stall_timeout),
            goodbye: Goodbye::NotYet,
        }
    }

    /// Holds a write to the stall timer.
    fn held<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stall.stop();
            return done;
        }
        self.stall.start();
        ready!(self.stall.poll_passed(cx));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }

    /// Reads what the client still sends, undeciphered, until it is done or has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Goodbye::Lingering { timer, left_bytes } = &mut self.goodbye else {
            return Poll::Ready(());
        };
        let (tcp, _) = self.tls.get_mut();
        let mut scratch = [0; SCRATCH_BYTES];
        while timer.poll_passed(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut *tcp).poll_read(cx, &mut buffer));
            let length = buffer.filled().len();
            if read.is_err() || length == 0 || length >= *left_bytes {
                break;
            }
            *left_bytes -= length;
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let Some(head) = &mut me.head else {
            return Pin::new(&mut me.tls).poll_read(cx, buffer);
        };
        let complete = me.progress.begun();
        if complete != head.complete_before {
            head.timer.stop();
        }
        if head.timer.poll_passed(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut me.tls).poll_read(cx, buffer))?;
        if buffer.filled().len() > before && me.progress.is_idle() {
            head.complete_before = complete;
            head.timer.start();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let done = Pin::new(&mut me.tls).poll_write(cx, bytes);
        me.held(cx, done)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let done = Pin::new(&mut me.tls).poll_flush(cx);
        me.held(cx, done)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if let Goodbye::NotYet = me.goodbye {
            let done = Pin::new(&mut me.tls).poll_shutdown(cx);
            ready!(me.held(cx, done))?;
            let mut timer = Timer::new(LINGER);
            timer.start();
            me.goodbye = Goodbye::Lingering {
                timer,
                left_bytes: LINGER_BYTES,
            };
        }
        ready!(me.poll_linger(cx));
        me.goodbye = Goodbye::Said;
        Poll::Ready(Ok(()))
    }
}

impl Timer {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            sleep: None,
            ends: None,
        }
    }

    /// Starts it, unless it runs.
    fn start(&mut self) {
        self.ends.get_or_insert_with(|| Instant::now() + self.limit);
    }

    fn stop(&mut self) {
        self.ends = None;
    }

    /// Pending while there is time left, and for ever if it does not run.
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ends) = self.ends else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(ends)));
        if sleep.deadline() != ends {
            sleep.as_mut().reset(ends);
        }
        sleep.as_mut().poll(cx)
    }
}
