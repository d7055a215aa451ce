//! Every shader parses and validates, with no GPU and no driver, within what every implementation of WebGPU grants.
#![cfg(feature = "gpu")]

use std::path::PathBuf;

use wgpu::naga::front::wgsl;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu::naga::{AddressSpace, GlobalVariable, Handle, Module};

fn shaders() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut shaders: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wgsl"))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    shaders.sort();
    shaders
}

fn module(path: &str, source: &str) -> Module {
    let module = wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string_with_path(source, path)));
    // No capability beyond the core: no subgroups, no f16, no immediates.
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
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
        let module = module(&path, &source);
        assert!(!module.entry_points.is_empty(), "{path} has no entry point");
    }
}

/// The limits of the baseline: 8 storage buffers an entry point.
#[test]
fn no_kernel_has_more_buffers_than_every_device_grants() {
    for (path, source) in shaders() {
        let module = module(&path, &source);
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
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
