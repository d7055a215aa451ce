//! A file's values with the lines that they stand in.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Why a network's file cannot be used: where, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct DefinitionError {
    /// File and line.
    place: String,
    reason: String,
}

impl DefinitionError {
    /// Of a file as a whole.
    pub(super) fn of_file(file: &Path, reason: impl Display) -> Self {
        Self { place: file.display().to_string(), reason: reason.to_string() }
    }
}

pub(super) type Result<T> = std::result::Result<T, DefinitionError>;

/// The most texts of a list.
const MOST_TEXTS: usize = 64;

/// A value and where it stands.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// What a block's `$name`s stand for.
pub(super) type Parameters<'t> = BTreeMap<&'t str, &'t Value<'t>>;

/// The places of a text.
#[derive(Debug)]
pub(super) struct Places {
    file: Option<PathBuf>,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl Places {
    pub fn new(text: &str, file: Option<&Path>) -> Self {
        let ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Self { file: file.map(Path::to_owned), lines: std::iter::once(0).chain(ends).collect() }
    }

    /// The line of a byte, counted from 1.
    pub fn line(&self, at: usize) -> usize {
        self.lines.partition_point(|&begin| begin <= at)
    }

    pub fn error(&self, at: usize, reason: impl Into<String>) -> DefinitionError {
        DefinitionError { place: place(self.file.as_deref(), self.line(at)), reason: reason.into() }
    }
}

/// How a place in a file is written.
pub(super) fn place(file: Option<&Path>, line: usize) -> String {
    match file {
        Some(file) => format!("{}:{line}", file.display()),
        None => format!("line {line}"),
    }
}

/// The keys of a table.
#[derive(Clone, Copy)]
pub(super) struct Fields<'p, 't> {
    places: &'p Places,
    table: &'t DeTable<'t>,
    /// Where the table begins.
    pub at: usize,
    parameters: &'p Parameters<'t>,
}

impl<'p, 't> Fields<'p, 't> {
    pub fn new(places: &'p Places, value: &'t Value<'t>, what: &str, parameters: &'p Parameters<'t>) -> Result<Self> {
        let at = value.span().start;
        match value.get_ref() {
            DeValue::Table(table) => Ok(Self { places, table, at, parameters }),
            other => Err(places.error(at, format!("{what} must be a table, not {}", shown(other)))),
        }
    }

    pub fn of_table(places: &'p Places, table: &'t DeTable<'t>, parameters: &'p Parameters<'t>) -> Self {
        Self { places, table, at: 0, parameters }
    }

    /// An error at this table.
    pub fn error(&self, reason: impl Into<String>) -> DefinitionError {
        self.places.error(self.at, reason)
    }

    /// All keys with their values, `$name`s replaced.
    pub fn entries(&self) -> Result<Vec<(&'t str, usize, &'t Value<'t>)>> {
        let entry = |(key, value): (&'t Spanned<_>, &'t Value<'t>)| {
            let name: &'t std::borrow::Cow<'t, str> = key.get_ref();
            Ok((&**name, key.span().start, self.resolved(value)?))
        };
        self.table.iter().map(entry).collect()
    }

    /// Refuses keys that are not among those known.
    pub fn know(&self, what: &str, known: &[&str]) -> Result<()> {
        for (key, at, _) in self.entries()? {
            if !known.contains(&key) {
                let reason = format!("unknown key `{}` of {what}; its keys are {}", short(key), known.join(", "));
                return Err(self.places.error(at, reason));
            }
        }
        Ok(())
    }

    fn resolved(&self, value: &'t Value<'t>) -> Result<&'t Value<'t>> {
        let DeValue::String(text) = value.get_ref() else { return Ok(value) };
        let Some(name) = text.strip_prefix('$') else { return Ok(value) };
        self.parameters.get(name).copied().ok_or_else(|| {
            let reason = format!(
                "`${}` stands for nothing here: only a block's layers have parameters, given where the block is used",
                short(name)
            );
            self.places.error(value.span().start, reason)
        })
    }

    pub fn get(&self, key: &str) -> Result<Option<&'t Value<'t>>> {
        self.table.get(key).map(|value| self.resolved(value)).transpose()
    }

    /// An error at a key's value.
    pub fn wrong(&self, key: &str, value: &Value<'_>, rule: impl Display) -> DefinitionError {
        let reason = format!("{key} is {}; it must be {rule}", shown(value.get_ref()));
        self.places.error(value.span().start, reason)
    }

    pub fn needed<T>(&self, what: &str, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(format!("{what} needs a {key}")))
    }

    /// A whole number.
    pub fn number(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        let number = as_number(value).filter(|number| range.contains(number));
        let rule = || format!("a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.wrong(key, value, rule()))
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        value.get_ref().as_bool().map(Some).ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'t str>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        value.get_ref().as_str().map(Some).ok_or_else(|| self.wrong(key, value, "text in quotes"))
    }

    /// One text, or a list of at least one.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'t str>>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        let texts = match value.get_ref() {
            DeValue::Array(list) => list
                .iter()
                .map(|value| self.resolved(value)?.get_ref().as_str().map_or(Ok(None), |t| Ok(Some(t))))
                .collect::<Result<Option<Vec<_>>>>()?,
            other => other.as_str().map(|text| vec![text]),
        };
        let texts = texts.filter(|texts| (1..=MOST_TEXTS).contains(&texts.len()));
        texts
            .map(Some)
            .ok_or_else(|| self.wrong(key, value, format!("text in quotes, or a list of 1 to {MOST_TEXTS} such")))
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        let found = value.get_ref().as_str().and_then(|text| words.iter().find(|(word, _)| *word == text));
        let rule = || {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            match &words[..] {
                [all @ .., last] if !all.is_empty() => format!("{} or {last}", all.join(", ")),
                _ => words.concat(),
            }
        };
        found.map(|&(_, value)| Some(value)).ok_or_else(|| self.wrong(key, value, rule()))
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<Option<&'t [Value<'t>]>> {
        let Some(value) = self.get(key)? else { return Ok(None) };
        value.get_ref().as_array().map(|list| Some(&**list)).ok_or_else(|| self.wrong(key, value, "a list in [ ]"))
    }

    /// Where a key's value stands, or the table if that has no such key.
    pub fn place(&self, key: &str) -> usize {
        self.table.get(key).map_or(self.at, |value| value.span().start)
    }

    /// An error at a key's value, or at the table if that has no such key.
    pub fn error_at(&self, key: &str, reason: impl Into<String>) -> DefinitionError {
        self.places.error(self.place(key), reason)
    }
}

pub(super) fn as_number(value: &Value<'_>) -> Option<usize> {
    let number = value.get_ref().as_integer()?;
    usize::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A value as an error shows it.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", short(text)),
        DeValue::Integer(number) => short(number.as_str()),
        DeValue::Float(number) => short(number.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The beginning of a text, on one line.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 60;
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = plain.clone().take(MOST).collect();
    if plain.count() > MOST {
        short.push('…');
    }
    short
}
