//! The layers that settings come from, merged: a file, then variables, then flags; later ones win.
//!
//! Every value keeps its [`Origin`], so that a fault can name the line, variable or flag to change.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Faults, Origin};
use super::value::Written;

const PREFIX: &str = "ONLYONCE__";

/// A value and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) written: Written,
    pub(crate) origin: Origin,
}

/// What was written, before any of it is understood. The keys are `section.key`.
///
/// ```
/// use onlyonce_proxy::config::{Config, Sources};
///
/// let mut sources = Sources::default();
/// sources.file_text("onlyonce.toml", "[policy]\ndeadline = \"20s\"\nwait = \"1s\"");
/// sources.variables([("ONLYONCE__POLICY__DEADLINE".to_owned(), "30s".to_owned())]);
/// sources.flag("--upstream", "upstream.url", "http://127.0.0.1:3000");
/// let config = Config::load(sources)?;
/// assert_eq!(config.policy.deadline.as_secs(), 30);
/// assert_eq!(config.policy.wait.as_secs(), 1);
/// # Ok::<(), onlyonce_proxy::config::Faults>(())
/// ```
#[derive(Debug, Default)]
pub struct Sources {
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) faults: Vec<Fault>,
}

impl Sources {
    /// Reads a file. That it cannot be read is a fault among others.
    pub fn file(&mut self, path: &Path) {
        match std::fs::read_to_string(path) {
            Ok(text) => self.file_text(path, &text),
            Err(error) => self.faults.push(Fault {
                origin: Some(Origin::File {
                    path: path.into(),
                    line: None,
                }),
                key: None,
                message: format!("cannot be read: {error}"),
            }),
        }
    }

    /// Takes the text of a file; `path` is what faults call it.
    pub fn file_text(&mut self, path: impl AsRef<Path>, text: &str) {
        let path: Arc<Path> = path.as_ref().into();
        let origin = |start: usize| Origin::File {
            path: Arc::clone(&path),
            line: Some(line_of(text, start)),
        };
        let before = self.faults.len();
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            self.faults.push(Fault {
                origin: Some(origin(error.span().map_or(0, |span| span.start))),
                key: None,
                // TOML's message describes the syntax and quotes no value.
                message: error.message().to_owned(),
            });
        }
        for (section, value) in document.into_inner() {
            let name = section.get_ref().as_ref();
            let DeValue::Table(table) = value.get_ref() else {
                self.faults.push(Fault {
                    origin: Some(origin(section.span().start)),
                    key: Some(name.to_owned()),
                    message: "every setting belongs to a section, such as [listen]".to_owned(),
                });
                continue;
            };
            for (key, value) in table {
                let origin = origin(key.span().start);
                let key = format!("{name}.{}", key.get_ref());
                match written(value.get_ref()) {
                    Some(written) => self.set(key, written, origin),
                    None => self.faults.push(Fault {
                        origin: Some(origin),
                        key: Some(key),
                        message: "expected a text, a number, true or false, or a list of them"
                            .to_owned(),
                    }),
                }
            }
        }
        // The parser reports in an order of its own.
        self.faults[before..].sort_by_key(|fault| match &fault.origin {
            Some(Origin::File { line, .. }) => *line,
            _ => None,
        });
    }

    /// Takes the variables `ONLYONCE__SECTION__KEY` from an environment; others are not looked at.
    pub fn variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let mut ours: Vec<_> = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        ours.sort(); // an environment has no order, faults should
        for (name, value) in ours {
            let key = name[PREFIX.len()..]
                .split_once("__")
                .map(|(section, key)| format!("{section}.{key}").to_lowercase().replace('_', "-"));
            match key {
                Some(key) => self.set(key, Written::One(value), Origin::Variable(name)),
                None => self.faults.push(Fault {
                    origin: Some(Origin::Variable(name)),
                    key: None,
                    message: "expected a name such as ONLYONCE__POLICY__DEADLINE".to_owned(),
                }),
            }
        }
    }

    /// Takes a flag of the command line.
    pub fn flag(&mut self, flag: &'static str, key: &str, value: impl Into<String>) {
        self.set(
            key.to_owned(),
            Written::One(value.into()),
            Origin::Flag(flag),
        );
    }

    /// Leaves out what belongs to other sections, faults included: files that cannot be read stay.
    pub(crate) fn keep_section(&mut self, section: &str) {
        let ours = |key: &str| key.split('.').next() == Some(section);
        self.entries.retain(|key, _| ours(key));
        self.faults
            .retain(|fault| fault.key.as_deref().is_none_or(ours));
    }

    /// Leaves out these sections, faults included: another command's. What is in no section that anybody knows
    /// stays, and is a fault.
    pub(crate) fn leave_sections(&mut self, sections: &[&str]) {
        let theirs = |key: &str| key.split('.').next().is_some_and(|s| sections.contains(&s));
        self.entries.retain(|key, _| !theirs(key));
        self.faults
            .retain(|fault| !fault.key.as_deref().is_some_and(theirs));
    }

    /// Whether anything is written in a section.
    pub(crate) fn has_section(&self, section: &str) -> bool {
        let ours = |key: &String| key.split('.').next() == Some(section);
        self.entries.keys().any(ours)
    }

    /// What was found wrong so far, as an error.
    pub(crate) fn finish(faults: Vec<Fault>) -> Result<(), Faults> {
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Faults(faults))
        }
    }

    fn set(&mut self, key: String, written: Written, origin: Origin) {
        self.entries.insert(key, Entry { written, origin });
    }
}

fn written(value: &DeValue<'_>) -> Option<Written> {
    match value {
        DeValue::Array(values) => values
            .iter()
            .map(|value| scalar(value.get_ref()))
            .collect::<Option<_>>()
            .map(Written::Many),
        value => scalar(value).map(Written::One),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// The line, from 1, of a place in a text.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
}
