use super::*;

const ID: Id = *b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10";
const THEIRS: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |&(name, value): &(&'static str, &str)| {
        let value = value.parse().expect("a value");
        (http::HeaderName::from_static(name), value)
    };
    fields.iter().map(pair).collect()
}

#[test]
fn a_target_is_told_the_notifications_trace_and_a_span_of_its_own() {
    let tracer = Tracer::default();
    let [first, second] = [(); 2].map(|()| tracer.attempt(&ID).traceparent(&ID));
    for header in [&first, &second] {
        let (before, rest) = header.split_at("00-0102030405060708090a0b0c0d0e0f10-".len());
        assert_eq!(before, "00-0102030405060708090a0b0c0d0e0f10-");
        assert!(rest.len() == 19 && rest.ends_with("-01"), "{header}");
    }
    assert_ne!(first, second);
}

#[test]
fn the_receipts_span_follows_from_the_id() {
    assert_eq!(receipt(&ID).to_string(), "090a0b0c0d0e0f10");
}

#[test]
fn without_a_collector_nothing_is_kept_of_a_receipt() {
    let tracer = Tracer::default();
    assert!(tracer.moment().is_none());
    let name = Name::new("suki").expect("a name");
    let about = About {
        notification: &ID,
        source: &name,
        body_bytes: 1,
        deliveries: 1,
    };
    let begun = Some(Instant::now());
    assert!(tracer.committing(begun, &headers(&[]), &about).is_none());
}

#[test]
fn of_what_a_sender_says_of_its_trace_the_ids_are_read_and_no_text() {
    let state = ("tracestate", "vendor=Jane-Doe");
    let theirs = senders(&headers(&[("traceparent", THEIRS), state])).expect("a context");
    assert_eq!(
        theirs.trace_id().to_string(),
        "0af7651916cd43dd8448eb211c80319c"
    );
    assert_eq!(theirs.span_id().to_string(), "b7ad6b7169203331");
    assert_eq!(theirs.trace_state().header(), "");
}

#[test]
fn what_is_no_context_or_two_is_none() {
    let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
    let refused: [&[(&str, &str)]; 5] = [
        &[],
        &[("traceparent", "")],
        &[("traceparent", "Jane Doe")],
        &[("traceparent", zero)],
        &[("traceparent", THEIRS), ("traceparent", THEIRS)],
    ];
    for fields in refused {
        assert!(senders(&headers(fields)).is_none(), "{fields:?}");
    }
}
