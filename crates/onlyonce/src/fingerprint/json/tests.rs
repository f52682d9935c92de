use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn of(text: &str) -> Option<[u8; 32]> {
    digest(text.as_bytes())
}

#[test]
fn m12_equal_values() {
    for (a, b) in [
        ("1", " 1.0\r\n"),
        ("[]", "\t[ ]"),
        ("{}", "{ }"),
        (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#),
        (
            r#"{"a":{"x":[1,{}],"y":null},"b":true}"#,
            r#"{"b":true,"a":{"y":null,"x":[1e0,{}]}}"#,
        ),
        (r#""\u0041\/\n\ud83d\ude00""#, "\"A/\\u000a😀\""),
        (r#"{"\u0061":1}"#, r#"{"a":1}"#),
    ] {
        assert!(of(a).is_some(), "{a}");
        assert_eq!(of(a), of(b), "{a}");
    }
}

#[test]
fn m12_m13_different_values() {
    let all = [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "10",
        "0.1",
        "11",
        "1e400",
        "1e401",
        "\"\"",
        "\"1\"",
        "\"null\"",
        "[]",
        "[[]]",
        "[[],[]]",
        "[[[]]]",
        "{}",
        "[{}]",
        "[1]",
        "[1,1]",
        "[11]",
        "[1,2]",
        "[2,1]",
        "[null]",
        "[\"\",\"\"]",
        "[\"a\",\"b\"]",
        "[\"ab\"]",
        "[\"a\\\",\\\"b\"]",
        r#"{"a":1}"#,
        r#"{"a":null}"#,
        r#"{"a":"1"}"#,
        r#"{"b":1}"#,
        r#"{"a":1,"b":1}"#,
        r#"{"a":{"b":1}}"#,
        r#"{"a":{},"b":1}"#,
        r#"{"A":1}"#,
        r#"{"":1}"#,
        r#"[["a",1]]"#,
        "9007199254740992",
        "9007199254740993",
        "0.1000000000000000055",
        "\"é\"",
        "\"e\u{301}\"",
    ];
    for (i, a) in all.iter().enumerate() {
        for (j, b) in all.iter().enumerate() {
            assert!(of(a).is_some(), "{a}");
            assert_eq!(of(a) == of(b), i == j, "{a} {b}");
        }
    }
}

#[test]
fn m13_texts_without_one_value() {
    for text in [
        "",
        " ",
        "nul",
        "nulll",
        "True",
        "1 2",
        "[",
        "[1",
        "[1,]",
        "[,1]",
        "[1 2]",
        "]",
        "{",
        "{}}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{,}",
        "{a:1}",
        "{1:1}",
        "'a'",
        "\"a",
        "\"\\x\"",
        "\"\\",
        "\"\\u12\"",
        "\"a\nb\"",
        "\"\u{0}\"",
        "// c\n1",
        "\u{feff}1",
        "-0",
        "[-0.0]",
        "01",
        "1e999999999999999999999",
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"[{"b":{"a":1,"c":2,"a":3}}]"#,
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#"{"\ud800":1}"#,
        "\u{a0}1",
        "\u{b}1",
    ] {
        assert_eq!(of(text), None, "{text:?}");
    }
    assert_eq!(digest(b"\"\xff\""), None);
    assert_eq!(digest(b"\"\xed\xa0\x80\""), None, "a surrogate in UTF-8");
}

#[test]
fn nesting_is_bounded() {
    let arrays = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    for nest in [&arrays as &dyn Fn(usize) -> String, &objects] {
        assert!(of(&nest(DEPTH_MAX)).is_some());
        assert_eq!(of(&nest(DEPTH_MAX + 1)), None);
        assert_eq!(of(&nest(1_000_000)), None);
    }
    let wide = format!("[{}]", [arrays(DEPTH_MAX - 1).as_str(); 3].join(","));
    assert!(of(&wide).is_some(), "depth is not the number of brackets");
}

#[test]
fn objects_are_told_apart_at_every_size() {
    let mut digests = std::collections::HashMap::new();
    for len in 0..2 * INLINE_MAX {
        let name = "n".repeat(len);
        for text in [
            format!(r#"{{"{name}":1}}"#),
            format!(r#"{{"{name}":{{}}}}"#),
            format!(r#"{{"x":1,"y":"{name}"}}"#),
            format!(r#"{{"x":{{"{name}":1}}}}"#),
            format!(r#"[{{"{name}":1}},2]"#),
            format!(r#"[{{"{name}":[1]}}]"#),
            format!(r#"[["{name}",1]]"#),
        ] {
            let same = digests.insert(of(&text).unwrap(), text.clone());
            assert_eq!(same, None, "{text}");
        }
        let (a, b) = (
            format!(r#"{{"x":1,"y":"{name}"}}"#),
            format!(r#"{{"y":"{name}","x":1}}"#),
        );
        assert_eq!(of(&a), of(&b), "{a}");
    }
}

/// The model: a value with its members sorted and its numbers as `digits * 10^exponent`.
#[derive(Debug, Clone, PartialEq)]
enum Model {
    Null,
    Bool(bool),
    Number(i64, i8),
    String(String),
    Array(Vec<Self>),
    Object(BTreeMap<String, Self>),
}

impl Model {
    /// Zeros move from the digits to the exponent, so that equal numbers are equal models.
    fn number(mut digits: i64, mut exponent: i8) -> Self {
        while digits != 0 && digits % 10 == 0 {
            (digits, exponent) = (digits / 10, exponent + 1);
        }
        Self::Number(digits, if digits == 0 { 0 } else { exponent })
    }

    /// Writes it in one of its many spellings.
    fn spell(&self, choices: &mut impl Iterator<Item = bool>) -> String {
        let mut flip = || choices.next().unwrap_or(false);
        match self {
            Self::Null => "null".into(),
            Self::Bool(value) => value.to_string(),
            Self::Number(digits, exponent) => match (flip(), flip()) {
                (false, _) => format!("{digits}e{exponent}"),
                (true, false) => format!("{digits}.00E{exponent:+}"),
                (true, true) if *digits == 0 => "0.0".into(),
                (true, true) => format!("{digits}0e{}", i16::from(*exponent) - 1),
            },
            Self::String(text) if flip() => {
                let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
                format!("\"{}\"", units.collect::<String>())
            }
            Self::String(text) => serde_json::to_string(text).unwrap(),
            Self::Array(elements) => {
                let space = if flip() { " \n" } else { "" };
                let elements: Vec<_> = elements.iter().map(|e| e.spell(choices)).collect();
                format!("[{space}{}{space}]", elements.join(","))
            }
            Self::Object(members) => {
                let (space, reversed) = (if flip() { "\t" } else { "" }, flip());
                let mut members: Vec<_> = members
                    .iter()
                    .map(|(name, value)| {
                        let name = Self::String(name.clone()).spell(choices);
                        format!("{name}{space}:{space}{}", value.spell(choices))
                    })
                    .collect();
                if reversed {
                    members.reverse();
                }
                format!("{{{}}}", members.join(","))
            }
        }
    }
}

fn any_value() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        Just(Model::Null),
        any::<bool>().prop_map(Model::Bool),
        // Few enough that equal ones meet.
        (-20_i64..20, -2_i8..3).prop_map(|(digits, exponent)| Model::number(digits, exponent)),
        any::<i64>().prop_map(|digits| Model::number(digits / 100, 0)),
        "[ab]{0,2}|\\PC{0,3}".prop_map(Model::String),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Model::Array),
            proptest::collection::btree_map("[ab]{0,2}", inner, 0..4).prop_map(Model::Object),
        ]
    })
}

proptest! {
    #[test]
    fn every_spelling_of_a_value_is_equal(value in any_value(), choices: [Vec<bool>; 2]) {
        let [a, b] = choices.map(|choices| value.spell(&mut choices.into_iter().cycle().take(200)));
        prop_assert!(of(&a).is_some(), "{}", a);
        prop_assert_eq!(of(&a), of(&b), "{} {}", a, b);
    }

    #[test]
    fn two_different_values_are_never_equal(a in any_value(), b in any_value(), choices: Vec<bool>) {
        let mut choices = choices.into_iter().cycle().take(400);
        let (first, second) = (a.spell(&mut choices), b.spell(&mut choices));
        prop_assert_eq!(a == b, of(&first) == of(&second), "{} {}", first, second);
    }

    #[test]
    fn what_has_a_digest_is_json(text in "[\\[\\]{}:,\"a\\\\u01\\-.eE n\n]{0,12}") {
        if of(&text).is_some() {
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok() || text.contains(['e', 'E']));
        }
    }
}
