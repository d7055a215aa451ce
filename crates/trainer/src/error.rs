//! The error of a command: what happened, and how the process ends for it.

use std::fmt::{self, Display, Formatter};

/// How a command ends without its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line, the configuration or a file that it names must change.
    Usage,
    /// It was asked to stop.
    Interrupted,
    /// It failed.
    Failure,
}

/// An error that knows its kind, and so becomes an [`Error`] with `?`.
pub trait Kinded: std::error::Error + Send + Sync + 'static {
    /// Its kind. Errors within it have no say, unless it asks them.
    fn kind(&self) -> Kind;
}

/// `kinded!(Usage: A, B)`: errors of these types are always of this kind.
macro_rules! kinded {
    ($kind:ident: $($error:ty),+) => {$(
        impl $crate::error::Kinded for $error {
            fn kind(&self) -> $crate::error::Kind {
                $crate::error::Kind::$kind
            }
        }
    )+};
}
pub(crate) use kinded;

kinded!(Usage: rigl::DistributionError, rigl::ScheduleError);
kinded!(Failure: std::io::Error, std::num::TryFromIntError, serde_json::Error, autograd::Error);
kinded!(Failure: rigl::MethodError, rigl::TopologyError, sparse_kernels::FormatError, sparse_kernels::ShapeError);

impl Kinded for sparse_kernels::BackendError {
    fn kind(&self) -> Kind {
        if matches!(self, Self::IsaUnavailable { .. }) { Kind::Usage } else { Kind::Failure }
    }
}

/// What ends a command.
#[derive(Debug)]
pub struct Error {
    /// How.
    pub kind: Kind,
    /// An error of any type, and what was being done.
    pub cause: anyhow::Error,
}

/// The result of a function whose errors end a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Each cause once, also where an error says its cause itself.
impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for cause in self.cause.chain().map(ToString::to_string) {
            if !text.contains(&cause) {
                let separator = if text.is_empty() { "" } else { ": " };
                text += &format!("{separator}{cause}");
            }
        }
        f.write_str(&text)
    }
}

impl std::error::Error for Error {}

impl<E: Kinded> From<E> for Error {
    fn from(error: E) -> Self {
        Self { kind: error.kind(), cause: error.into() }
    }
}

/// A failure that no type describes.
impl From<String> for Error {
    fn from(message: String) -> Self {
        Self { kind: Kind::Failure, cause: anyhow::Error::msg(message) }
    }
}

/// Adds to an error what was being done; the kind stays.
pub trait Context<T> {
    /// The function is called only for an error.
    fn context<C: Display + Send + Sync + 'static>(self, context: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context<C: Display + Send + Sync + 'static>(self, context: impl FnOnce() -> C) -> Result<T> {
        self.map_err(Into::into).map_err(|Error { kind, cause }| Error { kind, cause: cause.context(context()) })
    }
}
