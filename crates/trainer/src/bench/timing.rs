//! Best-of-many timing.

use std::time::{Duration, Instant};

/// The shortest of many calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Best {
    /// Its duration.
    pub time: Duration,
    /// How many calls were timed.
    pub calls: usize,
}

impl Best {
    /// The duration in nanoseconds.
    pub fn nanoseconds(&self) -> u64 {
        u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The duration in seconds.
    pub fn seconds(&self) -> f64 {
        self.time.as_secs_f64()
    }
}

/// Calls `first` and `second` in turn, once unmeasured and then until `budget` is spent and each was called
/// `least_calls` times; returns the best of each. Other load on the machine then disturbs both sides alike, and the
/// best calls are those that it disturbed least.
pub fn alternate(budget: Duration, least_calls: usize, mut first: impl FnMut(), mut second: impl FnMut()) -> [Best; 2] {
    let time = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        start.elapsed()
    };
    first();
    second();
    let start = Instant::now();
    let mut best = [Duration::MAX; 2];
    let mut calls = 0;
    while calls < least_calls || start.elapsed() < budget {
        best[0] = best[0].min(time(&mut first));
        best[1] = best[1].min(time(&mut second));
        calls += 1;
    }
    best.map(|time| Best { time, calls })
}

/// The most memory that this process has held, where the system tells it (Linux).
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_alternate() {
        let order = std::cell::RefCell::new(String::new());
        let [a, b] = alternate(Duration::ZERO, 3, || order.borrow_mut().push('a'), || order.borrow_mut().push('b'));
        assert_eq!(order.into_inner(), "abababab");
        assert_eq!((a.calls, b.calls), (3, 3));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_told() {
        assert!(peak_rss_bytes().unwrap() > 100_000);
    }
}
