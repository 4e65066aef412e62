//! A gRPC target of suki-relay in Rust.
//!
//!     cargo run -- 127.0.0.1:50051

use std::collections::HashMap;
use std::error::Error;
use std::sync::Mutex;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use sink::notification_sink_server::{NotificationSink, NotificationSinkServer};
use sink::{DeliverRequest, DeliverResponse};

/// What `build.rs` makes of the proto file.
mod sink {
    tonic::include_proto!("suki.relay.v1");
}

/// By default no message above 4 MiB is taken; the relay's `limits.body` is 8 MiB.
const MESSAGE_BYTES_MAX: usize = 9 << 20;

/// Bodies by id. A real service has a database in its place.
#[derive(Default)]
struct Kept(Mutex<HashMap<String, Vec<u8>>>);

#[tonic::async_trait]
impl NotificationSink for Kept {
    async fn deliver(
        &self,
        request: Request<DeliverRequest>,
    ) -> Result<Response<DeliverResponse>, Status> {
        let notification = request.into_inner();
        let mut kept = self
            .0
            .lock()
            .map_err(|_| Status::internal("a defect of ours"))?;
        // The same notification may come again, with the same id.
        if kept.contains_key(&notification.id) {
            return Err(Status::already_exists("kept before"));
        }
        let (id, source, bytes) = (
            &notification.id,
            &notification.source,
            notification.body.len(),
        );
        println!("kept {id} from {source}: {bytes} bytes");
        // A real service commits here, and answers only then.
        kept.insert(notification.id, notification.body);
        Ok(Response::new(DeliverResponse {}))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:50051")).await?;
    println!("listening on {}", listener.local_addr()?);
    let sink = NotificationSinkServer::new(Kept::default());
    Server::builder()
        .add_service(sink.max_decoding_message_size(MESSAGE_BYTES_MAX))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}
