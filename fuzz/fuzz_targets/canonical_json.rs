//! Equal values have equal digests, and equal digests mean equal values.
//!
//! Two texts come from each input: another spelling of the same value, and the same text with one byte
//! changed. The oracle is `serde_json`, which shares no code with the digest but for escapes in strings.
#![no_main]

use std::fmt;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use onlyonce::fingerprint::json::digest;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Arbitrary, Debug)]
struct Input {
    index: usize,
    byte: u8,
    text: Text,
}

/// Bytes alone hardly ever become an object of two members.
#[derive(Arbitrary, Debug)]
enum Text {
    Bytes(Vec<u8>),
    Tree(Tree),
}

#[derive(Arbitrary, Debug)]
enum Tree {
    Null,
    Bool(bool),
    Integer(i128),
    Decimal(i16, u8, i8),
    String(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
    Bytes(Vec<u8>),
}

fuzz_target!(|input: Input| {
    let text = match input.text {
        Text::Bytes(bytes) => bytes,
        Text::Tree(tree) => {
            let mut text = Vec::new();
            tree.write(&mut text);
            text
        }
    };
    let Some(expected) = digest(&text) else {
        return;
    };
    let raw: &RawValue = serde_json::from_slice(&text).expect("what has a digest is JSON");
    let other = respell(raw);
    assert_eq!(
        digest(other.as_bytes()),
        Some(expected),
        "spelled otherwise: {other}"
    );

    let mut changed = text.clone();
    let index = input.index % changed.len();
    changed[index] = input.byte;
    if digest(&changed) == Some(expected)
        && let (Ok(a), Ok(b)) = (value(&text), value(&changed))
    {
        assert!(equal(&a, &b), "{a} and {b} have one digest");
    }
});

impl Tree {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend(b"null"),
            Self::Bool(value) => out.extend(value.to_string().bytes()),
            Self::Integer(value) => out.extend(value.to_string().bytes()),
            Self::Decimal(integer, fraction, exponent) => {
                out.extend(format!("{integer}.{fraction}e{exponent}").bytes());
            }
            Self::String(text) => write_string(text, out),
            Self::Array(elements) => write_list([b'[', b']'], elements, out, Self::write),
            Self::Object(members) => {
                write_list([b'{', b'}'], members, out, |(name, value), out| {
                    write_string(name, out);
                    out.push(b':');
                    value.write(out);
                });
            }
            Self::Bytes(bytes) => out.extend(bytes),
        }
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string is JSON");
}

fn write_list<T>(
    [open, close]: [u8; 2],
    list: &[T],
    out: &mut Vec<u8>,
    write: impl Fn(&T, &mut Vec<u8>),
) {
    out.push(open);
    for (index, element) in list.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(element, out);
    }
    out.push(close);
}

fn value(text: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(text)
}

/// Equality by value. Numbers as doubles: equal decimals are equal doubles, whatever their spelling.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(name, a)| b.get(name).is_some_and(|b| equal(a, b));
            a.len() == b.len() && a.iter().all(same)
        }
        (a, b) => a == b,
    }
}

/// The same value with members reversed, strings escaped, white space added and numbers made longer.
fn respell(raw: &RawValue) -> String {
    let text = raw.get();
    match text.as_bytes()[0] {
        b'{' => {
            let Members(mut members) = serde_json::from_str(text).expect("an object");
            members.reverse();
            let members: Vec<_> = members
                .iter()
                .map(|(name, value)| format!("\t{}\n:{}", escape(name), respell(value)))
                .collect();
            format!(" {{{}\r\n}}", members.join(" ,"))
        }
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).expect("an array");
            let elements: Vec<_> = elements.into_iter().map(respell).collect();
            format!("[ {} ]", elements.join("\n,"))
        }
        b'"' => escape(&serde_json::from_str::<String>(text).expect("a string")),
        b'-' | b'0'..=b'9' => lengthen(text),
        _ => format!(" {text} "),
    }
}

fn escape(text: &str) -> String {
    let units: String = text
        .encode_utf16()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect();
    format!("\"{units}\"")
}

fn lengthen(number: &str) -> String {
    let (mantissa, exponent) = match number.find(['e', 'E']) {
        Some(at) => number.split_at(at),
        None => (number, ""),
    };
    let zeros = if mantissa.contains('.') { "00" } else { ".00" };
    format!("{mantissa}{zeros}{exponent}")
}

/// An object's members in order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
