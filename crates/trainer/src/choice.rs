//! Choices by name: the same names on the command line, in files and in records.

/// Enums whose values are named on the command line, in files and in records by the same kebab-case names.
macro_rules! choices {
    ($($(#[$meta:meta])* $name:ident { $($(#[$value_meta:meta])* $value:ident),+ $(,)? })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$value_meta])* $value),+ }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let value = clap::ValueEnum::to_possible_value(self).expect("no value is hidden");
                f.pad(value.get_name())
            }
        }
    )+};
}
pub(crate) use choices;

/// Serde by `Display` and `FromStr`.
macro_rules! serde_through_text {
    ($($name:ident),+) => {$(
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse().map_err(|rule| format!("invalid value {text:?}: {rule}"))
            }
        }
    )+};
}
pub(crate) use serde_through_text;
