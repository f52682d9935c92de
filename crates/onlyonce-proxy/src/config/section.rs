//! Reading one section: each key asked for once, with its default beside it.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::fault::{Fault, Faults, Origin, nearest};
use super::sources::{Entry, Sources};
use super::value::Setting;

/// The merged sources while sections take their keys out of them.
#[derive(Debug)]
pub(crate) struct Reader {
    entries: RefCell<BTreeMap<String, Entry>>,
    faults: RefCell<Vec<Fault>>,
    asked: RefCell<Vec<Effective>>,
}

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// `section.key`.
    pub key: String,
    /// The value as one would write it, without secrets; `None` where nothing is set.
    pub value: Option<String>,
    /// The line of the file, variable or flag that sets it; `None` for a default.
    pub origin: Option<Origin>,
    /// The default; `None` where there is none.
    pub default: Option<String>,
}

/// One section of a [`Reader`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a> {
    reader: &'a Reader,
    name: &'static str,
}

impl Reader {
    pub(crate) fn new(sources: Sources) -> Self {
        Self {
            entries: RefCell::new(sources.entries),
            faults: RefCell::new(sources.faults),
            asked: RefCell::default(),
        }
    }

    pub(crate) fn section(&self, name: &'static str) -> Section<'_> {
        Section { reader: self, name }
    }

    /// Whether anything is written in a section that was not read yet.
    pub(crate) fn is_written(&self, section: &str) -> bool {
        let ours = |key: &String| key.split('.').next() == Some(section);
        self.entries.borrow().keys().any(ours)
    }

    /// Reports that a key which was read is not set. One that is set but wrong has been reported already.
    pub(crate) fn missing(&self, key: &str, message: &str) {
        let unset = |asked: &Effective| asked.key == key && asked.origin.is_none();
        if self.asked.borrow().iter().any(unset) {
            self.fault(key, message);
        }
    }

    /// Reports a fault of a key that was read: with others it makes no sense, for instance.
    pub(crate) fn fault(&self, key: &str, message: impl Into<String>) {
        let origin = self
            .asked
            .borrow()
            .iter()
            .find(|effective| effective.key == key)
            .and_then(|effective| effective.origin.clone());
        self.faults.borrow_mut().push(Fault {
            origin,
            key: Some(key.to_owned()),
            message: message.into(),
        });
    }

    /// Ends the reading: what nobody asked for is unknown.
    pub(crate) fn finish(self) -> Result<Vec<Effective>, Faults> {
        let asked = self.asked.into_inner();
        let mut faults = self.faults.into_inner();
        for (key, entry) in self.entries.into_inner() {
            let message = match unknown(&key, &asked) {
                Some(meant) => format!("unknown key; did you mean `{meant}`?"),
                None => "unknown key".to_owned(),
            };
            faults.push(Fault {
                origin: Some(entry.origin),
                key: Some(key),
                message,
            });
        }
        Sources::finish(faults)?;
        Ok(asked)
    }
}

/// What an unknown `section.key` was meant to be: the nearest key of its section, or the same key of
/// another one.
fn unknown<'a>(typed: &str, asked: &'a [Effective]) -> Option<&'a str> {
    let (section, key) = typed.split_once('.')?;
    let known = || asked.iter().map(|effective| effective.key.as_str());
    let siblings = known()
        .filter_map(|known| known.split_once('.'))
        .filter(|(other, _)| *other == section);
    nearest(key, siblings.map(|(_, key)| key)).or_else(|| {
        known().find(|known| known.split_once('.').is_some_and(|(_, other)| other == key))
    })
}

impl Section<'_> {
    /// The value of a key, or its default.
    pub(crate) fn get<T: Setting>(self, key: &'static str, default: T) -> T {
        let shown = default.show();
        self.read(key, Some(shown)).unwrap_or(default)
    }

    /// The value of a key, or its default, where nothing could work with zero.
    pub(crate) fn above_zero<T: Setting + Default + PartialEq>(
        self,
        key: &'static str,
        default: T,
    ) -> T {
        let value = self.get(key, default);
        if value == T::default() {
            self.reader
                .fault(&format!("{}.{key}", self.name), "must not be zero or empty");
        }
        value
    }

    /// The value of a key that may be left out.
    pub(crate) fn optional<T: Setting>(self, key: &'static str) -> Option<T> {
        self.read(key, None)
    }

    /// The value of a key that must be set; `None` is a fault, reported with `missing`.
    pub(crate) fn required<T: Setting>(self, key: &'static str, missing: &str) -> Option<T> {
        let value = self.read(key, None);
        self.reader
            .missing(&format!("{}.{key}", self.name), missing);
        value
    }

    fn read<T: Setting>(self, key: &'static str, default: Option<String>) -> Option<T> {
        let key = format!("{}.{key}", self.name);
        let entry = self.reader.entries.borrow_mut().remove(&key);
        let value = entry.as_ref().and_then(|entry| T::read(&entry.written));
        if let (Some(entry), None) = (&entry, &value) {
            self.reader.faults.borrow_mut().push(Fault {
                origin: Some(entry.origin.clone()),
                key: Some(key.clone()),
                message: T::refusal(&entry.written),
            });
        }
        self.reader.asked.borrow_mut().push(Effective {
            key,
            value: value.as_ref().map(T::show).or_else(|| default.clone()),
            origin: entry.map(|entry| entry.origin),
            default,
        });
        value
    }
}
