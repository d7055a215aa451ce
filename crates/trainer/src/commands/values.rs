//! Values on the command line that more than one command takes.

use std::time::Duration;

/// Names of choices as they stand in records, from those of the command line.
macro_rules! display_as_value {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value().expect("no value is hidden");
                f.pad(value.get_name())
            }
        }
    )+};
}
pub(super) use display_as_value;

pub(super) fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|&number| number > 0.0 && number.is_finite());
    number.ok_or_else(|| "it must be a finite number above 0".to_owned())
}

pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    Duration::try_from_secs_f64(parse_positive(text)?).map_err(|error| error.to_string())
}

/// Seconds, of a time with its unit.
pub(super) fn parse_time(text: &str) -> Result<f64, String> {
    let found = ranks::seconds(text).filter(|&seconds| seconds > 0.0);
    found.ok_or_else(|| "it must be a time above 0 such as 27ms, 1.5s or 300us".to_owned())
}

pub(super) fn parse_not_negative(text: &str) -> Result<f64, String> {
    let power = text.parse::<f64>().ok().filter(|&power| power >= 0.0 && power.is_finite());
    power.ok_or_else(|| "it must be a finite number of at least 0".to_owned())
}

pub(super) fn parse_places(text: &str) -> Result<usize, String> {
    let places = text.parse().ok().filter(|&places| places >= 3);
    places.ok_or_else(|| "it must be a whole number of at least 3: both ends and a place between them".to_owned())
}

pub(super) fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "it must be a whole number of at least 1".to_owned())
}
