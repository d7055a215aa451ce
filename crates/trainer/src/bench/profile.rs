//! Profiles for people.

use std::time::Duration;

use ranks::{StepTrace, Totals};
use sparse_kernels::profile::KernelTime;

use crate::report::{Significant, Table, wrapped};

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

/// What sums over ranks took, mean over the steps, and the buckets of the last step.
pub fn rank_times_text(trace: &StepTrace, totals: Totals) -> String {
    let steps = totals.steps.max(1);
    let text = |time: Duration| format!("{} ms", Significant(1e3 * time.as_secs_f64()));
    let mean = |time: Duration| text(time / steps);
    let parts = [
        format!(
            "sums over ranks, mean of {steps} steps: {} buckets",
            Significant(f64::from(totals.buckets) / f64::from(steps))
        ),
        format!(
            "{} from the first bucket to the last sum, {} of it overlapped with the backward pass",
            mean(totals.under_way),
            mean(totals.hidden())
        ),
        format!(
            "waited {} for sums, {} for growth, {} for losses",
            mean(totals.waited),
            mean(totals.growth),
            mean(totals.other)
        ),
    ];
    let mut table = Table::new(["bucket of the last step", "numbers", "sent", "received", ""]);
    for (i, bucket) in trace.buckets.iter().enumerate() {
        let when = if bucket.done <= trace.backward { "during the backward pass" } else { "after it" };
        table.row([(i + 1).to_string(), bucket.len.to_string(), text(bucket.sent), text(bucket.done), when.to_owned()]);
    }
    format!(
        "{}
{table}the backward pass ended at {}, counted from its first gradient
",
        wrapped(&parts),
        text(trace.backward)
    )
}
