//! Rows J01 to J11: JSON and its shape, all signed well.

use std::collections::BTreeSet;

use super::siege::Siege;
use super::{Row, fresh, hold, whole};

/// A notification with one field more.
fn with(field: &str) -> String {
    let body = fresh();
    format!("{},{field}}}", &body[..body.len() - 1])
}

fn taken(id: &'static str, body: String) -> Row {
    Row::refused(id, whole("", body.as_bytes()), &[200]).owed(body)
}

fn invalid(id: &'static str, body: &[u8]) -> Row {
    Row::refused(id, whole("", body), &[400]).held("invalid")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_json_is_passed_through_and_what_is_not_is_400() {
    let nested = |levels: usize| {
        with(&format!(
            r#""x":{}{}"#,
            "[".repeat(levels),
            "]".repeat(levels)
        ))
    };
    let mut rows = vec![
        taken("J01", nested(126)),
        invalid("J01", nested(128).as_bytes()),
        invalid("J01", nested(100_000).as_bytes()),
        invalid("J01", "[".repeat(1 << 20).as_bytes()),
    ];
    let long = format!("0.{}", "1".repeat(400));
    for number in [
        "9007199254740993",
        "18446744073709551616",
        "-0",
        &long,
        "1e308",
    ] {
        rows.push(taken("J03", with(&format!(r#""x":{number}"#))));
    }
    for number in [
        "01", "+1", ".5", "NaN", "Infinity", "1.", "-", "0x1", "1e400",
    ] {
        rows.push(invalid("J03", with(&format!(r#""x":{number}"#)).as_bytes()));
    }
    let good = fresh();
    for bad in [
        format!("{},}}", &good[..good.len() - 1]),
        format!("{good}// comment"),
        format!("/* comment */{good}"),
        good.replace('"', "'"),
        format!("{good}garbage"),
        format!("{good}{good}"),
        good[..good.len() - 1].to_owned(),
        format!("\u{feff}{good}"),
        with("\"x\":\"a\tb\""),
        with(r#""x":"\ud800""#),
        with(r#""x":"\x41""#),
    ] {
        rows.push(invalid("J05", bad.as_bytes()));
    }
    rows.push(invalid(
        "J05",
        b"{\"status\":\"success\",\"session_id\":\"\xff\"}",
    ));
    hold("", rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_strange_bodies_are_opaque_bytes() {
    let long = "x".repeat(1 << 20);
    let keys = |count: usize, name: fn(usize) -> String| {
        let fields: Vec<String> = (0..count).map(|n| format!("\"{}\":0", name(n))).collect();
        with(&fields.join(","))
    };
    let links: Vec<String> = (0..1000)
        .map(|n| format!(r#""k{n}":[{{"href":"/{n}"}}]"#))
        .collect();
    let rows = vec![
        taken("J07", with(&format!(r#""x":"{long}""#))),
        taken("J07", with(&format!(r#""{long}":0"#))),
        taken("J07", keys(20_000, |n| n.to_string())),
        invalid("J07", keys(100_000, |n| n.to_string()).as_bytes()),
        taken("J07", keys(20_000, |_| "same".into())),
        taken(
            "J07",
            keys(20_000, |n| {
                format!("{n:017b}").replace('0', "Aa").replace('1', "BB")
            }),
        ),
        taken("J07", with(&format!(r#""x":[{}0]"#, "0,".repeat(50_000)))),
        invalid(
            "J07",
            with(&format!(r#""x":[{}0]"#, "0,".repeat(1 << 20))).as_bytes(),
        ),
        invalid(
            "J07",
            with(&format!(r#""x":[{}0]"#, "{\"a\":0},".repeat(100_000))).as_bytes(),
        ),
        taken(
            "J09",
            with(r#""__proto__":{"x":1},"unknown":[{"deep":null}]"#),
        ),
        taken("J09", with(&format!(r#""_links":{{{}}}"#, links.join(",")))),
        taken("J09", with(r#""_links":{"status":{"href":"/one"}}"#)),
        taken(
            "J11",
            with("\"encounter_id\":\"\u{202e}\u{0430}dmin e\u{301}\u{e9}\""),
        ),
        taken(
            "J11",
            with(&format!(r#""encounter_id":"{}""#, "i".repeat(10 * 1024))),
        ),
    ];
    hold("", rows).await;
}

/// Were one of these fetched, the relay would connect to the port that is watched here.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_never_followed() {
    let watched = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let own = watched.local_addr().expect("an address");
    let rows = [
        format!("http://{own}/x"),
        format!("//{own}/x"),
        "file:///etc/passwd".to_owned(),
        "http://169.254.169.254/latest".to_owned(),
        r"/x\r\nhost: evil".to_owned(),
    ]
    .map(|href| {
        taken(
            "J10",
            with(&format!(r#""_links":{{"contents":[{{"href":"{href}"}}]}}"#)),
        )
    });
    hold("", rows.into()).await;
    // Everything was delivered by now: nobody can still be on the way.
    watched
        .into_std()
        .expect("a listener")
        .accept()
        .expect_err("nobody came");
}

/// Each as the value of a field: what is JSON stays JSON, and what is none stays none.
#[tokio::test(flavor = "multi_thread")]
async fn the_cases_of_the_json_test_suite_are_told_apart() {
    let cases = include_str!("json-cases.txt");
    let cases = cases.lines().filter(|line| !line.starts_with('#'));
    let typed = cases.map(|case| {
        let (name, value) = case.split_once('\t').expect("a name and its bytes");
        (name, unescaped(value))
    });
    let made = [
        ("n_structure_100000_opening_arrays", "[".repeat(100_000)),
        (
            "n_structure_open_array_object",
            "[{\"\":".repeat(50_000) + "\n",
        ),
    ];
    let made = made.map(|(name, value)| (name, value.into_bytes()));
    let mut siege = Siege::begin("").await;
    let sender = siege.relay.sender();
    let (mut owed, mut wrong, mut count) = (BTreeSet::new(), Vec::new(), 0);
    for (name, value) in typed.chain(made) {
        let open = fresh();
        let open = format!("{},\"x\":", &open[..open.len() - 1]);
        let body = [open.as_bytes(), &value, b"}"].concat();
        let status = sender.post(body.clone()).await.map(|answer| answer.status);
        match (&name[..2], status) {
            ("y_" | "i_", Some(200)) => {
                owed.insert(body);
            }
            ("n_" | "i_", Some(400)) => siege.holds(&["invalid"]),
            _ => wrong.push(format!("{name}: {status:?}")),
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(count, 318, "95 that are, 188 that are not, 35 that may be");
    siege.lift(owed).await;
}

/// `\xNN` is a byte, and `\\` one backslash.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend(before.bytes());
        rest = if let Some(hex) = after.strip_prefix('x') {
            bytes.push(u8::from_str_radix(&hex[..2], 16).expect("two digits"));
            &hex[2..]
        } else {
            bytes.push(b'\\');
            after.strip_prefix('\\').expect("another one")
        };
    }
    bytes.extend(rest.bytes());
    bytes
}
