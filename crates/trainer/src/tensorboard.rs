//! Event files of TensorBoard: the numbers of a run's records, for its plots.
//!
//! A file is a row of frames (the form of TFRecord), each with an `Event` of `tensorflow/core/util/event.proto`:
//!
//! ```text
//! length: u64 | masked CRC-32C of the length: u32 | event | masked CRC-32C of the event: u32     (little-endian)
//! event:   wall_time (1, double) | step (2, varint) | file_version (3) | summary (5) | session_log (7)
//! summary: value (1) each: tag (1) | simple_value (2, float)
//! ```
//!
//! Each process writes a file of its own, as TensorBoard expects. A process that resumes a run first cuts what earlier files
//! have of later steps, and begins with a `SessionLog.START`, by which a TensorBoard that is running forgets these steps too.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::choice::choices;

choices! {
    /// What is written beside `metrics.jsonl`.
    Log {
        /// Event files of TensorBoard.
        Tensorboard,
    }
}

/// Begins a file's name; TensorBoard takes any file for its own that has `tfevents` in its name.
const PREFIX: &str = "events.out.tfevents.";
/// Begins the tags of what is measured after the training.
const FINAL: &str = "final/";

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const SESSION_LOG: u64 = 7;

/// The event file of this process.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
}

impl EventLog {
    /// A new file in `folder`, in which events up to `last_step` stay: those of the records that there are. With no such
    /// step, the run begins.
    ///
    /// # Errors
    /// The file, and what the system says.
    pub fn open(folder: &Path, last_step: Option<u64>) -> Result<Self, (PathBuf, io::Error)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut earlier = event_files(folder).map_err(|error| (folder.to_owned(), error))?;
        earlier.sort();
        for (_, path) in &earlier {
            cut(path, last_step).map_err(|error| (path.clone(), error))?;
        }
        // TensorBoard reads the files in the order of their names.
        let newest = earlier.last().map_or(0, |(seconds, _)| seconds + 1);
        let path = folder.join(format!("{PREFIX}{:010}.rigl", now.max(newest)));
        let in_file = |error| (path.clone(), error);
        let file = File::options().append(true).create_new(true).open(&path).map_err(in_file)?;
        let mut log = Self { path: path.clone(), file };
        log.write(&field(FILE_VERSION, b"brain.Event:2")).map_err(in_file)?;
        if !earlier.is_empty() {
            const START: &[u8] = &[1 << 3, 1];
            let first_step = last_step.map_or(0, |step| step + 1);
            log.write(&[number(STEP, first_step), field(SESSION_LOG, START)].concat()).map_err(in_file)?;
        }
        Ok(log)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the numbers of a record at its step: of an epoch all of them, of a finished run those of the test set.
    /// `train_loss` becomes `loss/train`, so that the curves of a quantity share a plot.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn record(&mut self, record: &impl Serialize) -> io::Result<()> {
        let record = serde_json::to_value(record)?;
        let is_final = record["event"] == "done";
        let Some(step) = record[if is_final { "steps" } else { "step" }].as_u64() else { return Ok(()) };
        let mut summary = Vec::new();
        for (key, value) in record.as_object().into_iter().flatten() {
            let Some(value) = value.as_f64() else { continue };
            let tag = match tag(key, is_final) {
                Some(tag) => {
                    [field(1, tag.as_bytes()), vec![key_of(2, FIXED32)], (value as f32).to_le_bytes().to_vec()]
                }
                None => continue,
            };
            summary.extend(field(1, &tag.concat()));
        }
        self.write(&[number(STEP, step), field(SUMMARY, &summary)].concat())
    }

    /// Writes an event at once, as one frame.
    fn write(&mut self, rest: &[u8]) -> io::Result<()> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let event = [&[key_of(WALL_TIME, FIXED64)][..], &seconds.to_le_bytes(), rest].concat();
        let length = (event.len() as u64).to_le_bytes();
        self.file.write_all(&[&length[..], &checksum(&length), &event, &checksum(&event)].concat())
    }
}

/// What a number is called, if it is shown.
fn tag(key: &str, is_final: bool) -> Option<String> {
    if is_final {
        return key.strip_prefix("test_").map(|name| format!("{FINAL}test_{name}"));
    }
    if ["epoch", "step"].contains(&key) {
        return None;
    }
    let of_samples = ["train", "val", "test"].iter().find_map(|&samples| {
        let name = key.strip_prefix(samples)?.strip_prefix('_')?;
        Some(format!("{name}/{}", if samples == "val" { "validation" } else { samples }))
    });
    Some(of_samples.unwrap_or_else(|| key.to_owned()))
}

/// A field's number and type, which fit a byte.
fn key_of(field: u64, kind: u64) -> u8 {
    (field << 3 | kind) as u8
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [vec![key_of(field, VARINT)], varint(value)].concat()
}

fn field(number: u64, content: &[u8]) -> Vec<u8> {
    [vec![key_of(number, BYTES)], varint(content.len() as u64), content.to_vec()].concat()
}

/// TFRecord's masked CRC-32C.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// The event files of this program in a folder, with the seconds in their names.
fn event_files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let seconds = name.and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(".rigl")?.parse().ok());
        files.extend(seconds.map(|seconds| (seconds, path)));
    }
    Ok(files)
}

/// Cuts a file before its first frame that is damaged, of a later step or of what was measured after the training.
fn cut(path: &Path, last_step: Option<u64>) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let mut stays = 0;
    while let Some((event, frame)) = first_frame(&bytes[stays..]) {
        let Some(Kept { step, is_final, has_values }) = read_event(event) else { break };
        if has_values && (is_final || last_step.is_none_or(|last| step > last)) {
            break;
        }
        stays += frame;
    }
    if stays < bytes.len() {
        File::options().write(true).open(path)?.set_len(stays as u64)?;
    }
    Ok(())
}

/// The event of a frame, and the frame's length; `None` if it is not whole.
fn first_frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (of_length, rest) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (event, rest) = rest.split_at_checked(size)?;
    let of_event = rest.first_chunk::<4>()?;
    (checksum(length) == *of_length && checksum(event) == *of_event).then_some((event, 16 + size))
}

/// What decides whether an event stays.
struct Kept {
    step: u64,
    is_final: bool,
    has_values: bool,
}

/// `None` if it is no event that this module writes.
fn read_event(mut bytes: &[u8]) -> Option<Kept> {
    let mut kept = Kept { step: 0, is_final: false, has_values: false };
    while let Some((&key, rest)) = bytes.split_first() {
        bytes = match u64::from(key) & 7 {
            VARINT => {
                let (value, rest) = read_varint(rest)?;
                kept.step = if key == key_of(STEP, VARINT) { value } else { kept.step };
                rest
            }
            FIXED64 => rest.get(8..)?,
            FIXED32 => rest.get(4..)?,
            BYTES => {
                let (length, rest) = read_varint(rest)?;
                let (content, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                if key == key_of(SUMMARY, BYTES) {
                    kept.has_values = true;
                    kept.is_final = content.windows(FINAL.len()).any(|part| part == FINAL.as_bytes());
                }
                rest
            }
            _ => return None,
        };
    }
    Some(kept)
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// CRC-32C bit by bit, unlike that of the crate.
    fn slow_checksum(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for &byte in bytes {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
    }

    /// Field number and content of a message; varints and fixed numbers as the bytes of a u64.
    fn fields(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut fields = Vec::new();
        let varint = |bytes: &mut &[u8]| {
            let end = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
            let value = bytes[..end].iter().rev().fold(0u64, |value, byte| value * 128 + u64::from(byte % 128));
            *bytes = &bytes[end..];
            value
        };
        while !bytes.is_empty() {
            let key = varint(&mut bytes) as u8;
            let content = match key % 8 {
                0 => varint(&mut bytes).to_le_bytes().to_vec(),
                kind => {
                    let size = match kind {
                        1 => 8,
                        2 => varint(&mut bytes) as usize,
                        5 => 4,
                        other => panic!("wire type {other}"),
                    };
                    let (content, rest) = bytes.split_at(size);
                    bytes = rest;
                    content.to_vec()
                }
            };
            fields.push((key / 8, content));
        }
        fields
    }

    /// What a file says: `(step, tag, value)`, and where sessions start.
    fn read(path: &Path) -> (Vec<(u64, String, f32)>, Vec<u64>) {
        let bytes = fs::read(path).unwrap();
        let (mut bytes, mut values, mut starts, mut first) = (&bytes[..], vec![], vec![], true);
        while !bytes.is_empty() {
            let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let sum = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!(sum(8), slow_checksum(&bytes[..8]));
            assert_eq!(sum(12 + size), slow_checksum(&bytes[12..12 + size]));
            let event = fields(&bytes[12..12 + size]);
            bytes = &bytes[16 + size..];
            let content = |number: u8| event.iter().find(|(other, _)| *other == number).map(|(_, content)| content);
            let seconds = f64::from_le_bytes(content(1).unwrap()[..].try_into().unwrap());
            assert!(seconds > 1.7e9 && seconds < 1e11, "{seconds}");
            assert_eq!(content(3).map(|version| &version[..]), first.then_some(&b"brain.Event:2"[..]));
            first = false;
            let step = content(2).map_or(0, |step| u64::from_le_bytes(step[..].try_into().unwrap()));
            if let Some(log) = content(7) {
                assert_eq!(fields(log), [(1, 1u64.to_le_bytes().to_vec())]);
                starts.push(step);
            }
            for (_, value) in content(5).map(|summary| fields(summary)).into_iter().flatten() {
                let [(1, tag), (2, value)] = &fields(&value)[..] else { panic!("a tag and a value") };
                let value = f32::from_le_bytes(value[..].try_into().unwrap());
                values.push((step, String::from_utf8(tag.clone()).unwrap(), value));
            }
        }
        (values, starts)
    }

    fn epoch(step: u64) -> Value {
        json!({ "event": "epoch", "epoch": step / 100, "step": step, "train_loss": 0.5, "val_loss": null, "lr": 0.1, "nnz": step })
    }

    fn of_epoch(step: u64) -> Vec<(u64, String, f32)> {
        let value = |tag: &str, value| (step, tag.to_owned(), value);
        vec![value("lr", 0.1), value("nnz", step as f32), value("loss/train", 0.5)]
    }

    #[test]
    fn a_file_is_read_back_by_another_reader() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = EventLog::open(folder.path(), None).unwrap();
        for step in [100, 1 << 40] {
            log.record(&epoch(step)).unwrap();
        }
        log.record(&json!({ "event": "done", "steps": 300, "test_accuracy": 0.75, "train_loss": 2.0 })).unwrap();
        log.record(&json!({ "event": "other" })).unwrap();
        let done = vec![(300, "final/test_accuracy".to_owned(), 0.75)];
        let expected = [of_epoch(100), of_epoch(1 << 40), done].concat();
        let sorted = |mut values: Vec<(u64, String, f32)>| {
            values.sort_by(|a, b| a.partial_cmp(b).unwrap());
            values
        };
        let (values, starts) = read(log.path());
        assert_eq!((sorted(values), starts), (sorted(expected), vec![]));
    }

    /// The steps that a resumed run makes again are in one file only, and a torn frame is in none.
    #[test]
    fn a_resumed_run_repeats_no_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = EventLog::open(folder.path(), None).unwrap();
        for step in [100, 200, 300] {
            first.record(&epoch(step)).unwrap();
        }
        first.record(&json!({ "event": "done", "steps": 300, "test_loss": 1.0 })).unwrap();
        first.file.write_all(&[7; 5]).unwrap();
        let mut second = EventLog::open(folder.path(), Some(200)).unwrap();
        assert!(first.path() < second.path());
        second.record(&epoch(300)).unwrap();
        let steps = |log: &EventLog| {
            let (values, starts) = read(log.path());
            (values.iter().filter(|(_, tag, _)| tag == "lr").map(|(step, ..)| *step).collect::<Vec<_>>(), starts)
        };
        assert_eq!((steps(&first), steps(&second)), ((vec![100, 200], vec![]), (vec![300], vec![201])));
        assert!(read(first.path()).0.iter().all(|(_, tag, _)| !tag.starts_with(FINAL)));
        // A damaged byte ends what can be kept; from the start on, nothing is.
        let mut bytes = fs::read(first.path()).unwrap();
        let end = bytes.len() - 6;
        bytes[end] ^= 1;
        fs::write(first.path(), bytes).unwrap();
        let third = EventLog::open(folder.path(), Some(300)).unwrap();
        assert_eq!(
            (steps(&first), steps(&second).0, steps(&third)),
            ((vec![100], vec![]), vec![300], (vec![], vec![301]))
        );
        EventLog::open(folder.path(), None).unwrap();
        assert!([&first, &second].iter().all(|log| steps(log).0.is_empty()));
    }

    #[test]
    fn what_is_no_frame_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{PREFIX}0000000001.rigl"));
        for bytes in [&b"text"[..], &[0xff; 40], &[0; 16]] {
            fs::write(&path, bytes).unwrap();
            cut(&path, Some(9)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"");
        }
    }
}
