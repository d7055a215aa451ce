//! Interconnects by bandwidth and latency, and ranks whose interconnect is made as slow as one.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Exchange, Ranks, RanksError, Transport};

/// What connects ranks. A rank sends one message after the other, and receives likewise at the same time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interconnect {
    /// Bytes a second, each way.
    pub bandwidth: f64,
    /// Seconds from sending a byte to receiving it.
    pub latency: f64,
    /// Seconds that a message keeps its sender busy, however short it is.
    pub message: f64,
}

/// A number with a unit. Units have a factor and a divisor, so that 20us is the float nearest to 0.00002.
fn quantity(text: &str, units: &[(&str, f64, f64)]) -> Option<f64> {
    let (unit, times, by) = units.iter().find(|(unit, ..)| text.ends_with(unit))?;
    let number: f64 = text[..text.len() - unit.len()].trim_end().parse().ok()?;
    Some(number * times / by).filter(|number| number.is_finite() && *number >= 0.0)
}

/// Seconds of a time with its unit: s, ms or us.
pub fn seconds(text: &str) -> Option<f64> {
    quantity(text, &[("us", 1.0, 1e6), ("µs", 1.0, 1e6), ("ms", 1.0, 1e3), ("s", 1.0, 1.0)])
}

/// The default time of a message: an assumption, not a measurement.
const MESSAGE: f64 = 1e-6;

impl Interconnect {
    /// Seconds that a rank is busy with this many bytes.
    pub fn seconds(self, bytes: f64) -> f64 {
        bytes / self.bandwidth
    }
}

/// Text that describes no interconnect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an interconnect; write bandwidth and latency, such as 10Gbit/s,20us (units Gbit/s, Mbit/s, GB/s, MB/s; s, ms, us), \
     optionally followed by the sender's time per message, such as 10Gbit/s,20us,1us"
)]
pub struct InterconnectError {
    text: String,
}

impl Default for Interconnect {
    /// 10 Gbit/s, 20 µs and 1 µs per message.
    fn default() -> Self {
        Self { bandwidth: 1.25e9, latency: 20e-6, message: MESSAGE }
    }
}

impl FromStr for Interconnect {
    type Err = InterconnectError;

    fn from_str(text: &str) -> Result<Self, InterconnectError> {
        let parsed = || {
            let mut parts = text.split(',').map(str::trim);
            let units = [("Gbit/s", 1e9, 8.0), ("Mbit/s", 1e6, 8.0), ("GB/s", 1e9, 1.0), ("MB/s", 1e6, 1.0)];
            let bandwidth = quantity(parts.next()?, &units).filter(|&bandwidth| bandwidth > 0.0)?;
            let latency = seconds(parts.next()?)?;
            let message = parts.next().map_or(Some(MESSAGE), seconds)?;
            parts.next().is_none().then_some(Self { bandwidth, latency, message })
        };
        parsed().ok_or_else(|| InterconnectError { text: text.to_owned() })
    }
}

impl fmt::Display for Interconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bandwidth, latency, message } = self;
        write!(f, "{}Gbit/s,{}us,{}us", bandwidth * 8.0 / 1e9, latency * 1e6, message * 1e6)
    }
}

/// Ranks whose messages take as long as on a slower interconnect: an exchange completes one latency after its bytes have been sent, and
/// exchanges queue behind each other. The transport's own time comes on top where it is longer.
#[derive(Debug)]
pub struct Slowed {
    ranks: Ranks,
    interconnect: Interconnect,
    /// When this rank's interconnect is free again.
    free: Mutex<Instant>,
}

impl Slowed {
    /// These ranks on this interconnect.
    pub fn new(ranks: Ranks, interconnect: Interconnect) -> Self {
        Self { ranks, interconnect, free: Mutex::new(Instant::now()) }
    }

    /// When an exchange is done that begins now, and in which a rank sends and receives so many bytes in so many messages.
    fn due(&self, [sent, received]: [usize; 2], messages: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = self.interconnect.seconds(sent.max(received) as f64) + messages as f64 * self.interconnect.message;
        *free = (*free).max(Instant::now()) + Duration::from_secs_f64(busy);
        *free + Duration::from_secs_f64(self.interconnect.latency)
    }
}

impl Transport for Slowed {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn count(&self) -> usize {
        self.ranks.count()
    }

    fn exchange(
        &self,
        number: u64,
        messages: Vec<Vec<u8>>,
        lengths: Vec<usize>,
    ) -> Result<Box<dyn Exchange>, RanksError> {
        let me = self.rank();
        let others = |lengths: &mut dyn Iterator<Item = usize>| -> usize {
            lengths.enumerate().filter(|(rank, _)| *rank != me).map(|(_, length)| length).sum()
        };
        let bytes = [others(&mut messages.iter().map(Vec::len)), others(&mut lengths.iter().copied())];
        let sent = messages.iter().enumerate().filter(|(rank, message)| *rank != me && !message.is_empty()).count();
        let due = self.due(bytes, sent);
        Ok(Box::new(SlowedExchange { exchange: self.ranks.exchange(number, messages, lengths)?, due }))
    }

    fn sum(&self, number: u64, numbers: Vec<f32>) -> Result<Box<dyn Exchange>, RanksError> {
        let (count, bytes) = (self.count(), size_of_val(&numbers[..]));
        let due = self.due([2 * bytes * (count - 1) / count; 2], 2 * (count - 1));
        Ok(Box::new(SlowedExchange { exchange: self.ranks.sum(number, numbers)?, due }))
    }

    fn abort(&self, code: u8) -> ! {
        self.ranks.abort(code)
    }
}

#[derive(Debug)]
struct SlowedExchange {
    exchange: Box<dyn Exchange>,
    due: Instant,
}

impl Exchange for SlowedExchange {
    fn is_done(&mut self) -> Result<bool, RanksError> {
        Ok(self.exchange.is_done()? && Instant::now() >= self.due)
    }

    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>, RanksError> {
        let messages = self.exchange.wait()?;
        std::thread::sleep(self.due.saturating_duration_since(Instant::now()));
        Ok(messages)
    }
}

/// These ranks on this interconnect, if there is one.
pub fn on_interconnect(ranks: Ranks, interconnect: Option<Interconnect>) -> Ranks {
    match interconnect {
        Some(interconnect) => Arc::new(Slowed::new(ranks, interconnect)),
        None => ranks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::local_ranks;

    #[test]
    fn interconnects_have_units() {
        let parsed =
            |text: &str| text.parse().map(|Interconnect { bandwidth, latency, message }| [bandwidth, latency, message]);
        assert_eq!(parsed("10Gbit/s,20us"), Ok([1.25e9, 20e-6, 1e-6]));
        assert_eq!(parsed("100 MB/s, 1.5ms"), Ok([1e8, 1.5e-3, 1e-6]));
        assert_eq!(parsed("1Gbit/s,0s,0us"), Ok([1.25e8, 0.0, 0.0]));
        for wrong in [
            "",
            "10",
            "10Gbit/s",
            "0Gbit/s,1us",
            "-1GB/s,1us",
            "1GB/s,-1us",
            "1GB/s,1",
            "infGB/s,1us",
            "1GB/s,1us,1us,1us",
        ] {
            assert!(parsed(wrong).unwrap_err().to_string().contains("10Gbit/s,20us"), "{wrong}");
        }
        let interconnect: Interconnect = "10Gbit/s,20us".parse().unwrap();
        assert_eq!(interconnect.to_string().parse(), Ok(interconnect));
    }

    #[test]
    fn messages_take_their_time() {
        let interconnect = Interconnect { bandwidth: 1e6, latency: 0.01, message: 0.0 };
        std::thread::scope(|scope| {
            for rank in local_ranks(2) {
                scope.spawn(move || {
                    let slowed = Slowed::new(Arc::new(rank), interconnect);
                    let start = Instant::now();
                    let send = |number| slowed.exchange(number, vec![vec![7; 20_000]; 2], vec![20_000; 2]).unwrap();
                    let (first, second) = (send(0), send(1));
                    let messages = first.wait().unwrap();
                    let one = start.elapsed().as_secs_f64();
                    second.wait().unwrap();
                    let two = start.elapsed().as_secs_f64();
                    assert!(messages == vec![vec![7; 20_000]; 2]);
                    assert!(one >= 0.03 && two >= 0.05, "{one} s, {two} s");
                });
            }
        });
    }
}
