//! Every response survives, everything else is an error: no panic, no second meaning.
#![no_main]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use onlyonce::codec::StoredResponse;

#[derive(Arbitrary, Debug)]
struct Input {
    status: u16,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Option<Vec<u8>>,
    /// Bodies that are worth compressing have to be longer than what a fuzzer likes to make.
    times: u8,
    cut: usize,
    junk: Vec<u8>,
}

fuzz_target!(|input: Input| {
    decodes_or_fails(&input.junk);
    decodes_or_fails(&[b"onr\x01\x01", &*input.junk].concat());
    decodes_or_fails(&[b"onr\x01\x00\x00\xc8", &*input.junk].concat());
    decodes_or_fails(
        &[
            b"onr\x01\x02\x00\xc8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
            &*input.junk,
        ]
        .concat(),
    );

    let response = response(&input);
    let encoded = response.encode();
    assert_eq!(
        StoredResponse::decode(encoded.clone()).as_ref(),
        Ok(&response)
    );
    let cut = input.cut % encoded.len();
    assert!(
        StoredResponse::decode(encoded.slice(..cut)).is_err(),
        "cut at {cut}"
    );
    if !input.junk.is_empty() {
        let longer = [&*encoded, &*input.junk].concat();
        assert!(
            StoredResponse::decode(longer.into()).is_err(),
            "bytes after the end"
        );
    }
});

fn response(input: &Input) -> StoredResponse {
    let mut headers = HeaderMap::new();
    for (name, value) in &input.headers {
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    StoredResponse {
        status: StatusCode::from_u16(100 + input.status % 900).expect("between 100 and 999"),
        headers,
        body: input
            .body
            .as_ref()
            .map(|body| body.repeat(usize::from(input.times).max(1)).into()),
    }
}

/// Bytes that decode mean the same when they are written again: lines of one name may have moved together,
/// and what was compressed otherwise, or not at all, may be longer or shorter.
fn decodes_or_fails(bytes: &[u8]) {
    if let Ok(response) = StoredResponse::decode(Bytes::copy_from_slice(bytes)) {
        let again = response.encode();
        let plain = |record: &[u8]| record[4] < 2;
        if plain(bytes) && plain(&again) {
            assert_eq!(again.len(), bytes.len());
        }
        assert_eq!(StoredResponse::decode(again), Ok(response));
    }
}
