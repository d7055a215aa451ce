//! What the table of settings becomes.

/// Makes of groups of settings: a struct of options a group, for the command line; [`TrainOptions`](super::TrainOptions), all of
/// them as given or not, for files; and [`TrainConfig`](super::TrainConfig), all of them as in effect, with their checks.
///
/// A setting is `name: Type = default, …;`, or without a default `name: Type, …;`, whose value in effect is then an `Option`.
/// What may follow, in this order: `arg(…)`, attributes of clap; `read(…)`, attributes of serde for files that users write; `stated TEXT`, what the help says of the default beside its
/// value; `saved(…)`, attributes of serde for a run's file; `must RULE` and `needs RULE`, functions of the settings in effect that
/// return what a value must be, or what an option needs to have an effect, where it is not or has not.
macro_rules! settings {
    ($(
        $(#[doc = $group_doc:literal])+
        $group:ident in $heading:expr => {$(
            $(#[doc = $doc:literal])+
            $name:ident: $type:ty $(= $default:expr)?
                $(, arg($($arg:tt)*))? $(, read($($read:tt)*))? $(, stated $stated:literal)? $(, saved($($saved:tt)*))?
                $(, must $must:expr)? $(, needs $needs:expr)?;
        )+}
    )+) => {
        $(
            $(#[doc = $group_doc])+
            #[derive(Debug, Clone, Default, PartialEq, clap::Args)]
            pub struct $group {$(
                $(#[doc = $doc])+
                #[arg(long, help_heading = $heading, help = help(
                    concat!($($doc),+),
                    [$(stated::<$type>(&$default),)? $(Some($stated.to_owned()),)? None],
                ) $(, $($arg)*)?)]
                pub $name: Option<$type>,
            )+}

            impl From<&$group> for TrainOptions {
                fn from(group: &$group) -> Self {
                    Self { $($name: group.$name.clone(),)+ ..Self::default() }
                }
            }
        )+

        /// The settings of a training run, each given or not.
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        pub struct TrainOptions {$($(
            $(#[doc = $doc])+
            $(#[serde($($read)*)])?
            pub $name: Option<$type>,
        )+)+}

        impl TrainOptions {
            /// Names of the settings that are given.
            pub fn given(&self) -> Vec<&'static str> {
                let names = [$($(self.$name.as_ref().map(|_| stringify!($name)),)+)+];
                names.into_iter().flatten().collect()
            }

            /// These, and where one is not given, that of `other`.
            #[must_use]
            pub fn or(self, other: impl Into<Self>) -> Self {
                let other = other.into();
                Self {$($($name: self.$name.or(other.$name),)+)+}
            }
        }

        impl clap::FromArgMatches for TrainOptions {
            fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
                Ok(Self::default()$(.or(&$group::from_arg_matches(matches)?))+)
            }

            fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?.or(std::mem::take(self));
                Ok(())
            }
        }

        impl clap::Args for TrainOptions {
            fn augment_args(command: clap::Command) -> clap::Command {
                $(let command = $group::augment_args(command);)+
                command
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                Self::augment_args(command)
            }
        }

        /// Everything that decides a training run.
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub struct TrainConfig {$($(
            $(#[doc = $doc])+
            $(#[serde($($saved)*)])?
            pub $name: in_effect!($type $(, $default)?),
        )+)+}

        impl TrainConfig {
            /// What is given, else the defaults of the table.
            pub(super) fn of_table(given: &TrainOptions) -> Self {
                Self {$($($name: or_default!(given.$name.clone() $(, $default)?),)+)+}
            }

            /// Checks the values by the table's rules.
            pub(super) fn check_values(&self) -> Result<(), ConfigError> {
                $($($(check(stringify!($name), &self.$name, self, $must)?;)?)+)+
                Ok(())
            }

            /// Options of the command line must do something.
            pub(crate) fn check_effect(&self, given: &TrainOptions) -> Result<(), ConfigError> {
                $($($(
                    if given.$name.is_some() {
                        effect(stringify!($name), self, $needs)?;
                    }
                )?)+)+
                Ok(())
            }
        }
    };
}
pub(super) use settings;

/// The type of a setting in effect.
macro_rules! in_effect {
    ($type:ty, $default:expr) => { $type };
    ($type:ty) => { Option<$type> };
}
pub(super) use in_effect;

/// A setting in effect.
macro_rules! or_default {
    ($given:expr, $default:expr) => {
        $given.unwrap_or_else(|| $default)
    };
    ($given:expr) => {
        $given
    };
}
pub(super) use or_default;
