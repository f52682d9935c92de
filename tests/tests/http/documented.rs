//! The page of behaviours names tests that exist, and all tests of this program.

use std::fs;
use std::path::{Path, PathBuf};

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

#[test]
fn the_page_names_every_test_here() {
    let page = fs::read_to_string(root().join("docs/behaviour.md")).expect("the page");
    let mut all = Vec::new();
    sources(&root().join("tests/tests/http"), &mut all);
    all.retain(|(path, _)| !path.ends_with("documented.rs"));
    let mut unnamed = Vec::new();
    for (path, text) in &all {
        let module = path.file_stem().expect("a name").to_string_lossy();
        let tests = text.split("#[tokio::test]").skip(1);
        for test in tests.filter_map(|rest| rest.split_once("fn ")?.1.split_once('(')) {
            let name = format!("{module}::{}", test.0);
            if !page.contains(&format!("`{name}`")) {
                unnamed.push(name);
            }
        }
    }
    assert!(unnamed.is_empty(), "{unnamed:#?}");
}
