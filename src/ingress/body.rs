//! Reading a body: bounded in bytes, in time, and in what all bodies take together.
//!
//! Bytes are paid for out of the common [`Budget`] as they come, not as they are announced: a client
//! that announces much and sends little holds little.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Limits;
use super::reply::Rejection;

/// Bytes set aside at once for a body whose length is announced.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

/// Bytes that all bodies in flight may hold together.
pub struct Budget(Arc<Semaphore>);

/// A body's share of the budget; goes back when dropped.
pub type Permit = Option<OwnedSemaphorePermit>;

/// A complete body.
pub struct Whole {
    pub bytes: Bytes,
    pub permit: Permit,
}

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))))
    }

    fn add(&self, permit: &mut Permit, bytes: usize) -> Result<(), Rejection> {
        let bytes = u32::try_from(bytes).map_err(|_| Rejection::Unavailable)?;
        let more = Arc::clone(&self.0)
            .try_acquire_many_owned(bytes)
            .map_err(|_| Rejection::Unavailable)?;
        match permit {
            Some(permit) => permit.merge(more),
            None => *permit = Some(more),
        }
        Ok(())
    }
}

/// Reads a body to its end. Trailers are not looked at.
///
/// # Errors
/// [`Rejection::TooLarge`] past the limit, [`Rejection::Timeout`] if it is not complete in time or broke
/// off, [`Rejection::Unavailable`] if the budget is spent.
pub async fn read<B>(body: &mut B, limits: &Limits, budget: &Budget) -> Result<Whole, Rejection>
where
    B: Body<Data = Bytes> + Unpin,
{
    timeout(limits.body_timeout, frames(body, limits.body_bytes, budget))
        .await
        .unwrap_or(Err(Rejection::Timeout))
}

async fn frames<B>(body: &mut B, limit_bytes: usize, budget: &Budget) -> Result<Whole, Rejection>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::with_capacity(announced.min(AHEAD_BYTES_MAX));
    let mut permit = None;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Rejection::Timeout)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.len() > limit_bytes - bytes.len() {
            return Err(Rejection::TooLarge);
        }
        budget.add(&mut permit, data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(Whole {
        bytes: bytes.freeze(),
        permit,
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn read(length: usize, limit: usize, budget: &Budget) -> Result<Whole, Rejection> {
        let mut body = Full::new(Bytes::from(vec![b'x'; length]));
        frames(&mut body, limit, budget).await
    }

    #[tokio::test]
    async fn the_limit_itself_is_allowed_and_one_more_is_not() {
        let budget = Budget::new(1000);
        let whole = read(100, 100, &budget).await.expect("at the limit");
        assert_eq!(whole.bytes.len(), 100);
        let refused = read(101, 100, &budget).await.err();
        assert_eq!(refused, Some(Rejection::TooLarge));
    }

    #[tokio::test]
    async fn a_spent_budget_refuses_until_a_body_is_done_with() {
        let budget = Budget::new(150);
        let first = read(100, 100, &budget).await.expect("fits");
        let refused = read(100, 100, &budget).await.err();
        assert_eq!(refused, Some(Rejection::Unavailable));
        drop(first);
        assert!(read(100, 100, &budget).await.is_ok());
    }
}
