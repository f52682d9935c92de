//! The page of behaviours names tests that exist, and all tests of this program; and these run three ways, or are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::differences::PROXY_ONLY;

fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package is in the workspace")
}

/// Every file of Rust in a directory.
fn sources(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).expect("readable");
            found.push((path, text));
        }
    }
}

/// What is named in backquotes in the columns that name tests.
fn named(page: &str) -> Vec<&str> {
    let names = page.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:/".contains(&byte);
        name.bytes().all(plain)
            && (name.contains("::") || name.contains('/'))
            && !name.starts_with('/')
    };
    names.filter(is_test).collect()
}

/// Whether there is such a file, and such a function in it. `place/file::name`; without a place it is here.
fn exists(name: &str, sources: &[(PathBuf, String)]) -> bool {
    let (file, function) = name.split_once("::").unwrap_or((name, ""));
    let (place, file) = file.split_once('/').unwrap_or(("http", file));
    let file = format!("{file}.rs");
    sources.iter().any(|(path, text)| {
        let in_place = path.components().any(|part| {
            let part = part.as_os_str().to_string_lossy();
            part == place || part == format!("onlyonce-{place}")
        });
        in_place && path.ends_with(&file) && text.contains(&format!("fn {function}"))
    })
}

#[test]
fn the_page_names_tests_that_exist() {
    let mut all = Vec::new();
    sources(&root().join("crates"), &mut all);
    sources(&root().join("tests"), &mut all);
    let page = fs::read_to_string(root().join("docs/behaviour.md")).expect("the page");
    let names = named(&page);
    assert!(names.len() > 200, "{}", names.len());
    let missing: Vec<_> = names.iter().filter(|name| !exists(name, &all)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The tests of this program, and those of them that run three ways.
fn tests_here() -> (BTreeSet<String>, BTreeSet<String>) {
    let mut files = Vec::new();
    sources(&root().join("tests/tests/http"), &mut files);
    let (mut alone, mut three_ways) = (BTreeSet::new(), BTreeSet::new());
    for (path, text) in &files {
        let module = path.file_stem().expect("a name").to_string_lossy();
        if ["alike", "documented", "front"].contains(&&*module) {
            continue;
        }
        let name = |test: &str| format!("{module}::{test}");
        let plain = text.split("#[tokio::test]").skip(1);
        let plain = plain.filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
        alone.extend(plain.map(|(test, _)| name(test)));
        let made = text.split("three_ways!(").skip(1);
        let made = made.filter_map(|rest| rest.split_once(')'));
        three_ways.extend(made.map(|(test, _)| name(test)));
    }
    (alone, three_ways)
}

#[test]
fn the_page_names_every_test_here() {
    let page = fs::read_to_string(root().join("docs/behaviour.md")).expect("the page");
    let (alone, three_ways) = tests_here();
    assert!(alone.len() + three_ways.len() > 100);
    let all = alone.iter().chain(&three_ways);
    let unnamed: Vec<_> = all
        .filter(|name| !page.contains(&format!("`{name}`")))
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:#?}");
}

/// Who is not asked three ways is so for a reason, which is written down.
#[test]
fn every_test_runs_three_ways_unless_it_is_listed() {
    let mut reasons = BTreeMap::new();
    for (why, names) in PROXY_ONLY {
        for name in *names {
            let before = reasons.insert((*name).to_owned(), why);
            assert_eq!(before, None, "{name} is listed twice");
        }
    }
    let listed: BTreeSet<_> = reasons.into_keys().collect();
    let (alone, three_ways) = tests_here();
    assert_eq!(listed, alone, "what is listed, and what is not three ways");
    assert!(three_ways.len() > 100, "{}", three_ways.len());
}
