//! Reading a body: bounded in bytes, in time, and in what all requests take together (`budget.rs`).
//!
//! Room is made for bytes as they come, not as they are announced, and paid for out of the common budget: a
//! client that announces much and sends little holds little, and all bodies together take no
//! more memory than the budget has. A complete body carries its share along: whoever holds the last of it,
//! the spool's queue at times, gives the share back by letting go.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::Bytes;
use hyper::body::Body;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Limits;
use super::budget::Share;
use super::reply::Rejection;

/// A complete body, and its share of the budget, which goes back when dropped.
struct Paid {
    bytes: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body to its end. Trailers are not looked at.
///
/// # Errors
/// [`Rejection::TooLarge`] past the limit, [`Rejection::Timeout`] if it is not complete in time or broke
/// off, [`Rejection::Unavailable`] if the budget is spent and nobody makes room.
pub async fn read<B>(body: &mut B, limits: &Limits, share: &mut Share) -> Result<Bytes, Rejection>
where
    B: Body<Data = Bytes> + Unpin,
{
    timeout(limits.body_timeout, frames(body, limits.body_bytes, share))
        .await
        .unwrap_or(Err(Rejection::Timeout))
}

async fn frames<B>(body: &mut B, limit_bytes: usize, share: &mut Share) -> Result<Bytes, Rejection>
where
    B: Body<Data = Bytes> + Unpin,
{
    share.settle().await?;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Rejection::Timeout)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit_bytes - bytes.len() {
            return Err(Rejection::TooLarge);
        }
        let needed = bytes.len() + data.len();
        let most = if announced < needed {
            limit_bytes
        } else {
            announced
        };
        let room = room(bytes.capacity(), needed, most);
        share.add(room - bytes.capacity()).await?;
        bytes.reserve_exact(room - bytes.len());
        bytes.extend_from_slice(&data);
    }
    let paid = Paid {
        bytes,
        _share: share.complete(),
    };
    Ok(Bytes::from_owner(paid))
}

/// The room that a body is to have: twice what it had, so that not every frame has those before it copied.
fn room(room: usize, needed: usize, most: usize) -> usize {
    if needed <= room {
        return room;
    }
    needed.max((2 * room).min(most))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::{Frame, SizeHint};

    use super::super::budget::Budget;
    use super::super::tests::clients;
    use super::*;

    async fn share(budget: &Arc<Budget>) -> Share {
        let [client] = clients().await;
        budget.share(&client, 0).expect("nothing is asked")
    }

    async fn read(length: usize, limit: usize, budget: &Arc<Budget>) -> Result<Bytes, Rejection> {
        let mut body = Full::new(Bytes::from(vec![b'x'; length]));
        frames(&mut body, limit, &mut share(budget).await).await
    }

    #[tokio::test]
    async fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let budget = Budget::new(1000);
        let whole = read(100, 100, &budget).await.expect("at the limit");
        assert_eq!(whole.len(), 100);
        let refused = read(101, 100, &budget).await.err();
        assert_eq!(refused, Some(Rejection::TooLarge));
    }

    #[tokio::test]
    async fn a_spent_budget_refuses_until_a_body_is_done_with() {
        let budget = Budget::new(150);
        let first = read(100, 100, &budget).await.expect("fits");
        let refused = read(100, 100, &budget).await.err();
        assert_eq!(refused, Some(Rejection::Unavailable));
        let part = first.slice(..1);
        drop(first);
        let refused = read(100, 100, &budget).await.err();
        assert_eq!(
            refused,
            Some(Rejection::Unavailable),
            "a part is still held"
        );
        drop(part);
        assert!(read(100, 100, &budget).await.is_ok());
    }

    /// A body that says how long it is.
    struct Announced<B>(B, u64);

    impl<B: Body<Data = Bytes> + Unpin> Body for Announced<B> {
        type Data = Bytes;
        type Error = B::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            let mut hint = SizeHint::new();
            hint.set_lower(self.1);
            hint
        }
    }

    fn tens(
        count: usize,
        announced: u64,
    ) -> Announced<impl Body<Data = Bytes, Error = Infallible> + Unpin> {
        let ten = || Ok(Frame::data(Bytes::from_static(b"ten bytes.")));
        let frames = std::iter::repeat_with(ten).take(count);
        Announced(StreamBody::new(stream::iter(frames)), announced)
    }

    #[tokio::test]
    async fn room_is_paid_for_as_it_is_made_and_doubles_no_further_than_announced() {
        // 10, 20, 40, 80, 160 if nobody says where it ends, and there may be so much.
        for (announced, limit, paid) in [(100, 1000, 100), (0, 1000, 160), (0, 120, 120)] {
            for (budget, fits) in [(paid, true), (paid - 1, false)] {
                let budget = Budget::new(budget);
                let mut share = share(&budget).await;
                let read = frames(&mut tens(10, announced), limit, &mut share).await;
                assert_eq!(read.is_ok(), fits, "{announced} announced, {paid} paid");
            }
        }
    }
}
