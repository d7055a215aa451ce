//! Lines of labels and features.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use super::super::error::DataError;
use super::super::lists::Lists;
use super::error::SvmlightError;
use crate::formats::unfold::{Allowance, is_folded, unfold};

/// The samples of a file, features numbered as in the file.
#[derive(Debug)]
pub(super) struct Numbered {
    pub inputs: Lists,
    pub targets: Lists,
    /// By the header, or one more than the largest number.
    pub features: usize,
    pub labels: usize,
    pub has_header: bool,
    pub has_feature_0: bool,
}

/// Column indices are u32, and the largest is kept free.
const MOST: u32 = u32::MAX - 2;

/// Reads a file, line by line, or unfolds it first.
pub(super) fn read(file: &Path) -> Result<Numbered, DataError> {
    let fail = |source| DataError::Io { file: file.to_owned(), source };
    let mut opened = File::open(file).map_err(fail)?;
    // A pipe cannot be opened twice: its beginning is kept.
    let mut beginning = Vec::new();
    opened.by_ref().take(6).read_to_end(&mut beginning).map_err(fail)?;
    let is_folded = is_folded(&beginning);
    let mut whole = Cursor::new(beginning).chain(opened);
    if !is_folded {
        return read_lines(file, BufReader::with_capacity(1 << 20, whole));
    }
    let mut bytes = Vec::new();
    whole.read_to_end(&mut bytes).map_err(fail)?;
    parse(file, &bytes)
}

/// Reads what is in a file, which may be compressed.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Numbered, DataError> {
    if !is_folded(bytes) {
        return read_lines(file, bytes);
    }
    let fail = |source| DataError::Io { file: file.to_owned(), source };
    let mut allowance = Allowance::new(bytes.len() as u64);
    let mut unfolded = Vec::new();
    unfold(bytes, &mut allowance).read_to_end(&mut unfolded).map_err(fail)?;
    read_lines(file, Cursor::new(unfolded))
}

/// Samples, features and labels of a header.
fn header(line: &str) -> Option<[usize; 3]> {
    let mut numbers = line.split_ascii_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(samples)), Some(Ok(features)), Some(Ok(labels)), None) => Some([samples, features, labels]),
        _ => None,
    }
}

fn read_lines(file: &Path, mut from: impl BufRead) -> Result<Numbered, DataError> {
    let mut said = None;
    let mut found = Numbered {
        inputs: Lists::new(u32::MAX as usize),
        targets: Lists::new(u32::MAX as usize),
        features: 1,
        labels: 0,
        has_header: false,
        has_feature_0: false,
    };
    let mut row = Row::default();
    let mut text = String::new();
    for number in 1.. {
        text.clear();
        let fail = |source| DataError::Io { file: file.to_owned(), source };
        if from.read_line(&mut text).map_err(fail)? == 0 {
            break;
        }
        let line = text.trim_end_matches(['\n', '\r']);
        if number == 1
            && let Some(sizes) = header(line)
        {
            for (what, size) in [("features", sizes[1]), ("labels", sizes[2])] {
                if !(1..=MOST as usize + 1).contains(&size) {
                    let what =
                        format!("{size} {what}: the header must say at least 1 and at most {}", u64::from(MOST) + 1);
                    return Err(SvmlightError::Line { file: file.to_owned(), line: 1, what }.into());
                }
            }
            said = Some(sizes);
            (found.features, found.labels, found.has_header) = (sizes[1], sizes[2], true);
            continue;
        }
        let (line, has_comment) = line.split_once('#').map_or((line, false), |(before, _)| (before, true));
        // With a header, an empty line is a sample without labels and features, as long as samples are to come.
        let is_over = said.is_none_or(|[samples, ..]| found.inputs.len() >= samples);
        if line.trim().is_empty() && (has_comment || is_over) {
            continue;
        }
        let wrong = |what| SvmlightError::Line { file: file.to_owned(), line: number, what };
        row.read(line, said).map_err(wrong)?;
        if let Some(&last) = row.labels.last() {
            found.labels = found.labels.max(last as usize + 1);
        }
        if let Some(&last) = row.indices.last() {
            found.features = found.features.max(last as usize + 1);
        }
        found.has_feature_0 |= row.indices.first() == Some(&0);
        found.inputs.push(&row.indices, &row.values);
        found.targets.push(&row.labels, &[]);
    }
    let file = file.to_owned();
    match said {
        Some([expected, ..]) if expected != found.inputs.len() => {
            Err(SvmlightError::Samples { file, expected, got: found.inputs.len() }.into())
        }
        _ if found.inputs.is_empty() => Err(SvmlightError::Empty { file }.into()),
        _ => Ok(Numbered { inputs: found.inputs.narrowed(), targets: found.targets.narrowed(), ..found }),
    }
}

/// A line's labels and features, sorted.
#[derive(Debug, Default)]
struct Row {
    labels: Vec<u32>,
    pairs: Vec<(u32, f32)>,
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl Row {
    fn read(&mut self, line: &str, said: Option<[usize; 3]>) -> Result<(), String> {
        self.labels.clear();
        self.pairs.clear();
        // Without a label a line begins with a space, or at once with a feature.
        let (labels, features) = match line.split_once([' ', '\t']) {
            Some((first, _)) if first.contains(':') => ("", line),
            Some((labels, features)) => (labels, features),
            None if line.contains(':') => ("", line),
            None => (line, ""),
        };
        // Sizes of a header fit.
        let bound = |what: usize| said.map_or(MOST, |sizes| sizes[what] as u32 - 1);
        let beyond = |what: &str, number: u32, bound: u32| match said {
            Some(_) => format!("{what} {number}: the header says {} {what}s, from 0", u64::from(bound) + 1),
            None => format!("{what} {number}: must be at most {bound}"),
        };
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            match label.parse() {
                Ok(label) if label <= bound(2) => self.labels.push(label),
                Ok(label) => return Err(beyond("label", label, bound(2))),
                Err(_) => return Err(format!("label {label:?}: must be a whole number from 0")),
            }
        }
        for pair in features.split_ascii_whitespace() {
            let parsed =
                pair.split_once(':').and_then(|(index, value)| Some((index.parse().ok()?, value.parse().ok()?)));
            match parsed {
                Some((index, value)) if index <= bound(1) && f32::is_finite(value) => self.pairs.push((index, value)),
                Some((_, value)) if !f32::is_finite(value) => {
                    return Err(format!("{pair:?}: the value must be finite"));
                }
                Some((index, _)) => return Err(beyond("feature", index, bound(1))),
                // A query's number, of rankings.
                None if pair.starts_with("qid:") => {}
                None => return Err(format!("{pair:?}: must be FEATURE:VALUE, such as 17:0.25")),
            }
        }
        self.labels.sort_unstable();
        self.labels.dedup();
        self.pairs.sort_unstable_by_key(|&(index, _)| index);
        if let Some(twice) = self.pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("feature {}: must occur once in a line", twice[0].0));
        }
        self.indices.clear();
        self.values.clear();
        self.indices.extend(self.pairs.iter().map(|(index, _)| index));
        self.values.extend(self.pairs.iter().map(|(_, value)| value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    fn load_text(train: &str, test: Option<&str>, trained: Option<Numbering>) -> Result<Dataset, String> {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let samples = write("train.txt", train);
        let test = test.map(|text| write("test.txt", text));
        let loaded = load(&SvmlightOptions { samples, test, test_fraction: 0.5 }, trained);
        loaded.map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    }

    fn rows(split: &Split) -> Vec<(Vec<u32>, Vec<u32>, Vec<f32>)> {
        let (Inputs::Lists(inputs), Targets::Labels(labels)) = (&split.inputs, &split.targets) else { panic!("lists") };
        let row = |i| (labels.row(i).to_vec(), inputs.row(i).to_vec(), inputs.values(i).to_vec());
        (0..split.len()).map(row).collect()
    }

    #[test]
    fn the_repositorys_format_is_read() {
        let data = load_text("3 7 5\n0,2 1:0.5 6:1 4:-2\n3 0:1\r\n 2:0.5\n", Some("1 7 5\n4 6:1\n"), None).unwrap();
        assert_eq!((data.classes, data.features(), data.train.len(), data.test.len()), (5, 7, 3, 1));
        let expected = [(vec![0, 2], vec![1, 4, 6], vec![0.5, -2.0, 1.0]), (vec![3], vec![0], vec![1.0])];
        assert_eq!(rows(&data.train)[..2], expected);
        assert_eq!(rows(&data.train)[2], (vec![], vec![2], vec![0.5]));
    }

    /// LIBSVM's files number features from 1, others from 0, and either may have comments.
    #[test]
    fn files_without_a_header_say_how_they_are_numbered() {
        let data = load_text("1 1:0.5 3:1 # a comment\n\n0 qid:3 2:1\n", Some("2 4:1\n"), None).unwrap();
        assert_eq!((data.classes, data.features()), (3, 4));
        assert_eq!(rows(&data.train)[0], (vec![1], vec![0, 2], vec![0.5, 1.0]));
        let data = load_text("1 1:0.5 3:1\n", Some("0 0:1\n"), None).unwrap();
        assert_eq!((data.features(), rows(&data.train)[0].1.clone()), (4, vec![1, 3]));
    }

    #[test]
    fn wrong_files_are_refused() {
        let error = |text: &str| load_text(text, Some("0 1:1\n"), None).unwrap_err();
        for (text, message) in [
            ("a 1:2\n", "line 1: label \"a\": must be a whole number from 0"),
            ("-1 1:2\n", "line 1: label \"-1\": must be a whole number from 0"),
            ("0 1:2\n0 1;2\n", "line 2: \"1;2\": must be FEATURE:VALUE, such as 17:0.25"),
            ("0 1:nan\n", "line 1: \"1:nan\": the value must be finite"),
            ("0 1:1 1:2\n", "line 1: feature 1: must occur once in a line"),
            ("1 3 2\n2 0:1\n", "line 2: label 2: the header says 2 labels, from 0"),
            ("1 3 2\n0 3:1\n", "line 2: feature 3: the header says 3 features, from 0"),
            ("2 3 2\n0 1:1\n", "has 1 sample; its header says 2"),
            ("\n", "has no sample"),
        ] {
            assert!(error(text).contains(message), "{text:?}: {}", error(text));
        }
        let trained = Some(Numbering { features: 4, labels: 2, first_feature: 1 });
        let known = load_text("0 5:1\n", None, trained).unwrap_err();
        assert!(known.contains("has feature 5; the model knows features 1 to 4"), "{known}");
        let known = load_text("0 0:1\n", None, trained).unwrap_err();
        assert!(known.contains("has feature 0; the model knows features 1 to 4"), "{known}");
        let labels = load_text("3 1:1\n", None, trained).unwrap_err();
        assert!(labels.contains("has label 3; the model knows labels 0 to 1"), "{labels}");
        assert!(error("1 0 2\n0 0:1\n").contains("line 1: 0 features: the header must say at least 1"));
        assert!(error("1 5000000000 2\n0 0:1\n").contains("line 1: 5000000000 features: the header must say"));
        assert!(error("0 4294967295:1\n").contains("feature 4294967295: must be at most"));
    }

    /// A model's numbering holds for files that do not show it; so does a header's for the test set.
    #[test]
    fn the_numbering_stays() {
        let from_0 = Some(Numbering { features: 4, labels: 2, first_feature: 0 });
        let data = load_text("0 1:1\n", Some("0 3:1\n"), from_0).unwrap();
        assert_eq!((rows(&data.train)[0].1.clone(), rows(&data.test)[0].1.clone()), (vec![1], vec![3]));
        let data = load_text("1 4 1\n0 0:1\n", Some("0 2:1\n"), None).unwrap();
        assert_eq!(rows(&data.test)[0].1, [2]);
        let data = load_text("0 2:1\n", Some("1 4 1\n0 0:1\n"), None).unwrap();
        assert_eq!((rows(&data.train)[0].1.clone(), rows(&data.test)[0].1.clone()), (vec![1], vec![0]));
        // Comments and empty lines behind the samples count for nothing; no feature at all is no feature.
        let data = load_text("2 4 1\n# a comment\n0 0:1\n\n\n", Some("0\n"), None).unwrap();
        assert_eq!((data.train.len(), rows(&data.train)[1].1.len(), rows(&data.test)[0].1.len()), (2, 0, 0));
        let data = load_text("0 1:1\n0 2:1\n", Some("0\n"), None).unwrap();
        assert_eq!((data.features(), rows(&data.test)[0].1.len()), (2, 0));
    }
}
