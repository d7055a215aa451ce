//! `rigl bench compare`: two files of records of `rigl bench`, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::records;
use crate::report::{Significant, Table, nanoseconds_text, print_record, print_text};

/// `rigl bench compare`.
#[derive(Debug, Args)]
pub struct BenchCompareArgs {
    /// Records, as `rigl bench kernel --json` and `rigl bench step --json` print them; of several of one case, the
    /// fastest counts
    #[arg(value_name = "A.jsonl")]
    pub first: PathBuf,
    /// Records to compare with these
    #[arg(value_name = "B.jsonl")]
    pub second: PathBuf,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// A record of either command, or a line that only says what was measured with.
#[derive(Debug, Deserialize)]
struct Record {
    event: Option<String>,
    op: Option<String>,
    format: Option<String>,
    shape: Option<String>,
    stride: Option<usize>,
    groups: Option<usize>,
    pattern: Option<String>,
    dtype: Option<String>,
    model: Option<String>,
    batch_size: Option<usize>,
    distribution: Option<String>,
    threads: Option<usize>,
    density: Option<f64>,
    time_ns: Option<u64>,
    dense_time_ns: Option<u64>,
    /// Of records before `processor`, in a line of their own.
    machine: Option<String>,
    processor: Option<String>,
    device: Option<String>,
    isa: Option<String>,
    version: Option<String>,
    commit: Option<String>,
    date: Option<String>,
}

/// What was measured: the same in both files, wherever and with whatever it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    name: String,
    /// Rounded to three digits, and negative, so that the densest is first.
    density: i64,
}

/// Cases of one file alone that are named for people.
const MOST_NAMED: usize = 4;

/// Density 1 as [`Case::density`].
const ONE: f64 = -1e9;

/// Best nanoseconds, of the sparse side and of the dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    time: u64,
    dense: Option<u64>,
}

/// A file.
#[derive(Debug, Default)]
struct Side {
    cases: BTreeMap<Case, Times>,
    /// What they were measured with.
    settings: BTreeSet<String>,
}

/// What `--json` prints of a case.
#[derive(Debug, Serialize)]
struct CaseRecord<'a> {
    event: &'static str,
    case: &'a str,
    density: f64,
    time_ns: [u64; 2],
    /// The second time over the first.
    time_ratio: f64,
    /// Of each file, against its dense side.
    speedup: [Option<f64>; 2],
}

/// What `--json` prints at the end.
#[derive(Debug, Serialize)]
struct SummaryRecord<'a> {
    event: &'static str,
    settings: [&'a BTreeSet<String>; 2],
    cases: usize,
    /// The geometric mean.
    time_ratio: f64,
    only_in_one: [Vec<String>; 2],
}

impl Record {
    /// The case, if it is one, and what it was measured with.
    fn parts(&self) -> (Option<(Case, Times)>, String) {
        let date = self.date.as_deref().map(|date| date.split('T').next().unwrap_or(date).to_owned());
        let version = self.version.as_ref().map(|version| format!("version {version}"));
        let commit = self.commit.as_ref().map(|commit| format!("commit {commit}"));
        let device = self.device.clone().filter(|device| device != "cpu");
        let machine = self.processor.clone().or_else(|| self.machine.clone());
        let settings = [machine, device, self.isa.clone(), version, commit, date];
        let settings = settings.into_iter().flatten().collect::<Vec<_>>().join(", ");
        let case = || {
            let density = 10f64.powf(self.density?.log10().floor() - 2.0);
            let density = ((self.density? / density).round() * density * ONE).round() as i64;
            Some((Case { name: self.name()?, density }, Times { time: self.time_ns?, dense: self.dense_time_ns }))
        };
        (case(), settings)
    }

    fn name(&self) -> Option<String> {
        let beyond_one = |name: &str, value: Option<usize>| value.filter(|&v| v > 1).map(|v| format!("{name} {v}"));
        let unless = |usual: &str, value: &Option<String>| value.clone().filter(|value| value != usual);
        let parts = match self.event.as_deref()? {
            "kernel" => vec![
                self.op.clone(),
                self.shape.clone(),
                beyond_one("stride", self.stride),
                beyond_one("groups", self.groups),
                unless("uniform", &self.pattern),
                unless("f32", &self.dtype),
            ],
            "step" => vec![
                Some(format!("step {}", self.model.as_ref()?)),
                Some(format!("batch {}", self.batch_size?)),
                unless("erk", &self.distribution),
            ],
            _ => return None,
        };
        let parts = parts.into_iter().chain([self.format.clone(), beyond_one("threads", self.threads)]);
        Some(parts.flatten().collect::<Vec<_>>().join(" "))
    }
}

impl Side {
    fn read(path: &Path) -> crate::Result<Self> {
        let records = records::read(path, |line: Value| Record::deserialize(line).map(Some))?;
        let mut side = Self::default();
        for (case, settings) in records.iter().map(Record::parts) {
            if !settings.is_empty() {
                side.settings.insert(settings);
            }
            if let Some((case, times)) = case {
                let best = side.cases.entry(case).or_insert(times);
                if times.time < best.time {
                    *best = times;
                }
            }
        }
        if side.cases.is_empty() {
            let command = "rigl bench kernel --json or rigl bench step --json";
            return Err(format!("{}: holds no record of {command} with a time", path.display()).into());
        }
        Ok(side)
    }
}

impl Case {
    fn density(&self) -> f64 {
        self.density as f64 / ONE
    }

    fn text(&self) -> String {
        format!("{} at {}", self.name, Significant(self.density()))
    }
}

impl Times {
    fn speedup(self) -> Option<f64> {
        Some(self.dense? as f64 / self.time as f64)
    }
}

/// Runs the command.
///
/// # Errors
/// If a file cannot be read, or the two have no case in common.
pub fn run(args: &BenchCompareArgs) -> crate::Result<()> {
    let paths = [&args.first, &args.second];
    let [first, second] = [Side::read(paths[0])?, Side::read(paths[1])?];
    let mut table = Table::new(["case", "density", "A", "B", "B / A", "A, speed-up", "B, speed-up"]);
    let mut logs = Vec::new();
    for (case, &a) in &first.cases {
        let Some(&b) = second.cases.get(case) else { continue };
        let time_ratio = b.time as f64 / a.time as f64;
        let speedup = [a, b].map(Times::speedup);
        logs.push(time_ratio.ln());
        if args.json {
            let (density, time_ns) = (case.density(), [a.time, b.time]);
            print_record(&CaseRecord { event: "case", case: &case.name, density, time_ns, time_ratio, speedup })?;
        }
        let [of_a, of_b] = speedup.map(|speedup| speedup.map_or("–".to_owned(), |speedup| format!("{speedup:.2}")));
        let times = [a, b].map(|times| nanoseconds_text(times.time));
        let [time_a, time_b] = times;
        let density = Significant(case.density()).to_string();
        table.row([case.name.clone(), density, time_a, time_b, format!("{time_ratio:.2}"), of_a, of_b]);
    }
    let only = |here: &Side, there: &Side| -> Vec<String> {
        here.cases.keys().filter(|case| !there.cases.contains_key(case)).map(Case::text).collect()
    };
    let only_in_one = [only(&first, &second), only(&second, &first)];
    if logs.is_empty() {
        let [a, b] = [&only_in_one[0][0], &only_in_one[1][0]];
        let [path_a, path_b] = paths.map(|path| path.display());
        return Err(format!("{path_a} and {path_b} have no case in common; they begin with {a} and {b}").into());
    }
    let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
    if args.json {
        let (settings, cases) = ([&first.settings, &second.settings], logs.len());
        print_record(&SummaryRecord { event: "summary", settings, cases, time_ratio: mean, only_in_one })?;
        return Ok(());
    }
    for ((name, path), side) in ["A", "B"].into_iter().zip(paths).zip([&first, &second]) {
        let settings = side.settings.iter().map(String::as_str).collect::<Vec<_>>().join("; ");
        print_text(format_args!("{name}: {}: {settings}", path.display()))?;
    }
    print_text(format_args!("\n{table}"))?;
    let cases = if logs.len() == 1 { "case" } else { "cases" };
    print_text(format_args!("B takes {mean:.2} times as long as A (geometric mean over {} {cases})", logs.len()))?;
    for (name, cases) in ["A", "B"].into_iter().zip(&only_in_one) {
        if !cases.is_empty() {
            let shown = cases.len().min(MOST_NAMED);
            let more = match cases.len() - shown {
                0 => String::new(),
                more => format!(" and {more} more, which --json lists"),
            };
            print_text(format_args!("only in {name}: {}{more}", cases[..shown].join("; ")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r#"{"machine":"old core","commit":"abc","isa":"avx2"}
{"event":"kernel","op":"spmm","format":"csr","shape":"8x8x16","pattern":"uniform","density":0.20312,"dtype":"f32","device":"cpu","isa":"avx2","threads":1,"time_ns":200,"dense_time_ns":600}
{"event":"kernel","op":"spmm","format":"csr","shape":"8x8x16","pattern":"uniform","density":0.1,"dtype":"f32","device":"cpu","isa":"avx2","threads":1,"time_ns":100,"dense_time_ns":600}
{"event":"kernel","op":"spmm","format":"csr","shape":"8x8x16","pattern":"uniform","density":0.05,"dtype":"f32","device":"cpu","isa":"avx2","threads":1,"time_ns":null}
"#;
    const NEW: &str = r#"{"event":"kernel","op":"spmm","format":"csr","shape":"8x8x16","pattern":"uniform","density":0.20314,"dtype":"f32","device":"cpu","isa":"avx512","threads":1,"time_ns":500,"dense_time_ns":600,"processor":"new core","version":"1","commit":"def","date":"2026-11-29T17:05:55Z"}
{"event":"kernel","op":"spmm","format":"csr","shape":"8x8x16","pattern":"uniform","density":0.20314,"dtype":"f32","device":"cpu","isa":"avx512","threads":1,"time_ns":50,"dense_time_ns":300,"processor":"new core","version":"1","commit":"def","date":"2026-11-29T17:06:55Z"}
{"event":"step","model":"wrn-10-1","batch_size":8,"distribution":"erk","format":"csr","density":0.1,"threads":2,"time_ns":7,"dense_time_ns":9}
"#;

    fn side(text: &str) -> crate::Result<Side> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, text).unwrap();
        Side::read(&path)
    }

    #[test]
    fn cases_are_the_same_whatever_they_were_measured_with() {
        let [old, new] = [OLD, NEW].map(|text| side(text).unwrap());
        // A failed check has no time.
        assert_eq!(
            old.cases.keys().map(Case::text).collect::<Vec<_>>(),
            ["spmm 8x8x16 csr at 0.203", "spmm 8x8x16 csr at 0.100"]
        );
        assert_eq!(
            new.cases.keys().map(Case::text).collect::<Vec<_>>(),
            ["spmm 8x8x16 csr at 0.203", "step wrn-10-1 batch 8 csr threads 2 at 0.100"]
        );
        let case = old.cases.keys().next().unwrap();
        assert_eq!(new.cases[case], Times { time: 50, dense: Some(300) });
        assert_eq!(new.cases[case].speedup(), Some(6.0));
        assert!(old.settings.contains("old core, avx2, commit abc"), "{:?}", old.settings);
        assert!(new.settings.contains("new core, avx512, version 1, commit def, 2026-11-29"), "{:?}", new.settings);
    }

    #[test]
    fn a_file_without_records_is_refused() {
        let message = side(r#"{"machine":"some"}"#).unwrap_err().to_string();
        assert!(message.contains("a.jsonl") && message.contains("rigl bench kernel --json"), "{message}");
        assert!(side("{}\n{").unwrap_err().to_string().contains("line 2"));
    }
}
