//! Whether a README shows nothing but what is tested: [`shows`].
//!
//! Doctests only compile what needs a server. A README's programs are a crate's examples instead, which its tests
//! include and run; this holds the two together.

/// How many blocks of Rust a README has; each must stand in one of the sources, whatever its indentation.
///
/// ```
/// let readme = "So:\n```rust\nlet n = 1;\n\nuse_it(n);\n```\n";
/// let source = "fn main() {\n    let n = 1;\n    use_it(n);\n}\n";
/// assert_eq!(onlyonce_test::readme::shows(readme, &[source]), 1);
/// ```
///
/// # Panics
/// With the block that stands in none of them.
pub fn shows(readme: &str, sources: &[&str]) -> usize {
    let sources: Vec<_> = sources.iter().map(|source| plain(source)).collect();
    let mut blocks = 0;
    for block in readme.split("```rust").skip(1) {
        let (_, code) = block.split_once('\n').unwrap_or_default();
        let code = plain(code.split("```").next().unwrap_or_default());
        assert!(
            sources.iter().any(|source| source.contains(&code)),
            "the README shows what no test runs:\n{code}"
        );
        blocks += 1;
    }
    blocks
}

/// Without the spaces at the beginnings of lines, and without empty lines.
fn plain(code: &str) -> String {
    let lines = code.lines().map(str::trim);
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}
