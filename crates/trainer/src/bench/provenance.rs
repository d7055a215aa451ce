//! What a figure was measured with, and when.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sysinfo::{CpuRefreshKind, RefreshKind, System};

/// In each record of a benchmark, so that records of two machines or two builds can be told apart and compared.
#[derive(Debug, Clone, Serialize)]
pub struct Provenance {
    /// The processor's name.
    processor: &'static str,
    /// Of this program.
    version: &'static str,
    /// That the program was built from, followed by `-dirty` if files differed from it; null if it was built outside git.
    commit: Option<&'static str>,
    /// When it was measured: `2026-11-29T17:05:55Z`.
    date: String,
}

impl Provenance {
    /// That of a measurement made now.
    pub fn now() -> Self {
        static PROCESSOR: OnceLock<String> = OnceLock::new();
        let processor = PROCESSOR.get_or_init(|| {
            let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
            system.cpus().first().map_or("unknown".to_owned(), |cpu| cpu.brand().trim().to_owned())
        });
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let commit = option_env!("RIGL_COMMIT");
        Self { processor, version: env!("CARGO_PKG_VERSION"), commit, date: utc(seconds) }
    }
}

/// Date and time of so many seconds after the beginning of 1970.
fn utc(seconds: u64) -> String {
    // Years begin in March here, so that the leap day is a year's last, and are counted in cycles of 400.
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (400 * cycle + year + month / 10, (month + 2) % 12 + 1);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_795_971_955, "2026-11-29T17:05:55Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_processor_has_a_name() {
        assert!(!Provenance::now().processor.is_empty());
    }
}
