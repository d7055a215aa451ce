//! The methods, one file each, and their registry.
//!
//! A new method is a file with a type that implements [`Method`], a `NAME` and a `build`, and a line in the registry.

mod dense;
mod rigl;
mod set;
mod static_mask;
#[cfg(test)]
mod test_loop;

use crate::method::{Method, MethodError, MethodOptions};

pub use dense::Dense;
pub use rigl::RigL;
pub use set::Set;
pub use static_mask::StaticMask;

type Constructor = fn(&MethodOptions) -> Result<Box<dyn Method>, MethodError>;

const REGISTRY: &[(&str, Constructor)] = &[
    (dense::NAME, dense::build),
    (static_mask::NAME, static_mask::build),
    (set::NAME, set::build),
    (rigl::NAME, rigl::build),
];

/// The names of all methods.
pub fn method_names() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|(name, _)| *name)
}

/// Builds the method of this name.
///
/// # Errors
/// If there is none, with the names there are; or if the method cannot follow the schedule's loop semantics.
///
/// ```
/// use rigl::{MethodOptions, ScheduleOptions, UpdateSchedule, build_method};
/// let options = MethodOptions { schedule: UpdateSchedule::new(ScheduleOptions::for_steps(1000))?, seed: 1, growth_batches: 1 };
/// assert_eq!(build_method("rigl", &options)?.name(), "rigl");
/// let error = build_method("riggle", &options).unwrap_err();
/// assert_eq!(error.to_string(), "method `riggle` is unknown, it must be one of dense, static, set, rigl");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn build_method(name: &str, options: &MethodOptions) -> Result<Box<dyn Method>, MethodError> {
    match REGISTRY.iter().find(|(known, _)| *known == name) {
        Some((_, build)) => build(options),
        None => {
            let known = method_names().collect::<Vec<_>>().join(", ");
            Err(MethodError::Unknown { got: name.to_owned(), known })
        }
    }
}
