//! Variants of kernels whose invocations exchange numbers within a subgroup.
//!
//! A variant is a kernel's own text with one function in place of another, so that there is one loop to read and to trust. It
//! gives the same bits.

use super::kernel::{Kernel, Launch, Work, Write};
use super::shaders;
use super::{Gpu, Indices};
use crate::{BackendError, Storage};

static PROBE: Kernel = Kernel::new("probe", shaders::PROBE, &[Write]);
/// Invocations of the probe.
const PROBED: usize = 128;
/// Neighbours that exchange numbers.
const NEIGHBOURS: u32 = 8;

/// The text of a shader with `function` in place of its own of that name.
///
/// # Panics
/// If it has none: shaders are part of the program.
pub(super) fn with_function(source: &str, function: &str) -> String {
    let named = function.lines().find(|line| line.starts_with("fn ")).unwrap_or_default();
    let head = named.split_inclusive('(').next().unwrap_or_default();
    let own = source.find(&format!("\n{head}")).filter(|_| !head.is_empty());
    let start = own.unwrap_or_else(|| panic!("the shader has no function `{head}`")) + 1;
    // Functions end with the first brace at the start of a line.
    let len = source[start..].find("\n}\n").map_or(source.len() - start, |end| end + 3);
    format!("{}{function}{}", &source[..start], &source[start + len..])
}

impl Gpu {
    /// Whether kernels let neighbours exchange numbers within subgroups: [`GpuOptions::portable`](super::GpuOptions) does not
    /// forbid it, the device can, has no subgroups of fewer than eight, and gives neighbours places side by side, which is
    /// looked at once.
    ///
    /// # Errors
    /// If the device fails.
    pub fn has_subgroup_exchange(&self) -> Result<bool, BackendError> {
        let report = self.report();
        let [least, most] = report.subgroup_sizes;
        if !self.device.may_use_subgroups || !report.has_subgroups || least < NEIGHBOURS || most > PROBED as u32 {
            return Ok(false);
        }
        if let Some(&known) = self.subgroup_exchange.get() {
            return Ok(known);
        }
        let found: Indices = self.index_zeros(PROBED)?;
        self.launch(&Launch {
            kernel: &PROBE,
            constants: &[],
            params: &[],
            operands: &[found.whole()],
            workgroups: 1,
            work: Work::words(PROBED),
        })?;
        let mut host = [0; PROBED];
        self.read_all(&[&found], &mut [&mut host])?;
        Ok(*self.subgroup_exchange.get_or_init(|| host == [1; PROBED]))
    }
}

#[cfg(test)]
mod tests {
    use wgpu::naga::front::wgsl;
    use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

    use super::with_function;
    use crate::gpu::sddmm;

    #[test]
    fn variants_are_valid() {
        for kernel in sddmm::variants() {
            let show = |e: &dyn std::fmt::Display| panic!("{}: {e}", kernel.name);
            let module = wgsl::parse_str(kernel.source).unwrap_or_else(|e| show(&e.emit_to_string(kernel.source)));
            assert!(kernel.source.contains("subgroupShuffleXor"), "{}", kernel.name);
            let capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
            let mut validator = Validator::new(ValidationFlags::all(), capabilities);
            if let Err(e) = validator.validate(&module) {
                show(&e.emit_to_string(kernel.source));
            }
        }
    }

    #[test]
    fn functions_are_replaced_whole() {
        let source = "// of two\nfn one() {\n    if (x) {\n    }\n}\n\nfn two(a: u32) {\n}\n\nfn three() {\n}\n";
        let text = with_function(source, "// new\nfn one() -> u32 {\n    return 1u;\n}\n");
        assert_eq!(
            text,
            "// of two\n// new\nfn one() -> u32 {\n    return 1u;\n}\n\nfn two(a: u32) {\n}\n\nfn three() {\n}\n"
        );
        assert_eq!(with_function(source, "fn three() {\n    y();\n}\n").lines().last(), Some("}"));
    }

    #[test]
    #[should_panic(expected = "no function `fn four(`")]
    fn a_function_that_is_not_there_is_no_variant() {
        let _ = with_function("fn one() {\n}\n", "fn four() {\n}\n");
    }
}
