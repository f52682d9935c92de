//! What is recorded is part of what was there, in order, and nothing of one connection or one moment.
#![no_main]

use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use onlyonce::codec::StoredResponse;
use onlyonce::policy::Policy;
use onlyonce::replay::{HeaderFilter, replay};

/// Names that mean something, so that they meet; the fuzzer adds its own.
const NAMES: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "content-length",
    "date",
    "age",
    "set-cookie",
    "retry-after",
    "access-control-allow-origin",
    "ratelimit",
    "via",
    "location",
    "link",
    "etag",
    "x-app",
    "idempotent-replayed",
    "idempotency-outcome",
];

const NEVER: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
    "content-length",
    "date",
    "age",
    "idempotency-outcome",
];

/// Whatever the rest of the input: recorded unless dropped or named by `Connection`.
const ALWAYS: &[&str] = &["location", "link", "etag", "x-app"];

#[derive(Arbitrary, Debug)]
enum Name {
    Known(usize),
    Own(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
enum Value {
    /// Makes sense in `Connection`.
    Names(Vec<usize>),
    Own(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Input {
    lines: Vec<(Name, Value)>,
    kept: Vec<Name>,
    dropped: Vec<Name>,
    status: u16,
    body: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let mut headers = HeaderMap::new();
    for (name, value) in &input.lines {
        if let (Some(name), Some(value)) = (name.read(), value.read()) {
            headers.append(name, value);
        }
    }
    let names = |names: &[Name]| names.iter().filter_map(Name::read).collect::<Vec<_>>();
    let (kept, dropped) = (names(&input.kept), names(&input.dropped));
    let filter = HeaderFilter::default()
        .with_kept(kept)
        .with_dropped(dropped.clone());

    let recorded = filter.record(&headers);
    for name in recorded.keys() {
        let lines = |headers: &HeaderMap| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(lines(&recorded), lines(&headers), "lines of {name}");
        assert!(
            !NEVER.contains(&name.as_str()) && !dropped.contains(name),
            "{name}"
        );
        assert!(!ends_here(&headers, name), "{name} is named by Connection");
    }
    for name in ALWAYS {
        let name = HeaderName::from_static(name);
        if headers.contains_key(&name) && !dropped.contains(&name) && !ends_here(&headers, &name) {
            assert!(recorded.contains_key(&name), "{name} is lost");
        }
    }
    assert_eq!(
        filter.record(&recorded),
        recorded,
        "filtering twice changes something"
    );
    replays(&input, recorded);
});

fn replays(input: &Input, headers: HeaderMap) {
    let status = StatusCode::from_u16(100 + input.status % 900).expect("between 100 and 999");
    let body = Some(input.body.clone().into());
    let stored = StoredResponse {
        status,
        headers,
        body,
    };
    let response = replay(stored, &Policy::default()).expect("the body was kept");
    assert_eq!(response.status(), status);
    let length = response
        .headers()
        .get_all("content-length")
        .iter()
        .collect::<Vec<_>>();
    if status.is_informational() || status == 204 || status == 304 {
        assert!(length.is_empty() && response.body().is_empty());
    } else {
        assert_eq!(length, [&input.body.len().to_string()]);
        assert_eq!(response.body(), &input.body);
    }
    let marker = response
        .headers()
        .get_all("idempotent-replayed")
        .iter()
        .collect::<Vec<_>>();
    assert_eq!(marker, ["true"]);
    assert!(!response.headers().contains_key("transfer-encoding"));
}

/// Whether a `Connection` line names the field, read in another way than the filter does.
fn ends_here(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(CONNECTION).iter().any(|line| {
        let line = line.as_bytes().to_ascii_lowercase();
        let mut tokens = line.split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii() == name.as_str().as_bytes())
    })
}

impl Name {
    fn read(&self) -> Option<HeaderName> {
        match self {
            Self::Known(index) => Some(HeaderName::from_static(NAMES[index % NAMES.len()])),
            Self::Own(bytes) => HeaderName::from_bytes(bytes).ok(),
        }
    }
}

impl Value {
    fn read(&self) -> Option<HeaderValue> {
        match self {
            Self::Names(indexes) => {
                let names: Vec<_> = indexes
                    .iter()
                    .map(|index| NAMES[index % NAMES.len()])
                    .collect();
                HeaderValue::from_str(&names.join(" ,\t")).ok()
            }
            Self::Own(bytes) => HeaderValue::from_bytes(bytes).ok(),
        }
    }
}
