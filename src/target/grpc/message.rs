//! The request message of `suki.relay.v1.NotificationSink/Deliver`.
//!
//! Written by hand after `proto/suki/relay/v1/notification_sink.proto`, so that no build needs `protoc`;
//! a test holds one against the other.

use bytes::Bytes;
use prost::Message;
use prost_reflect::prost_types::Timestamp;

use crate::target::Parcel;

/// Where it is sent to.
pub const DELIVER: &str = "/suki.relay.v1.NotificationSink/Deliver";

/// One notification; the proto file says what each field means.
#[derive(Clone, PartialEq, Message)]
pub struct DeliverRequest {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub source: String,
    #[prost(message, optional, tag = "3")]
    pub received_at: Option<Timestamp>,
    #[prost(string, tag = "4")]
    pub generated_at: String,
    #[prost(string, tag = "5")]
    pub signature: String,
    #[prost(string, tag = "6")]
    pub content_type: String,
    #[prost(bytes = "bytes", tag = "7")]
    pub body: Bytes,
    #[prost(uint32, tag = "8")]
    pub attempt: u32,
}

impl From<Parcel<'_>> for DeliverRequest {
    fn from(parcel: Parcel<'_>) -> Self {
        let record = parcel.record;
        let millis = record.received_at.as_millis();
        // Below a thousand million: it fits.
        let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or_default();
        Self {
            id: record.id.to_string(),
            source: record.source.to_string(),
            received_at: Some(Timestamp {
                seconds: millis.div_euclid(1000),
                nanos,
            }),
            generated_at: record.generated_at.clone(),
            signature: record.signature.clone(),
            content_type: record.content_type.clone().unwrap_or_default(),
            body: record.body.clone(),
            attempt: parcel.attempt,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DescriptorPool, DynamicMessage, Value};

    use super::*;
    use crate::clock;
    use crate::dispatch::tests::due;
    use crate::trace::Tracer;

    #[test]
    fn the_message_is_the_one_of_the_proto_file() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
        let files = protox::compile(["suki/relay/v1/notification_sink.proto"], [root]).unwrap();
        let pool = DescriptorPool::from_file_descriptor_set(files).unwrap();
        let (service, method) = DELIVER[1..].split_once('/').unwrap();
        let service = pool.get_service_by_name(service).unwrap();
        let method = service.methods().find(|m| m.name() == method).unwrap();
        assert!(!method.is_client_streaming() && !method.is_server_streaming());

        let record = due(7, clock::Timestamp::from_millis(1_765_977_748_432)).record;
        let parcel = Parcel {
            record: &record,
            attempt: 3,
            replay: false,
            span: Tracer::default().attempt(record.id.as_bytes()),
        };
        let bytes = DeliverRequest::from(parcel).encode_to_vec();
        let read = DynamicMessage::decode(method.input(), bytes.as_slice()).unwrap();
        assert_eq!(read.unknown_fields().count(), 0);
        let text = |name: &str| match read.get_field_by_name(name).unwrap().as_ref() {
            Value::String(text) => text.clone(),
            Value::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Value::U32(number) => number.to_string(),
            Value::Message(time) => format!(
                "{:?}.{:?}",
                time.get_field_by_name("seconds").unwrap().as_i64().unwrap(),
                time.get_field_by_name("nanos").unwrap().as_i32().unwrap()
            ),
            other => panic!("{name}: {other:?}"),
        };
        let body = String::from_utf8(record.body.to_vec()).unwrap();
        let expected = [
            ("id", "00000000000000000000000000000007"),
            ("source", "suki"),
            ("received_at", "1765977748.432000000"),
            ("generated_at", "1765977748432"),
            ("signature", &"ab".repeat(32)),
            ("content_type", "application/json"),
            ("body", &body),
            ("attempt", "3"),
        ];
        assert_eq!(method.input().fields().count(), expected.len());
        for (name, value) in expected {
            assert_eq!(text(name), value, "{name}");
        }
    }
}
