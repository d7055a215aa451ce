//! Times of other dense code, from a file: `--dense-reference`.
//!
//! Each line is an object. One with an `op` of this command's dense operations has `op`, `shape` (the numbers of
//! `--shape`), `threads` and `time_ns`, and may have `stride` and `groups`; all other fields, and lines with another `op`
//! or with none, do not matter.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::error::{Kind, Kinded};
use crate::records::{self, RecordsError};

/// Why a reference file gives no time.
#[derive(Debug, Error)]
pub enum ReferenceError {
    /// It cannot be read.
    #[error("dense-reference: {0}")]
    Records(#[from] RecordsError),
    /// It has no record of what is measured.
    #[error("dense-reference: {} has no record of {wanted}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// Operation, shape and threads.
        wanted: String,
    },
}

impl Kinded for ReferenceError {
    fn kind(&self) -> Kind {
        if let Self::Records(error) = self { error.kind() } else { Kind::Failure }
    }
}

/// A time of a dense operation.
#[derive(Debug, Deserialize)]
struct Record {
    op: String,
    shape: Vec<usize>,
    threads: usize,
    time_ns: u64,
    stride: Option<usize>,
    groups: Option<usize>,
}

/// Best seconds of the dense operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DenseTime {
    /// The seconds.
    pub time: f64,
    /// Whose code it is.
    pub source: &'static str,
}

/// The times of a file.
#[derive(Debug)]
pub struct ReferenceFile {
    path: PathBuf,
    records: Vec<Record>,
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The operation; records may name a variant of it, `NAME_VARIANT`.
    pub name: &'a str,
    /// The numbers of `--shape`.
    pub sizes: &'a [usize],
    /// Those of a convolution.
    pub stride_and_groups: Option<[usize; 2]>,
    /// Threads of both sides.
    pub threads: usize,
}

/// The operations that are read.
const NAMES: [&str; 6] = [
    "dense_forward",
    "dense_input_grad",
    "dense_weight_grad",
    "dense_conv_forward",
    "dense_conv_input_grad",
    "dense_conv_weight_grad",
];

fn is_of(op: &str, name: &str) -> bool {
    op.strip_prefix(name).is_some_and(|variant| variant.is_empty() || variant.starts_with('_'))
}

/// The record of a line, if it is one of a dense operation.
fn record(line: Value) -> serde_json::Result<Option<Record>> {
    #[derive(Deserialize)]
    struct Head {
        op: Option<String>,
    }
    let Head { op } = Head::deserialize(&line)?;
    let is_dense = op.is_some_and(|op| NAMES.iter().any(|name| is_of(&op, name)));
    is_dense.then(|| Record::deserialize(&line)).transpose()
}

impl ReferenceFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or a line is no JSON object or an incomplete record.
    pub fn read(path: &Path) -> Result<Self, ReferenceError> {
        Ok(Self { path: path.to_owned(), records: records::read(path, record)? })
    }

    /// The fastest record of what is wanted. One that says nothing about stride or groups fits any.
    ///
    /// # Errors
    /// If there is none.
    pub fn fastest(&self, wanted: &Wanted<'_>) -> Result<DenseTime, ReferenceError> {
        let fits = |record: &&Record| {
            let [stride, groups] = wanted.stride_and_groups.unwrap_or([1, 1]);
            is_of(&record.op, wanted.name)
                && record.shape == wanted.sizes
                && record.threads == wanted.threads
                && record.stride.is_none_or(|got| got == stride)
                && record.groups.is_none_or(|got| got == groups)
        };
        let best = self.records.iter().filter(fits).map(|record| record.time_ns).min();
        best.map(|time_ns| DenseTime { time: time_ns as f64 / 1e9, source: "torch" })
            .ok_or_else(|| ReferenceError::Missing { path: self.path.clone(), wanted: wanted.to_string() })
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, sizes, stride_and_groups, threads } = self;
        write!(f, "{name} with shape {sizes:?}")?;
        if let Some([stride, groups]) = stride_and_groups {
            write!(f, ", stride {stride}, groups {groups}")?;
        }
        write!(f, " and threads {threads}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"machine": "some"}
{"op": "dense_conv_forward_nchw", "shape": [8, 4, 3, 6, 6, 2], "threads": 1, "time_ns": 300, "median_ns": 900}
{"op": "dense_conv_forward_nhwc", "shape": [8, 4, 3, 6, 6, 2], "threads": 1, "time_ns": 200}
{"op": "dense_conv_forward_nhwc", "shape": [8, 4, 3, 6, 6, 2], "threads": 1, "time_ns": 100, "stride": 2, "groups": 1}
{"op": "dense_conv_forward_nhwc", "shape": [8, 4, 3, 6, 6, 2], "threads": 2, "time_ns": 50}

{"op": "dense_forward", "shape": [8, 4, 6], "threads": 1, "time_ns": 70}
{"op": "dense_train_step_contiguous", "model": "some", "time_ns": 1}
"#;

    fn wanted(name: &'static str, sizes: &'static [usize], stride: usize) -> Wanted<'static> {
        Wanted { name, sizes, stride_and_groups: (sizes.len() > 3).then_some([stride, 1]), threads: 1 }
    }

    #[test]
    fn the_fastest_record_that_fits_is_taken() {
        let path = PathBuf::from("a.jsonl");
        let file = ReferenceFile { records: records::parse(&path, LINES, record).unwrap(), path };
        let time = |wanted: Wanted<'_>| file.fastest(&wanted).map(|dense| (dense.time * 1e9).round());
        let sizes = &[8, 4, 3, 6, 6, 2];
        assert_eq!(time(wanted("dense_conv_forward", sizes, 1)).unwrap(), 200.0);
        assert_eq!(time(wanted("dense_conv_forward", sizes, 2)).unwrap(), 100.0);
        assert_eq!(time(wanted("dense_forward", &[8, 4, 6], 1)).unwrap(), 70.0);
        let error = time(wanted("dense_conv_input_grad", sizes, 2)).unwrap_err();
        let message = error.to_string();
        assert!(error.kind() != Kind::Usage);
        for part in ["a.jsonl", "dense_conv_input_grad", "[8, 4, 3, 6, 6, 2]", "stride 2", "threads 1"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_broken_line_is_named() {
        for line in ["{", "3", r#"{"op": 1}"#, r#"{"op": "dense_forward", "shape": [1, 2, 3], "threads": 1}"#] {
            let text = format!("{{}}\n{line}\n");
            let message = records::parse("a.jsonl".as_ref(), &text, record).unwrap_err().to_string();
            assert!(message.contains("a.jsonl, line 2"), "{message}");
        }
    }
}
