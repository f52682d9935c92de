//! Any header value is a key or an error, and a key has one meaning however it is spelled.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use onlyonce::key::{IdempotencyKey, KeyError, KeySyntax};

const NAME: HeaderName = HeaderName::from_static("idempotency-key");
const BYTES_MAX: usize = 64;

fuzz_target!(|value: &[u8]| {
    let lenient = KeySyntax::lenient().with_bytes_max(BYTES_MAX);
    let strict = KeySyntax::strict().with_bytes_max(BYTES_MAX);
    let parsed = IdempotencyKey::parse(value, &lenient);

    if let Ok(key) = IdempotencyKey::parse(value, &strict) {
        assert_eq!(parsed.as_ref(), Ok(&key), "strict keys are lenient keys");
    }
    let padded = [b" \t", value, b"\t "].concat();
    assert_eq!(
        IdempotencyKey::parse(&padded, &lenient),
        parsed,
        "white space around it counts"
    );

    if let Ok(value) = HeaderValue::from_bytes(value) {
        let mut headers = HeaderMap::from_iter([(NAME, value.clone())]);
        let found = IdempotencyKey::from_headers(&headers, &NAME, &lenient);
        assert_eq!(found, parsed.clone().map(Some));
        headers.append(NAME, value);
        let twice = IdempotencyKey::from_headers(&headers, &NAME, &lenient);
        assert_eq!(twice, Err(KeyError::Repeated));
    }

    let Ok(key) = parsed else { return };
    let text = key.as_str();
    assert!((1..=BYTES_MAX).contains(&text.len()));
    assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    assert!(!text.trim().is_empty());

    let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    assert_eq!(
        IdempotencyKey::parse(quoted.as_bytes(), &strict).as_ref(),
        Ok(&key)
    );
    let value = value.trim_ascii();
    if !value.starts_with(b"\"") {
        assert_eq!(text.as_bytes(), value, "a raw key is its own text");
        assert!(
            !text.contains([' ', ',', ';', '"', '\\']),
            "a list or a parameter is no key"
        );
    }
});
