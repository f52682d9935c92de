use bytes::BytesMut;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use proptest::prelude::*;

use super::*;

fn example() -> StoredResponse {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("location", &b"/charges/1"[..]),
        ("link", b"<a>"),
        ("x-binary", b"\xff\xfe\t"),
        ("link", b"<b>"),
        ("x-empty", b""),
    ] {
        headers.append(name, HeaderValue::from_bytes(value).unwrap());
    }
    StoredResponse {
        status: StatusCode::CREATED,
        headers,
        body: Some(Bytes::from_static(b"\0body\xff\0")),
    }
}

fn decode(bytes: &[u8]) -> Result<StoredResponse, DecodeError> {
    StoredResponse::decode(Bytes::copy_from_slice(bytes))
}

#[test]
fn p14_p15_bytes_order_and_emptiness_survive() {
    for body in [example().body, Some(Bytes::new()), None] {
        let response = StoredResponse { body, ..example() };
        let encoded = response.encode();
        let body = response.body.as_ref().map_or(0, Bytes::len);
        assert_eq!(encoded.len(), response.head_len() + body);
        let decoded = StoredResponse::decode(encoded).unwrap();
        assert_eq!(decoded, response);
        let links: Vec<_> = decoded.headers.get_all("link").iter().collect();
        assert_eq!(links, ["<a>", "<b>"]);
    }
}

#[test]
fn any_number_of_lines_is_written() {
    let mut headers = HeaderMap::new();
    for _ in 0..=u16::MAX {
        headers.append("link", HeaderValue::from_static("<a>"));
    }
    let response = StoredResponse {
        headers,
        ..example()
    };
    assert_eq!(StoredResponse::decode(response.encode()), Ok(response));
}

#[test]
fn the_layout_is_the_documented_one() {
    let mut headers = HeaderMap::new();
    headers.insert("etag", HeaderValue::from_static("x"));
    let response = StoredResponse {
        status: StatusCode::OK,
        headers,
        body: Some(Bytes::from_static(b"hi")),
    };
    let expected = b"onr\x01\x01\x00\xc8\x00\x00\x00\x01\x00\x04etag\x00\x00\x00\x01x\
        \x00\x00\x00\x00\x00\x00\x00\x02hi";
    assert_eq!(&response.encode()[..], expected);
}

#[test]
fn the_body_is_not_copied() {
    let encoded = example().encode();
    let range = encoded.as_ptr_range();
    let body = StoredResponse::decode(encoded).unwrap().body.unwrap();
    assert!(range.contains(&body.as_ptr()));
}

#[test]
fn every_cut_and_every_addition_is_an_error() {
    for body in [example().body, None] {
        let encoded = StoredResponse { body, ..example() }.encode();
        for end in 0..encoded.len() {
            let expected = if end < 3 {
                DecodeError::Magic
            } else {
                DecodeError::Truncated
            };
            assert_eq!(decode(&encoded[..end]), Err(expected), "{end}");
        }
        let longer = [&encoded, &b"x"[..]].concat();
        assert_eq!(decode(&longer), Err(DecodeError::Trailing));
    }
}

#[test]
fn what_a_newer_version_wrote_is_refused() {
    let encoded = example().encode().to_vec();
    for (index, value, error) in [
        (0, b'x', DecodeError::Magic),
        (3, 2, DecodeError::Version(2)),
        (4, 3, DecodeError::BodyForm(3)),
        (5, 0xff, DecodeError::Status),
    ] {
        let mut changed = encoded.clone();
        changed[index] = value;
        assert_eq!(decode(&changed), Err(error));
    }
}

#[test]
fn s10_headers_that_could_split_a_response_are_refused() {
    let head = b"onr\x01\x00\x00\xc8\x00\x00\x00\x01";
    for (name, value) in [
        (&b"x"[..], &b"a\r\nb: c"[..]),
        (b"x", b"\0"),
        (b"x y", b"a"),
        (b"X", b"a"),
        (b"", b"a"),
        (b"x:", b"a"),
    ] {
        let mut bytes = BytesMut::from(&head[..]);
        bytes.put_u16(name.len().try_into().unwrap());
        bytes.put_slice(name);
        bytes.put_u32(value.len().try_into().unwrap());
        bytes.put_slice(value);
        assert_eq!(
            decode(&bytes),
            Err(DecodeError::Header),
            "{name:?} {value:?}"
        );
    }
}

#[test]
fn lengths_beyond_the_input_allocate_nothing() {
    for bytes in [
        &b"onr\x01\x01\x00\xc8\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        b"onr\x01\x00\x00\xc8\xff\xff\xff\xff",
        b"onr\x01\x00\x00\xc8\x00\x00\x00\x01\x00\x01x\xff\xff\xff\xff",
    ] {
        assert_eq!(decode(bytes), Err(DecodeError::Truncated));
    }
}

#[test]
fn nothing_personal_is_printed() {
    let text = format!("{:?}", example());
    assert!(
        !text.contains("/charges/1") && !text.contains("body\\"),
        "{text}"
    );
}

/// Text as APIs send it: it can be compressed, and not to nothing.
fn text(len: usize) -> Bytes {
    let mut text = String::new();
    for number in 0_u64.. {
        if text.len() >= len {
            break;
        }
        let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        text += &format!("{{\"id\":\"ch_{noise:016x}\",\"status\":\"succeeded\"}},");
    }
    text.truncate(len);
    text.into()
}

fn noise(len: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(byte).take(len).collect()
}

fn with_body(lines: &[(HeaderName, &'static str)], body: Bytes) -> StoredResponse {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name, HeaderValue::from_static(value));
    }
    StoredResponse {
        status: StatusCode::OK,
        headers,
        body: Some(body),
    }
}

/// Where the frame begins in a record without headers.
const FRAME_AT: usize = 11 + 8;

fn form(encoded: &Bytes) -> u8 {
    encoded[4]
}

#[test]
fn what_shrinks_is_compressed_and_comes_back_byte_for_byte() {
    for len in [1024, 4096, 128 << 10, 1 << 20] {
        let response = with_body(&[], text(len));
        let encoded = response.encode();
        assert_eq!(form(&encoded), BODY_ZSTD);
        assert!(
            encoded.len() < len * 3 / 4,
            "{len} became {}",
            encoded.len()
        );
        assert_eq!(StoredResponse::decode(encoded), Ok(response), "{len}");
    }
}

#[test]
fn what_would_not_shrink_or_hardly_is_left_as_it_is() {
    let mut seven_eighths = noise(16 << 10).to_vec();
    seven_eighths.extend(vec![b'-'; 2 << 10]);
    for body in [
        text(1023),
        noise(1024),
        noise(1 << 20),
        seven_eighths.into(),
    ] {
        let response = with_body(&[], body);
        let encoded = response.encode();
        assert_eq!(form(&encoded), BODY_PLAIN);
        assert_eq!(StoredResponse::decode(encoded), Ok(response));
    }
}

#[test]
fn what_is_encoded_already_is_not_tried_again() {
    for (name, value, expected) in [
        (CONTENT_ENCODING, "gzip", BODY_PLAIN),
        (CONTENT_ENCODING, "identity, br", BODY_PLAIN),
        (CONTENT_ENCODING, "x-unheard-of", BODY_PLAIN),
        (CONTENT_ENCODING, "Identity", BODY_ZSTD),
        (CONTENT_TYPE, "image/png", BODY_PLAIN),
        (CONTENT_TYPE, "Video/MP4; codecs=x", BODY_PLAIN),
        (CONTENT_TYPE, "image/svg+xml; charset=utf-8", BODY_ZSTD),
        (CONTENT_TYPE, "application/json", BODY_ZSTD),
    ] {
        let response = with_body(&[(name, value)], text(4096));
        let encoded = response.encode();
        assert_eq!(form(&encoded), expected, "{value}");
        assert_eq!(StoredResponse::decode(encoded), Ok(response));
    }
}

#[test]
fn a_record_holds_no_more_memory_than_its_length() {
    let encoded = with_body(&[], text(64 << 10)).encode();
    let length = encoded.len();
    let vec = Vec::from(encoded);
    assert_eq!(vec.capacity(), length);
}

#[test]
fn what_earlier_versions_wrote_is_read() {
    // Before bodies were compressed, large ones were written as they are.
    let body = text(4096);
    let mut plain = BytesMut::from(&b"onr\x01\x01\x00\xc8\x00\x00\x00\x00"[..]);
    plain.put_u64(4096);
    plain.put_slice(&body);
    assert_eq!(decode(&plain), Ok(with_body(&[], body)));
    // A frame of zstd 1.5.7: later ones must read it too.
    let compressed = b"onr\x01\x02\x00\xc8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x28\xb5\x2f\xfd\x04\x00\x4d\x00\x00\x10\x61\x61\x01\x00\xfb\x2b\x80\x05\x09\x98\x6b\x45";
    assert_eq!(
        decode(compressed),
        Ok(with_body(&[], vec![b'a'; 1024].into()))
    );
}

#[test]
fn a_damaged_frame_never_becomes_another_body_and_does_no_lasting_harm() {
    let response = with_body(&[], text(2048));
    let encoded = response.encode();
    for at in FRAME_AT..encoded.len() {
        for bit in 0..8 {
            let mut damaged = encoded.to_vec();
            damaged[at] ^= 1 << bit;
            // Some bits of a frame's head mean nothing.
            if let Ok(decoded) = decode(&damaged) {
                assert_eq!(decoded, response, "byte {at}, bit {bit}");
            }
        }
        assert_eq!(decode(&encoded[..at]), Err(DecodeError::Body), "{at}");
    }
    assert_eq!(StoredResponse::decode(encoded), Ok(response));
}

#[test]
fn no_record_can_make_the_decoder_write_more_than_it_says_or_than_the_format_allows() {
    let encoded = with_body(&[], vec![0; 32 << 20].into()).encode();
    assert!(encoded.len() < 8 << 10, "{}", encoded.len());
    for length in [
        0,
        1,
        (32 << 20) - 1,
        (32 << 20) + 1,
        64 << 20,
        (64 << 20) + 1,
        u64::MAX,
    ] {
        let mut lying = encoded.to_vec();
        lying[FRAME_AT - 8..FRAME_AT].copy_from_slice(&u64::to_be_bytes(length));
        assert_eq!(decode(&lying), Err(DecodeError::Body), "{length}");
    }
    // More is not compressed, however well it would go.
    let large = with_body(&[], vec![0; (64 << 20) + 1].into());
    assert_eq!(form(&large.encode()), BODY_PLAIN);
}

#[test]
fn nothing_may_follow_the_frame() {
    let encoded = with_body(&[], text(2048)).encode();
    let skippable = b"\x50\x2a\x4d\x18\x00\x00\x00\x00";
    for tail in [&b"x"[..], &encoded[FRAME_AT..], skippable] {
        let longer = [&encoded, tail].concat();
        assert_eq!(decode(&longer), Err(DecodeError::Trailing));
    }
}

fn any_body() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        any::<Vec<u8>>().prop_map(Bytes::from),
        (0_usize..8192).prop_map(text),
        proptest::collection::vec(0_u8..4, 0..8192).prop_map(Bytes::from),
        proptest::collection::vec(any::<u8>(), 1000..4096).prop_map(Bytes::from),
    ]
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let line = ("[a-z][a-z0-9-]{0,8}", "[\t -~\u{80}-\u{ff}]{0,20}");
    proptest::collection::vec(line, 0..8).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    })
}

proptest! {
    #[test]
    fn any_response_survives(
        status in 100_u16..1000,
        headers in any_headers(),
        body in proptest::option::of(any_body()),
    ) {
        let response = StoredResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body,
        };
        prop_assert_eq!(StoredResponse::decode(response.encode()), Ok(response));
    }

    #[test]
    fn any_damage_is_an_error_or_another_response(index: prop::sample::Index, value: u8) {
        let mut bytes = example().encode().to_vec();
        let index = index.index(bytes.len());
        prop_assume!(bytes[index] != value);
        bytes[index] = value;
        prop_assert_ne!(decode(&bytes), Ok(example()));
    }
    #[test]
    fn no_frame_makes_the_decoder_panic(length in 0_u64..(1 << 17), frame: Vec<u8>, magic: bool) {
        let mut bytes = BytesMut::from(&b"onr\x01\x02\x00\xc8\x00\x00\x00\x00"[..]);
        bytes.put_u64(length);
        if magic {
            bytes.put_slice(b"\x28\xb5\x2f\xfd");
        }
        bytes.put_slice(&frame);
        let _ = decode(&bytes);
    }
}
