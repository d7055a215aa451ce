//! Profiles for people.

use sparse_kernels::profile::KernelTime;

use crate::report::{Significant, Table};

/// Kernels by time, the longest first: launches, time and bytes of one of so many steps, and rates.
pub fn profile_table(profile: &[KernelTime], steps: u64) -> Table<7> {
    let mut sorted: Vec<&KernelTime> = profile.iter().collect();
    sorted.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
    let total: f64 = profile.iter().map(|time| time.nanoseconds).sum();
    let steps = steps.max(1) as f64;
    let mut table = Table::new(["kernel", "launches", "time", "share", "bytes", "bytes/s", "flop/s"]);
    let mut row = |name: &str, time: &KernelTime| {
        let seconds = time.nanoseconds / 1e9;
        let rate = |amount: u64| format!("{} G", Significant(amount as f64 / seconds.max(1e-12) / 1e9));
        table.row([
            name.to_owned(),
            Significant(time.launches as f64 / steps).to_string(),
            format!("{} ms", Significant(1e3 * seconds / steps)),
            format!("{:.1}%", 100.0 * time.nanoseconds / total.max(1e-12)),
            format!("{} MB", Significant(time.bytes as f64 / 1e6 / steps)),
            rate(time.bytes),
            if time.operations == 0 { "–".to_owned() } else { rate(time.operations) },
        ]);
    };
    sorted.iter().for_each(|time| row(time.name, time));
    let sum = sorted.iter().fold(KernelTime::default(), |sum, time| KernelTime {
        name: "all",
        launches: sum.launches + time.launches,
        nanoseconds: sum.nanoseconds + time.nanoseconds,
        bytes: sum.bytes + time.bytes,
        operations: sum.operations + time.operations,
    });
    row("all", &sum);
    table
}
