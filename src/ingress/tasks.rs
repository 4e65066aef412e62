//! Who carries on the requests of an HTTP/2 connection: a task for each, unless it is answered at once.
//!
//! A task holds some kilobytes, and a thousand connections can bring a hundred thousand requests to be refused in one
//! moment. So each is tried before it gets one: what is refused unread never has a task. What is let in waits for its
//! task with all that is still to do.

use std::future::Future;
use std::task::{Context, Waker};

use hyper::rt::Executor;

#[derive(Clone, Copy)]
pub struct Tasks;

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut future = Box::pin(future);
        // Nobody is woken: the task's first turn asks again.
        let mut context = Context::from_waker(Waker::noop());
        if future.as_mut().poll(&mut context).is_pending() {
            tokio::spawn(future);
        }
    }
}
