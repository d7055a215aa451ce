//! The methods, one file each, and their registry.
//!
//! A new method is a file with its `INFO`, and an entry in the registry.

mod redistribution;
#[cfg(test)]
mod test_loop;

use crate::method::{Method, MethodError, MethodInfo, MethodOptions};

macro_rules! registry {
    ($($file:ident),+ $(,)?) => {
        $(pub mod $file;)+

        static REGISTRY: &[&MethodInfo] = &[$(&$file::INFO),+];
    };
}

registry!(
    dense,
    static_mask,
    snip,
    set,
    snfs,
    deepr,
    dsr,
    dnw,
    gmp,
    rigl,
    gse,
    granet,
    mest,
    srigl,
    chts,
    chtss,
    lottery
);

/// All methods.
pub fn methods() -> impl Iterator<Item = &'static MethodInfo> {
    REGISTRY.iter().copied()
}

/// The names of all methods.
pub fn method_names() -> impl Iterator<Item = &'static str> {
    methods().map(|info| info.name)
}

/// The method of this name.
///
/// # Errors
/// If there is none, with the names there are.
///
/// ```
/// assert_eq!(rigl::find_method("rigl")?.name, "rigl");
/// let error = rigl::find_method("riggle").unwrap_err().to_string();
/// assert!(error.starts_with("unknown method `riggle`; choose one of dense, static, snip, "), "{error}");
/// # Ok::<(), rigl::MethodError>(())
/// ```
pub fn find_method(name: &str) -> Result<&'static MethodInfo, MethodError> {
    methods().find(|info| info.name == name).ok_or_else(|| {
        let known = method_names().collect::<Vec<_>>().join(", ");
        MethodError::Unknown { got: name.to_owned(), known }
    })
}

/// Builds the method of this name.
///
/// # Errors
/// If there is none; if it cannot follow the schedule's loop semantics; if a parameter is not one of its own, or has an
/// impossible value.
///
/// ```
/// use std::collections::BTreeMap;
/// use rigl::{MethodOptions, ScheduleOptions, UpdateSchedule, build_method};
/// let mut options = MethodOptions {
///     schedule: UpdateSchedule::new(ScheduleOptions::for_steps(1000))?,
///     seed: 1,
///     growth_batches: 1,
///     total_steps: 1000,
///     parameters: BTreeMap::from([("ema".to_owned(), "0.99".to_owned())]),
/// };
/// assert_eq!(build_method("snfs", &options)?.name(), "snfs");
/// let error = build_method("rigl", &options).unwrap_err();
/// assert_eq!(error.to_string(), "method rigl has no parameter `ema`; it takes none");
/// options.parameters.insert("ema".to_owned(), "2".to_owned());
/// let error = build_method("snfs", &options).unwrap_err().to_string();
/// assert_eq!(error, "method snfs: parameter ema is `2`; it must be at least 0 and below 1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn build_method(name: &str, options: &MethodOptions) -> Result<Box<dyn Method>, MethodError> {
    let info = find_method(name)?;
    if let Some(got) = options.parameters.keys().find(|key| info.parameters.iter().all(|p| p.name != **key)) {
        let known = info.parameters.iter().map(|p| p.name).collect();
        return Err(MethodError::UnknownParameter { method: info.name, got: got.clone(), known });
    }
    (info.build)(info, options)
}
