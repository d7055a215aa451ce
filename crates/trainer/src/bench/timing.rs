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
    const NONE: Self = Self { time: Duration::MAX, calls: 0 };

    /// Calls for the length of a turn, the first time untimed.
    fn turn(&mut self, mut call: impl FnMut()) {
        let turn = Instant::now();
        call();
        loop {
            let start = Instant::now();
            call();
            self.time = self.time.min(start.elapsed());
            self.calls += 1;
            if turn.elapsed() >= TURN {
                break;
            }
        }
    }

    /// The duration in nanoseconds.
    pub fn nanoseconds(&self) -> u64 {
        u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The duration in seconds.
    pub fn seconds(&self) -> f64 {
        self.time.as_secs_f64()
    }
}

/// Calls `first` and `second` in turns of 30 ms until `budget` is spent and each was called `least_calls` times;
/// returns the best of each.
///
/// Other load on the machine then disturbs both sides alike, and the best calls are those that it disturbed least. A
/// turn is more than one call, so that a side's best call finds the caches as its own calls leave them, not as the other
/// side's do.
pub fn alternate(budget: Duration, least_calls: usize, mut first: impl FnMut(), mut second: impl FnMut()) -> [Best; 2] {
    let mut best = [Best::NONE; 2];
    let start = Instant::now();
    while best[0].calls.min(best[1].calls) < least_calls || start.elapsed() < budget {
        best[0].turn(&mut first);
        best[1].turn(&mut second);
    }
    best
}

/// As [`alternate`], with one side only.
pub fn repeat(budget: Duration, least_calls: usize, mut call: impl FnMut()) -> Best {
    let mut best = Best::NONE;
    let start = Instant::now();
    while best.calls < least_calls || start.elapsed() < budget {
        best.turn(&mut call);
    }
    best
}

/// How long one side is called before it is the other's turn. Each turn begins with a call that does not count.
const TURN: Duration = Duration::from_millis(30);

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
        let call = |name: char| {
            std::thread::sleep(TURN / 2);
            order.borrow_mut().push(name);
        };
        let [a, b] = alternate(Duration::ZERO, 2, || call('a'), || call('b'));
        let order = order.into_inner();
        let turns = order.chars().zip(order.chars().skip(1)).filter(|(a, b)| a != b).count() + 1;
        assert!(order.starts_with("aa") && turns >= 2 && turns.is_multiple_of(2), "{order}");
        assert!(a.calls >= 2 && b.calls >= 2 && a.time >= TURN / 2, "{a:?} {b:?}");
        let mut calls = 0;
        let alone = repeat(Duration::ZERO, 1, || calls += 1);
        assert!(alone.calls >= 1 && calls > alone.calls);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_told() {
        assert!(peak_rss_bytes().unwrap() > 100_000);
    }
}
