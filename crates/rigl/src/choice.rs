//! Choices by name: one name each, the same as text, in files and on a command line.

use thiserror::Error;

/// A name that is none of the choices.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown {what} `{got}`; choose one of {known}")]
pub struct UnknownChoice {
    /// What is chosen.
    pub what: &'static str,
    /// Name found.
    pub got: String,
    /// The names there are.
    pub known: String,
}

/// An enum whose values have names: as text, for serde and, with the feature `clap`, on the command line.
macro_rules! choices {
    ($(#[$meta:meta])* $type:ident, $what:literal: $($(#[$value_meta:meta])* $value:ident = $name:literal),+ $(,)?) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
        pub enum $type {
            $($(#[$value_meta])* #[serde(rename = $name)] #[cfg_attr(feature = "clap", value(name = $name))] $value),+
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$value => $name),+ })
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::UnknownChoice;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($name => Ok(Self::$value),)+
                    _ => Err($crate::UnknownChoice { what: $what, got: text.to_owned(), known: [$($name),+].join(", ") }),
                }
            }
        }
    };
}
pub(crate) use choices;
