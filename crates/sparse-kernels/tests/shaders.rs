//! Every shader parses and validates, with no GPU and no driver, within what every implementation of WebGPU grants.
#![cfg(feature = "gpu")]

use std::path::PathBuf;

use wgpu::naga::front::wgsl;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu::naga::{AddressSpace, GlobalVariable, Handle, Module};

/// Path and text of the files in a folder of shaders.
fn files(folder: &str) -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut shaders: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wgsl"))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    shaders.sort();
    shaders
}

/// What every implementation of WebGPU has: no subgroups, no arithmetic in f16, no immediates.
const CORE: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;

fn shaders() -> Vec<(String, String)> {
    files("shaders")
}

fn module(path: &str, source: &str, capabilities: Capabilities) -> Module {
    let module = wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string_with_path(source, path)));
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if let Err(e) = validator.validate(&module) {
        panic!("{}", e.emit_to_string_with_path(source, path));
    }
    module
}

#[test]
fn every_shader_is_valid() {
    let shaders = shaders();
    assert!(shaders.len() >= 4, "only {} shaders", shaders.len());
    for (path, source) in shaders {
        let module = module(&path, &source, CORE);
        assert!(!module.entry_points.is_empty(), "{path} has no entry point");
    }
}

/// Those for subgroups: a file has an entry point, or a function that stands in for another shader's.
#[test]
fn every_shader_for_subgroups_is_valid() {
    let shaders = files("shaders/subgroups");
    assert!(shaders.len() >= 2, "only {} shaders", shaders.len());
    for (path, source) in shaders {
        let module = module(&path, &source, CORE | Capabilities::SUBGROUP);
        assert!(module.entry_points.len() + module.functions.len() > 0, "{path} has no function");
    }
}

/// The limits of the baseline: 8 storage buffers an entry point.
#[test]
fn no_kernel_has_more_buffers_than_every_device_grants() {
    for (path, source) in shaders() {
        let module = module(&path, &source, CORE);
        let mut validator = Validator::new(ValidationFlags::all(), CORE);
        let info = validator.validate(&module).unwrap();
        for (i, entry) in module.entry_points.iter().enumerate() {
            let used = |(handle, variable): (Handle<GlobalVariable>, &GlobalVariable)| {
                let is_storage = matches!(variable.space, AddressSpace::Storage { .. });
                is_storage && !info.get_entry_point(i)[handle].is_empty()
            };
            let buffers = module.global_variables.iter().filter(|&(handle, variable)| used((handle, variable))).count();
            assert!(buffers <= 8, "{path}: {} uses {buffers} storage buffers", entry.name);
        }
    }
}
